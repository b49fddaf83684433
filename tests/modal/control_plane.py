"""A control plane of Modal in this process: the real client deploys to it, and what was sent can be read.

A method of `ControlPlane` is the RPC of its name, over the protobufs in the modal wheel. It builds no image, starts
nothing and gives out URLs where nobody answers; container.py runs what was deployed. What it has no method for is
refused and listed in `unknown`.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import os
import re
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web
from google.protobuf.empty_pb2 import Empty
from google.protobuf.json_format import MessageToDict
from grpclib import GRPCError, Status
from grpclib.server import Server
from modal._serialization import serialize_data_format
from modal_proto import api_grpc
from modal_proto import api_pb2 as pb

TOKEN = ("ak-ours", "as-ours")
SUCCESS, FAILURE = pb.GenericResult.GENERIC_STATUS_SUCCESS, pb.GenericResult.GENERIC_STATUS_FAILURE


class ControlPlane:
    """`secrets` are the keys of those that exist; the rest is what the client did, as plain data."""

    def __init__(self, **secrets: list[str]) -> None:
        self.secrets = {name.replace("_", "-"): keys for name, keys in secrets.items()}
        self.secret_values: dict[str, dict[str, str]] = {}
        self.refuse: dict[str, tuple[Status, str]] = {}  # RPC → what it answers instead
        self.results: dict[
            tuple[str, str], Any
        ] = {}  # app and function → what a call of it returns or raises
        self.urls: dict[str, str] = {}  # app → where it really is, for one that was started here
        self.calls: list[tuple[str, Any]] = []
        self.published: list[str] = []  # names of apps, in order
        self.unknown: list[str] = []
        self._objects: dict[str, Any] = {}  # id → what it is
        self._apps: dict[str, pb.AppPublishRequest] = {}
        self._app_ids: dict[str, str] = {}
        self._content: dict[str, bytes] = {}  # sha256 → file
        self._owners: dict[str, tuple[str, str]] = {}  # function → its app's name and its own
        self._called: dict[str, tuple[str, str]] = {}  # call → the same of the function called

    # ---- as a server in a thread

    def __enter__(self) -> ControlPlane:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="control-plane")
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self.loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()

    async def _start(self) -> None:
        self._server = Server([self._servicer()])
        await self._server.start("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server._server.sockets[0].getsockname()[1]}"  # type: ignore[union-attr]
        blobs = web.Application(client_max_size=1 << 30)
        blobs.router.add_put("/{blob}", self._put_blob)
        self._blobs = web.AppRunner(blobs)
        await self._blobs.setup()
        await web.TCPSite(self._blobs, "127.0.0.1", 0).start()
        self._blob_url = f"http://127.0.0.1:{self._blobs.addresses[0][1]}"

    async def _stop(self) -> None:
        await self._blobs.cleanup()
        self._server.close()
        await self._server.wait_closed()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    @property
    def environment(self) -> dict[str, str]:
        """For a process that talks to this and to nothing else."""
        return {
            "MODAL_SERVER_URL": self.url,
            "MODAL_TOKEN_ID": TOKEN[0],
            "MODAL_TOKEN_SECRET": TOKEN[1],
            "MODAL_CONFIG_PATH": os.devnull,
            "MODAL_DISABLE_API_PROXY": "1",
            "NO_PROXY": "127.0.0.1,localhost",
        }

    def _servicer(self) -> Any:
        def handler(name: str) -> Any:
            async def handle(_: Any, stream: Any) -> None:
                request = await stream.recv_message()
                self.calls.append((name, request))
                sent = (
                    stream.metadata.get("x-modal-token-id"),
                    stream.metadata.get("x-modal-token-secret"),
                )
                inside = stream.metadata.get("x-modal-client-type") == str(pb.CLIENT_TYPE_CONTAINER)
                if sent != TOKEN and not inside:
                    raise GRPCError(Status.UNAUTHENTICATED, "Token ID or secret is not valid")
                if name in self.refuse:
                    raise GRPCError(*self.refuse[name])
                method = getattr(self, name, None)
                if method is None:
                    self.unknown.append(name)
                    raise GRPCError(Status.UNIMPLEMENTED, name)
                if inspect.isasyncgenfunction(method):
                    async for message in method(request):
                        await stream.send_message(message)
                else:
                    await stream.send_message(await method(request))

            return handle

        base = api_grpc.ModalClientBase
        names = [name for name, _ in inspect.getmembers(base, inspect.isfunction) if name[0].isupper()]
        return type("Servicer", (base,), {name: handler(name) for name in names})()

    def _new(self, kind: str, what: Any) -> str:
        known = next(
            (id for id, other in self._objects.items() if other == what and id.startswith(kind)), None
        )
        name = known or f"{kind}-{len(self._objects) + 1}"
        self._objects[name] = what
        return name

    # ---- what was deployed, to be read

    def function(self, app: str, tag: str) -> dict[str, Any]:
        """The definition of a function, class (`Name.*`) or server, its references followed."""
        definition = self.definition(app, tag)
        view: dict[str, Any] = MessageToDict(definition, preserving_proto_field_name=True)
        secrets = [self._objects[id] for id in definition.secret_ids]
        view["secrets"] = [secret["name"] for secret in secrets if secret["name"]]
        view["environment"] = {key: value for secret in secrets for key, value in secret["env"].items()}
        view["volumes"] = {
            mount.mount_path: {**self._objects[mount.volume_id], "read_only": mount.read_only}
            for mount in definition.volume_mounts
        }
        view["image"] = self._image_lines(definition.image_id)
        view["files"] = self.files(definition)
        return view

    def definition(self, app: str, tag: str) -> pb.Function:
        return self._objects[self._apps[app].function_ids[tag]]

    def files(self, definition: pb.Function) -> dict[str, bytes]:
        """What was shipped with it: path in the container → content."""
        mounts = (self._objects[id] for id in definition.mount_ids if self._objects[id])
        return {
            path: self._content[sha]
            for mount in mounts
            for path, sha in mount.items()
            if sha in self._content
        }

    def _image_lines(self, image_id: str) -> list[str]:
        image: pb.Image = self._objects[image_id]
        below = [line for base in image.base_images for line in self._image_lines(base.image_id)]
        return [*below, *image.dockerfile_commands]

    # ---- RPCs: who and where

    async def ClientHello(self, _: Any) -> Any:
        return pb.ClientHelloResponse()

    async def EnvironmentGetOrCreate(self, request: Any) -> Any:
        name = request.deployment_name or "main"
        if name not in ("main", "staging"):
            raise GRPCError(Status.NOT_FOUND, f"Environment '{name}' not found")
        settings = pb.EnvironmentSettings(image_builder_version="2026.10")
        return pb.EnvironmentGetOrCreateResponse(
            environment_id="en-1", metadata=pb.EnvironmentMetadata(name=name, settings=settings)
        )

    # ---- RPCs: apps

    async def AppGetByDeploymentName(self, request: Any) -> Any:
        app_id = self._app_ids.get(request.name, "") if request.name in self._apps else ""
        return pb.AppGetByDeploymentNameResponse(app_id=app_id, environment_name="main")

    async def AppGetOrCreate(self, request: Any) -> Any:
        if request.app_name not in self._apps:
            raise GRPCError(Status.NOT_FOUND, f"App '{request.app_name}' not found")
        return pb.AppGetOrCreateResponse(app_id=self._app_ids[request.app_name])

    async def AppGetLayout(self, request: Any) -> Any:
        name = self._objects[request.app_id]
        return pb.AppGetLayoutResponse(app_layout=self.layout(name))

    def layout(self, app: str) -> pb.AppLayout:
        publish = self._apps.get(app, pb.AppPublishRequest())
        layout = pb.AppLayout(function_ids=publish.function_ids, class_ids=publish.class_ids)
        for id in publish.function_ids.values():
            layout.objects.append(pb.Object(object_id=id, function_handle_metadata=self._metadata(id)))
        for id in publish.class_ids.values():
            layout.objects.append(pb.Object(object_id=id, class_handle_metadata=pb.ClassHandleMetadata()))
        return layout

    async def AppCreate(self, request: Any) -> Any:
        app_id = self._app_ids[request.description] = self._new("ap", request.description)
        return pb.AppCreateResponse(app_id=app_id, app_page_url="https://modal.test", app_logs_url="")

    async def AppPublish(self, request: Any) -> Any:
        self.published.append(request.name)
        self._apps[request.name] = request
        return pb.AppPublishResponse(url="https://modal.test", deployed_at=time.time())

    async def AppGetLogs(self, _: Any) -> AsyncIterator[Any]:
        yield pb.TaskLogsBatch(app_done=True)

    async def AppStop(self, request: Any) -> Any:
        del self._apps[self._objects[request.app_id]]
        return Empty()

    async def TaskList(self, _: Any) -> Any:
        return pb.TaskListResponse()

    async def AppHeartbeat(self, _: Any) -> Any:
        return Empty()

    AppClientDisconnect = AppSetTags = AppHeartbeat

    # ---- RPCs: files, images, secrets, volumes

    async def MountGetOrCreate(self, request: Any) -> Any:
        files = {file.filename: file.sha256_hex for file in request.files}
        handle = pb.MountHandleMetadata(content_checksum_sha256_hex="0" * 64)
        return pb.MountGetOrCreateResponse(mount_id=self._new("mo", files), handle_metadata=handle)

    async def MountBatchedCheckExistence(self, request: Any) -> Any:
        missing = [sha for sha in request.sha256_hex_hashes if sha not in self._content]
        return pb.MountBatchedCheckExistenceResponse(missing_sha256_hex_hashes=missing)

    async def MountPutFile(self, request: Any) -> Any:
        kind = request.WhichOneof("data_oneof")
        if kind == "data":
            self._content[request.sha256_hex] = request.data
        elif kind == "data_blob_id":
            self._content[request.sha256_hex] = self._content[request.data_blob_id]
        return pb.MountPutFileResponse(exists=request.sha256_hex in self._content)

    async def BlobCreate(self, request: Any) -> Any:
        name = f"bl-{request.content_sha256_base64.encode().hex()}"
        response = pb.BlobCreateResponse(blob_ids=[name])
        response.upload_urls.items.append(f"{self._blob_url}/{name}")
        return response

    async def _put_blob(self, request: web.Request) -> web.Response:
        content = self._content[request.match_info["blob"]] = await request.read()
        return web.Response(headers={"ETag": f'"{hashlib.md5(content).hexdigest()}"'})

    async def ImageGetOrCreate(self, request: Any) -> Any:
        return pb.ImageGetOrCreateResponse(
            image_id=self._new("im", request.image),
            metadata=pb.ImageMetadata(image_builder_version=request.builder_version),
            result=pb.GenericResult(status=SUCCESS),
        )

    async def SecretGetOrCreate(self, request: Any) -> Any:
        name, keys = request.deployment_name, request.required_keys
        if request.object_creation_type == pb.OBJECT_CREATION_TYPE_CREATE_FAIL_IF_EXISTS:
            self.secrets[name], self.secret_values[name] = list(request.env_dict), dict(request.env_dict)
        if name and name not in self.secrets:
            raise GRPCError(Status.NOT_FOUND, f"Secret '{name}' not found in environment 'main'")
        if name and (missing := set(keys) - set(self.secrets[name])):
            raise GRPCError(Status.FAILED_PRECONDITION, f"Secret '{name}' is missing {sorted(missing)}")
        secret = {"name": name, "env": dict(request.env_dict)}
        return pb.SecretGetOrCreateResponse(
            secret_id=self._new("st", secret), metadata=pb.SecretMetadata(name=name)
        )

    async def VolumeGetOrCreate(self, request: Any) -> Any:
        name, version = request.deployment_name, request.version
        metadata = pb.VolumeMetadata(version=version, name=name)
        volume_id = self._new("vo", {"name": name, "version": version})
        return pb.VolumeGetOrCreateResponse(volume_id=volume_id, version=version, metadata=metadata)

    # ---- RPCs: functions, classes, servers

    async def FunctionPrecreate(self, request: Any) -> Any:
        draft = pb.Function(function_name=request.function_name, webhook_config=request.webhook_config)
        for name, method in request.method_definitions.items():
            draft.method_definitions[name].CopyFrom(method)
        id = self._function_id(request)
        self._objects.setdefault(id, draft)
        return pb.FunctionPrecreateResponse(function_id=id, handle_metadata=self._metadata(id))

    async def FunctionCreate(self, request: Any) -> Any:
        id = self._function_id(request)
        self._objects[id] = request.function
        metadata = self._metadata(id)
        return pb.FunctionCreateResponse(
            function_id=id, function_data=self._data(id), handle_metadata=metadata
        )

    def _data(self, function_id: str) -> pb.FunctionData:
        definition = self._objects[function_id]
        data = pb.FunctionData(function_name=definition.function_name, is_server=definition.is_server)
        data.ranked_functions.append(pb.FunctionData.RankedFunction(rank=0, function=definition))
        for name, url in self._urls(function_id).items():
            if name:
                data.method_definitions[name].CopyFrom(definition.method_definitions[name])
                data.method_definitions[name].web_url = url
            else:
                data.flash_service_urls.append(url)
        return data

    def _function_id(self, request: Any) -> str:
        owner = (self._objects[request.app_id], getattr(request, "function", request).function_name)
        id = request.existing_function_id or next((id for id, o in self._owners.items() if o == owner), "")
        id = id or f"fu-{len(self._owners) + 1}"
        self._owners[id] = owner
        return id

    def _urls(self, function_id: str) -> dict[str, str]:
        """Web method ("" for a server) → its URL, by Modal's rule or as `self.urls` says."""
        definition = self._objects[function_id]
        app = self._owners[function_id][0]
        web = {name: m for name, m in definition.method_definitions.items() if m.webhook_config.type}
        if definition.HasField("http_config"):
            region = definition.http_config.proxy_regions[0]
            urls = {"": f"https://ws--{app}-{_slug(definition.function_name)}.{region}.modal.direct"}
        else:
            urls = {name: f"https://ws--{app}-{_slug(m.function_name)}.modal.run" for name, m in web.items()}
        return {name: self.urls.get(app, url) for name, url in urls.items()}

    def _metadata(self, function_id: str) -> pb.FunctionHandleMetadata:
        definition, urls = self._objects[function_id], self._urls(function_id)
        metadata = pb.FunctionHandleMetadata(
            function_name=definition.function_name,
            function_type=definition.function_type,
            definition_id=f"de-{function_id}",
            class_parameter_info=definition.class_parameter_info,
            function_schema=definition.function_schema,
        )
        if "" in urls:
            metadata._experimental_flash_urls.append(urls[""])
        for name, method in definition.method_definitions.items():
            metadata.method_handle_metadata[name].CopyFrom(
                pb.FunctionHandleMetadata(
                    function_name=method.function_name,
                    function_type=method.function_type,
                    web_url=urls.get(name, ""),
                    is_method=True,
                    use_method_name=name,
                    function_schema=method.function_schema,
                )
            )
        return metadata

    async def ClassCreate(self, request: Any) -> Any:
        id = request.existing_class_id or self._new("cs", (request.app_id, len(self._objects)))
        return pb.ClassCreateResponse(class_id=id, handle_metadata=pb.ClassHandleMetadata())

    def _find(self, request: Any, kind: str) -> str:
        found = getattr(self._apps.get(request.app_name, pb.AppPublishRequest()), kind)
        if request.object_tag not in found:
            raise GRPCError(Status.NOT_FOUND, f"No '{request.object_tag}' in app '{request.app_name}'")
        return str(found[request.object_tag])

    async def FunctionGet(self, request: Any) -> Any:
        id = self._find(request, "function_ids")
        metadata = self._metadata(id)
        return pb.FunctionGetResponse(function_id=id, handle_metadata=metadata, function=self._data(id))

    async def ClassGet(self, request: Any) -> Any:
        id = self._find(request, "class_ids")
        return pb.ClassGetResponse(class_id=id, handle_metadata=pb.ClassHandleMetadata())

    async def FunctionBindParams(self, request: Any) -> Any:
        metadata = self._metadata(request.function_id)
        return pb.FunctionBindParamsResponse(bound_function_id=request.function_id, handle_metadata=metadata)

    async def FunctionMap(self, request: Any) -> Any:
        call = f"fc-{len(self._called)}"
        self._called[call] = self._owners[request.function_id]
        inputs = [pb.FunctionPutInputsResponseItem(input_id="in-1", input_jwt="")]
        return pb.FunctionMapResponse(function_call_id=call, pipelined_inputs=inputs)

    async def FunctionGetOutputs(self, request: Any) -> Any:
        value = self.results[self._called[request.function_call_id]]
        failed = isinstance(value, Exception)
        result = pb.GenericResult(
            status=FAILURE if failed else SUCCESS,
            exception=repr(value) if failed else "",
            data=serialize_data_format(value, pb.DATA_FORMAT_PICKLE),
        )
        output = pb.FunctionGetOutputsItem(result=result, data_format=pb.DATA_FORMAT_PICKLE, idx=0)
        return pb.FunctionGetOutputsResponse(outputs=[output])


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9-]+", "-", name.lower().removesuffix(".*"))
