"""A control plane of Modal in this process: the real client deploys to it, and Modal's container program runs from it.

A method named as an RPC takes its request and returns the fields of its reply, over the protobufs in the modal wheel.
RPCs without a method are refused and listed in `unknown`. No image is built, and URLs lead nowhere unless `urls` has
one. A deployed container runs with nothing but the files that were shipped; requests to `front` go to it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import inspect
import itertools
import os
import signal
import socket
import subprocess
import sys
from collections import ChainMap
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

from google.protobuf.json_format import MessageToDict
from grpclib import GRPCError, Status
from grpclib.const import Handler
from grpclib.server import Server
from modal._serialization import deserialize_data_format, serialize_data_format
from modal_proto import api_grpc
from modal_proto import api_pb2 as pb
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.types import Receive, Scope, Send

from tests.support.live import clean_environment, served

TOKEN = {"x-modal-token-id": "ak-ours", "x-modal-token-secret": "as-ours"}
PICKLE, ASGI = pb.DATA_FORMAT_PICKLE, pb.DATA_FORMAT_ASGI
SUCCESS, FAILURE = pb.GenericResult.GENERIC_STATUS_SUCCESS, pb.GenericResult.GENERIC_STATUS_FAILURE
# RPCs answered with an empty reply.
QUIET = {
    *("AppClientDisconnect", "AppHeartbeat", "AppSetTags", "ClientHello", "ContainerHello"),
    *("ContainerServerLifecycleReady", "TaskList", "VolumeCommit", "VolumeReload"),
}
SCOPE = ("type", "http_version", "method", "scheme", "path", "query_string", "headers", "subprotocols")


@dataclass
class Call:
    """An input of the container: the arguments, and for a web request its ASGI messages both ways."""

    id: str
    arguments: tuple[Any, ...]
    method: str
    to_app: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)
    from_app: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)  # the last is the call's output


@dataclass
class Container:
    process: subprocess.Popen[bytes]
    log_file: Path

    @property
    def log(self) -> str:
        return self.log_file.read_text()


class ControlPlane:
    def __init__(self) -> None:
        self.secrets = {"voice-auth": {"ORPHEUS_PROXY_KEY": "wk", "ORPHEUS_PROXY_SECRET": "ws"}}
        self.refuse: dict[str, tuple[Status, str]] = {}  # RPC → its answer
        self.slow_s: dict[str, float] = {}  # RPC → seconds before its answer
        self.results: dict[str, Any] = {}  # app → what the deploy script gets from fetch_weights, or an error
        self.urls: dict[str, str] = {}  # app → its real URL
        self.calls: list[tuple[str, Any]] = []  # RPC and request
        self.unknown: list[str] = []
        self.failure = ""  # why the container could not start
        self._count = itertools.count(1)
        self._apps: dict[str, pb.AppPublishRequest] = {}  # by id
        self._objects: dict[str, Any] = {}  # id → definition, files, image or environment
        self._content: dict[str, bytes] = {}  # sha256 → file
        self._inputs: dict[str, asyncio.Queue[Call | None]] = {}  # by function
        self._serving = ""  # the function that calls go to: a server takes none
        self._running: dict[str, Call] = {}
        self._cancelled: asyncio.Queue[str] = asyncio.Queue()

    # ---- as a server

    @contextlib.contextmanager
    def serving(self) -> Iterator[ControlPlane]:
        routes = [Route("/blob/{sha}", self._put_blob, methods=["PUT"]), Mount("/", self._front)]
        with served(Starlette(routes=routes, lifespan=self._lifespan)) as self.front:
            yield self

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        self._loop = asyncio.get_running_loop()
        server = Server([self])
        bound = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        await server.start(sock=bound)
        yield
        server.close()
        await server.wait_closed()

    @property
    def environment(self) -> dict[str, str]:
        """For a process that talks to this and to nothing else."""
        return {
            "MODAL_SERVER_URL": self.url,
            "MODAL_TOKEN_ID": TOKEN["x-modal-token-id"],
            "MODAL_TOKEN_SECRET": TOKEN["x-modal-token-secret"],
            "MODAL_CONFIG_PATH": os.devnull,
            "MODAL_DISABLE_API_PROXY": "1",
            "NO_PROXY": "127.0.0.1,localhost",
        }

    def __mapping__(self) -> dict[str, Handler]:
        """The RPCs of the wheel, for grpclib."""
        return {
            path: handler._replace(func=partial(self._handle, path.rsplit("/")[-1], handler.reply_type))
            for path, handler in api_grpc.ModalClientBase.__mapping__(Mock()).items()
        }

    async def _handle(self, name: str, reply: Any, stream: Any) -> None:
        request = await stream.recv_message()
        self.calls.append((name, request))
        inside = stream.metadata.get("x-modal-client-type") == str(pb.CLIENT_TYPE_CONTAINER)
        if not inside and any(stream.metadata.get(key) != value for key, value in TOKEN.items()):
            raise GRPCError(Status.UNAUTHENTICATED, "Token ID or secret is not valid")
        await asyncio.sleep(self.slow_s.get(name, 0))
        if name in self.refuse:
            raise GRPCError(*self.refuse[name])
        if name in QUIET:
            return await stream.send_message(reply())
        if not hasattr(self, name):
            self.unknown.append(name)
            raise GRPCError(Status.UNIMPLEMENTED, name)
        answer = getattr(self, name)(request)
        if inspect.isasyncgen(answer):
            async for fields in answer:
                await stream.send_message(reply(**fields))
        else:
            await stream.send_message(reply(**(await answer if inspect.isawaitable(answer) else answer)))

    # ---- what was deployed

    @property
    def published(self) -> list[str]:
        """Names of apps, in order."""
        return [request.name for name, request in self.calls if name == "AppPublish"]

    def function(self, app: str, tag: str) -> dict[str, Any]:
        """The definition of a function, class (`Name.*`) or server, with its references resolved."""
        definition = self._definition(app, tag)
        view: dict[str, Any] = MessageToDict(definition, preserving_proto_field_name=True)
        view["secrets"] = [id for id in definition.secret_ids if id.startswith("st-named.")]
        view["environment"] = dict(ChainMap(*(self._objects[id] for id in definition.secret_ids)))
        view["volumes"] = {m.mount_path: (m.volume_id, m.read_only) for m in definition.volume_mounts}
        view["image"] = self._image_lines(definition.image_id)
        view["files"] = self._files(definition)
        return view

    def _definition(self, app: str, tag: str) -> pb.Function:
        return self._objects[self._apps[_id("ap", app)].function_ids[tag]]

    def _files(self, definition: pb.Function) -> dict[str, bytes]:
        """Path in the container → content. Modal's own client, which is not uploaded here, is not among them."""
        mounts = [self._objects[id] for id in definition.mount_ids]
        return {path: self._content[sha] for mount in mounts for path, sha in mount.items()}

    def _image_lines(self, image_id: str) -> list[str]:
        image: pb.Image = self._objects[image_id]
        below = [line for base in image.base_images for line in self._image_lines(base.image_id)]
        return [*below, *image.dockerfile_commands]

    def _keep(self, kind: str, what: Any) -> str:
        id = f"{kind}-{next(self._count)}"
        self._objects[id] = what
        return id

    # ---- RPCs: environments and apps

    def EnvironmentGetOrCreate(self, request: Any) -> Any:
        _check_environment(request.deployment_name)
        settings = {"image_builder_version": "2026.10"}
        return {"environment_id": "en-1", "metadata": {"name": "main", "settings": settings}}

    def AppGetByDeploymentName(self, request: Any) -> Any:
        app_id = _id("ap", request.name)
        return {"app_id": app_id if app_id in self._apps else ""}

    def AppCreate(self, request: Any) -> Any:
        return {"app_id": _id("ap", request.description), "app_page_url": "https://modal.test"}

    def AppPublish(self, request: Any) -> Any:
        self._apps[request.app_id] = request
        return {"url": "https://modal.test", "deployed_at": 1.0}

    def AppGetOrCreate(self, request: Any) -> Any:
        if (app_id := _id("ap", request.app_name)) not in self._apps:
            raise GRPCError(Status.NOT_FOUND, f"App '{request.app_name}' not found")
        return {"app_id": app_id}

    def AppStop(self, request: Any) -> Any:
        del self._apps[request.app_id]
        return {}

    async def AppGetLogs(self, _: Any) -> AsyncIterator[Any]:
        yield {"app_done": True}

    def AppGetLayout(self, request: Any) -> Any:
        return {"app_layout": self._layout(request.app_id)}

    def _layout(self, app_id: str) -> pb.AppLayout:
        published = self._apps.get(app_id, pb.AppPublishRequest())
        functions, classes = published.function_ids, published.class_ids
        objects = [
            pb.Object(object_id=id, function_handle_metadata=self._metadata(id)) for id in functions.values()
        ]
        objects += [pb.Object(object_id=id, class_handle_metadata={}) for id in classes.values()]
        return pb.AppLayout(function_ids=functions, class_ids=classes, objects=objects)

    # ---- RPCs: files, images, secrets, volumes

    def MountGetOrCreate(self, request: Any) -> Any:
        files = {file.filename: file.sha256_hex for file in request.files}
        metadata = {"content_checksum_sha256_hex": "0" * 64}
        return {"mount_id": self._keep("mo", files), "handle_metadata": metadata}

    def MountBatchedCheckExistence(self, request: Any) -> Any:
        return {"missing_sha256_hex_hashes": set(request.sha256_hex_hashes) - self._content.keys()}

    def MountPutFile(self, request: Any) -> Any:
        if request.WhichOneof("data_oneof") == "data":
            self._content[request.sha256_hex] = request.data
        return {"exists": request.sha256_hex in self._content}

    def BlobCreate(self, request: Any) -> Any:
        sha = base64.b64decode(request.content_sha256_base64).hex()
        return {"blob_ids": [f"bl-{sha}"], "upload_urls": {"items": [f"{self.front}/blob/{sha}"]}}

    async def _put_blob(self, request: Request) -> Response:
        content = self._content[request.path_params["sha"]] = await request.body()
        return Response(headers={"ETag": f'"{hashlib.md5(content).hexdigest()}"'})

    def ImageGetOrCreate(self, request: Any) -> Any:
        builder = {"image_builder_version": request.builder_version}
        return {
            "image_id": self._keep("im", request.image),
            "metadata": builder,
            "result": {"status": SUCCESS},
        }

    def SecretGetOrCreate(self, request: Any) -> Any:
        _check_environment(request.environment_name)
        if not (name := request.deployment_name):
            return {"secret_id": self._keep("st", dict(request.env_dict))}
        if request.object_creation_type == pb.OBJECT_CREATION_TYPE_CREATE_FAIL_IF_EXISTS:
            self.secrets[name] = dict(request.env_dict)
        if name not in self.secrets:
            raise GRPCError(Status.NOT_FOUND, f"Secret '{name}' not found in environment 'main'")
        if missing := set(request.required_keys) - set(self.secrets[name]):
            raise GRPCError(Status.FAILED_PRECONDITION, f"Secret '{name}' is missing {sorted(missing)}")
        id = _id("st", "named", name)
        self._objects[id] = self.secrets[name]
        return {"secret_id": id, "metadata": {"name": name}}

    def VolumeGetOrCreate(self, request: Any) -> Any:
        metadata = {"version": request.version, "name": request.deployment_name}
        return {
            "volume_id": _id("vo", request.deployment_name),
            "version": request.version,
            "metadata": metadata,
        }

    # ---- RPCs: functions, classes and servers

    def FunctionPrecreate(self, request: Any) -> Any:
        id = _id("fu", request.app_id, request.function_name)
        self._objects[id] = pb.Function(
            function_name=request.function_name,
            webhook_config=request.webhook_config,
            method_definitions=request.method_definitions,
        )
        return {"function_id": id, "handle_metadata": self._metadata(id)}

    def FunctionCreate(self, request: Any) -> Any:
        id = _id("fu", request.app_id, request.function.function_name)
        self._objects[id] = request.function
        metadata = self._metadata(id)
        return {"function_id": id, "function_data": self._data(id), "handle_metadata": metadata}

    def FunctionGet(self, request: Any) -> Any:
        id = self._find(request, "function_ids")
        return {"function_id": id, "function": self._data(id), "handle_metadata": self._metadata(id)}

    def ClassCreate(self, request: Any) -> Any:
        return {"class_id": _id("cs", request.app_id), "handle_metadata": {}}

    def ClassGet(self, request: Any) -> Any:
        return {"class_id": self._find(request, "class_ids"), "handle_metadata": {}}

    def FunctionBindParams(self, request: Any) -> Any:
        id = request.function_id
        return {"bound_function_id": id, "handle_metadata": self._metadata(id)}

    def FunctionMap(self, request: Any) -> Any:
        inputs = [{"input_id": "in-1"}]
        return {"function_call_id": _id("fc", request.function_id), "pipelined_inputs": inputs}

    def FunctionGetOutputs(self, request: Any) -> Any:
        app = _app_of(request.function_call_id)
        value = self.results.get(app, f"{app}: fetched")
        result = {"status": SUCCESS, "data": serialize_data_format(value, PICKLE)}
        if isinstance(value, Exception):
            result |= {"status": FAILURE, "exception": repr(value)}
        return {"outputs": [{"result": result, "data_format": PICKLE, "idx": 0}]}

    def _find(self, request: Any, kind: str) -> str:
        found = getattr(self._apps.get(_id("ap", request.app_name)), kind, {})
        if request.object_tag not in found:
            raise GRPCError(Status.NOT_FOUND, f"No '{request.object_tag}' in app '{request.app_name}'")
        return str(found[request.object_tag])

    def _url(self, function_id: str) -> str:
        app = _app_of(function_id)
        return self.urls.get(app, f"https://{app}.modal.test")

    def _data(self, function_id: str) -> Any:
        return {"is_server": self._objects[function_id].is_server, "ranked_functions": [{"rank": 0}]}

    def _metadata(self, function_id: str) -> pb.FunctionHandleMetadata:
        definition, url = self._objects[function_id], self._url(function_id)
        metadata = pb.FunctionHandleMetadata(
            function_name=definition.function_name,
            definition_id=f"de-{function_id}",
            _experimental_flash_urls=[url] if definition.is_server else [],
        )
        for name, method in definition.method_definitions.items():
            metadata.method_handle_metadata[name].function_name = method.function_name
            metadata.method_handle_metadata[name].use_method_name = name
            if method.HasField("webhook_config"):
                metadata.method_handle_metadata[name].web_url = url
        return metadata

    # ---- RPCs of a container

    async def ContainerHeartbeat(self, _: Any) -> Any:
        with contextlib.suppress(TimeoutError):
            return {"cancel_input_event": {"input_ids": [await asyncio.wait_for(self._cancelled.get(), 10)]}}
        return {}

    async def FunctionGetInputs(self, request: Any) -> Any:
        inputs = self._inputs[request.function_id]
        if (call := await inputs.get()) is None:
            inputs.put_nowait(None)
            return {"inputs": [{"kill_switch": True}]}
        arguments = serialize_data_format((call.arguments, {}), PICKLE)
        given = {"args": arguments, "data_format": PICKLE, "method_name": call.method}
        return {"inputs": [{"input_id": call.id, "function_call_id": call.id, "input": given}]}

    async def FunctionCallGetDataIn(self, request: Any) -> AsyncIterator[Any]:
        index = request.last_index
        while call := self._running.get(request.function_call_id):
            message = serialize_data_format(await call.to_app.get(), ASGI)
            index += 1
            yield {"data_format": ASGI, "data": message, "index": index}

    def FunctionCallPutDataOut(self, request: Any) -> Any:
        if call := self._running.get(request.function_call_id):
            for chunk in request.data_chunks:
                call.from_app.put_nowait(deserialize_data_format(chunk.data, chunk.data_format, None))
        return {}

    def FunctionPutOutputs(self, request: Any) -> Any:
        for output in request.outputs:
            if call := self._running.pop(output.input_id, None):
                call.from_app.put_nowait(output)
        return {}

    def FunctionGetDynamicConcurrency(self, request: Any) -> Any:
        return {"concurrency": request.target_concurrency}

    def TaskResult(self, request: Any) -> Any:
        self.failure = request.result.exception
        return {}

    # ---- the container

    @contextlib.contextmanager
    def container(self, app: str, tag: str, root: Path, **environment: str) -> Iterator[Container]:
        """Run it in the empty folder `root`; at the end it is stopped as Modal does that."""
        definition = self._definition(app, tag)
        for path, content in self._files(definition).items():
            file = root / path.removeprefix("/root/").removeprefix("/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        app_id = _id("ap", app)
        layout = self._layout(app_id)
        for needed in definition.object_dependencies:
            volume = {"volume_metadata": {"version": 2}} if needed.object_id.startswith("vo-") else {}
            layout.objects.append(pb.Object(object_id=needed.object_id, **volume))
        arguments = pb.ContainerArguments(
            task_id="ta-1",
            function_id=self._apps[app_id].function_ids[tag],
            app_id=app_id,
            environment_name="main",
            function_def=definition,
            app_layout=layout,
        )
        (root / "arguments.bin").write_bytes(arguments.SerializeToString())
        given = clean_environment(
            MODAL_SERVER_URL=self.url,
            MODAL_IS_REMOTE="1",
            MODAL_TASK_ID="ta-1",
            MODAL_CONTAINER_ARGUMENTS_PATH=str(root / "arguments.bin"),
            **self.function(app, tag)["environment"] | {"PYTHONPATH": str(root)} | environment,
        )
        command = [sys.executable, "-m", "modal._container_entrypoint"]
        before, inputs = self._serving, asyncio.Queue[Call | None]()
        self._inputs[arguments.function_id] = inputs
        if not definition.is_server:
            self._serving = arguments.function_id
        with (root / "log.txt").open("w") as log:
            process = subprocess.Popen(command, env=given, cwd=root, stdout=log, stderr=log)
        try:
            yield Container(process, root / "log.txt")
        finally:
            self._serving = before
            if definition.is_server:
                process.send_signal(signal.SIGTERM)
            else:
                self._loop.call_soon_threadsafe(inputs.put_nowait, None)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def scale_down(self) -> None:
        """Tell the container that calls go to, as Modal does, to finish its inputs and exit."""
        self._loop.call_soon_threadsafe(self._inputs[self._serving].put_nowait, None)

    def call(self, *arguments: Any, method: str = "") -> Any:
        """Call the function of the container, or a method of its class; its result."""

        async def call() -> Any:
            return await self._send(Call(f"in-{next(self._count)}", arguments, method)).from_app.get()

        output = asyncio.run_coroutine_threadsafe(call(), self._loop).result(60)
        assert output.result.status == SUCCESS, output.result.exception
        return deserialize_data_format(output.result.data, output.data_format, None)

    async def _front(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request or WebSocket is one input, and its ASGI messages travel as Modal's do."""
        shipped = {key: scope[key] for key in SCOPE if key in scope} | {"extensions": {}}
        call = self._send(Call(f"in-{next(self._count)}", (shipped,), "web"))
        reading = asyncio.create_task(self._read(receive, call))
        try:
            while isinstance(message := await call.from_app.get(), dict):
                await send(message)
            assert message.result.status != FAILURE, message.result.exception
        finally:
            reading.cancel()

    def _send(self, call: Call) -> Call:
        self._running[call.id] = call
        self._inputs[self._serving].put_nowait(call)
        return call

    async def _read(self, receive: Receive, call: Call) -> None:
        while call.id in self._running:
            message = await receive()
            if message["type"] == "http.disconnect":
                self._cancelled.put_nowait(call.id)
                return
            call.to_app.put_nowait(message)


def _id(kind: str, *names: str) -> str:
    """The client wants exactly one dash."""
    return f"{kind}-{'.'.join(names).replace('-', '_')}"


def _app_of(id: str) -> str:
    """The app of a function or of a call."""
    return id.partition("ap_")[2].partition(".")[0].replace("_", "-")


def _check_environment(name: str) -> None:
    if name not in ("", "main", "staging"):
        raise GRPCError(Status.NOT_FOUND, f"Environment '{name}' not found")
