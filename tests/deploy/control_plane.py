"""A control plane of Modal in this process: the real client deploys to it, and what was sent can be read.

A method of `ControlPlane` is the RPC of its name, over the protobufs in the modal wheel; objects.py and functions.py
have them. It builds no image, starts nothing and gives out URLs where nobody answers; container.py runs what was
deployed. What it has no method for is refused and listed in `unknown`.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import threading
from typing import Any

from aiohttp import web
from google.protobuf.json_format import MessageToDict
from grpclib import GRPCError, Status
from grpclib.server import Server
from modal_proto import api_grpc
from modal_proto import api_pb2 as pb

from tests.deploy.functions import Functions

TOKEN = ("ak-ours", "as-ours")


class ControlPlane(Functions):
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
