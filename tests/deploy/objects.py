"""The RPCs of a deployment that name no function: apps, files, images, secrets, volumes. See control_plane.py."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web
from google.protobuf.empty_pb2 import Empty
from grpclib import GRPCError, Status
from modal_proto import api_pb2 as pb

SUCCESS, FAILURE = pb.GenericResult.GENERIC_STATUS_SUCCESS, pb.GenericResult.GENERIC_STATUS_FAILURE


class Objects:
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

    def _new(self, kind: str, what: Any) -> str:
        known = next(
            (id for id, other in self._objects.items() if other == what and id.startswith(kind)), None
        )
        name = known or f"{kind}-{len(self._objects) + 1}"
        self._objects[name] = what
        return name

    # ---- RPCs: who and where

    async def ClientHello(self, _: Any) -> Any:
        return pb.ClientHelloResponse()

    async def EnvironmentGetOrCreate(self, request: Any) -> Any:
        name = request.deployment_name or "main"
        _check_environment(name)
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
        _check_environment(request.environment_name)
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


def _check_environment(name: str) -> None:
    if name not in ("", "main", "staging"):
        raise GRPCError(Status.NOT_FOUND, f"Environment '{name}' not found")
