"""What was deployed, run by Modal's own container program with nothing but the files that were shipped.

Around it stand the RPCs a container makes and a small front end on this machine: each HTTP request or WebSocket is
one input, its ASGI messages travel as Modal's do. A server is reached at its own port.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from google.protobuf.empty_pb2 import Empty
from modal._serialization import deserialize_data_format, serialize_data_format
from modal_proto import api_pb2 as pb

from tests.deploy.control_plane import ControlPlane
from tests.deploy.objects import SUCCESS

ASGI = pb.DATA_FORMAT_ASGI


@dataclass
class Call:
    """One request or WebSocket on its way through the container."""

    id: str
    scope: dict[str, Any]
    to_app: asyncio.Queue[dict[str, Any]] = field(default_factory=asyncio.Queue)
    from_app: asyncio.Queue[dict[str, Any] | None] = field(default_factory=asyncio.Queue)


class ContainerPlane(ControlPlane):
    """A control plane that also speaks to one container. `failure` is why it could not start."""

    def __init__(self, **secrets: list[str]) -> None:
        super().__init__(**secrets)
        self.failure: str | None = None
        self._waiting: asyncio.Queue[Call | None] = asyncio.Queue()
        self._calls: dict[str, Call] = {}
        self._cancelled: asyncio.Queue[str] = asyncio.Queue()

    # ---- RPCs of a container

    async def ContainerHello(self, _: Any) -> Any:
        return Empty()

    ContainerServerLifecycleReady = ContainerHello

    async def ContainerHeartbeat(self, _: Any) -> Any:
        with contextlib.suppress(TimeoutError):
            call = await asyncio.wait_for(self._cancelled.get(), 10)
            return pb.ContainerHeartbeatResponse(cancel_input_event=pb.CancelInputEvent(input_ids=[call]))
        return pb.ContainerHeartbeatResponse()

    async def FunctionGetInputs(self, _: Any) -> Any:
        call = await self._waiting.get()
        if call is None:
            self._waiting.put_nowait(None)
            stop = pb.FunctionGetInputsItem(kill_switch=True)
            return pb.FunctionGetInputsResponse(inputs=[stop])
        data = serialize_data_format(((call.scope,), {}), pb.DATA_FORMAT_PICKLE)
        given = pb.FunctionInput(args=data, data_format=pb.DATA_FORMAT_PICKLE, method_name="web")
        item = pb.FunctionGetInputsItem(input_id=call.id, function_call_id=call.id, input=given)
        return pb.FunctionGetInputsResponse(inputs=[item])

    async def FunctionCallGetDataIn(self, request: Any) -> AsyncIterator[Any]:
        index = request.last_index
        while call := self._calls.get(request.function_call_id):
            message = serialize_data_format(await call.to_app.get(), ASGI)
            index += 1
            yield pb.DataChunk(data_format=ASGI, data=message, index=index)

    async def FunctionCallPutDataOut(self, request: Any) -> Any:
        if call := self._calls.get(request.function_call_id):
            for chunk in request.data_chunks:
                call.from_app.put_nowait(deserialize_data_format(chunk.data, chunk.data_format, None))
        return Empty()

    async def FunctionPutOutputs(self, request: Any) -> Any:
        for output in request.outputs:
            if call := self._calls.pop(output.input_id, None):
                if output.result.status != SUCCESS:
                    call.from_app.put_nowait({"type": "failed", "why": output.result.exception})
                call.from_app.put_nowait(None)
        return Empty()

    async def FunctionGetDynamicConcurrency(self, request: Any) -> Any:
        return pb.FunctionGetDynamicConcurrencyResponse(concurrency=request.target_concurrency)

    async def TaskResult(self, request: Any) -> Any:
        self.failure = request.result.exception
        return Empty()

    async def VolumeReload(self, _: Any) -> Any:
        return Empty()

    async def VolumeCommit(self, _: Any) -> Any:
        return pb.VolumeCommitResponse()

    # ---- the container

    @contextlib.contextmanager
    def container(self, app: str, tag: str, root: Path, **environment: str) -> Iterator[tuple[str, Process]]:
        """The URL of its front end and the running process; at the end it is told to go, as by Modal."""
        definition = self.definition(app, tag)
        for path, content in self.files(definition).items():
            file = root / path.removeprefix("/root/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        arguments = root / "arguments.bin"
        arguments.write_bytes(self._arguments(app, tag).SerializeToString())
        given = {
            name: value for name, value in os.environ.items() if not name.startswith(("MODAL_", "ORPHEUS_"))
        }
        given |= {
            "MODAL_SERVER_URL": self.url,
            "MODAL_IS_REMOTE": "1",
            "MODAL_TASK_ID": "ta-1",
            "MODAL_CONTAINER_ARGUMENTS_PATH": str(arguments),
            "PYTHONPATH": str(root),
        }
        given |= self.function(app, tag)["environment"] | environment
        log = (root / "log.txt").open("w")
        process = subprocess.Popen(
            [sys.executable, "-m", "modal._container_entrypoint"], env=given, cwd=root, stdout=log, stderr=log
        )
        front = asyncio.run_coroutine_threadsafe(self._open_front(), self.loop).result(10)
        try:
            yield f"http://127.0.0.1:{front.addresses[0][1]}", Process(process, root / "log.txt")
        finally:
            if process.poll() is None:
                if definition.is_server:
                    process.send_signal(signal.SIGTERM)
                else:
                    self.scale_down()
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            asyncio.run_coroutine_threadsafe(front.cleanup(), self.loop).result(10)
            log.close()

    def scale_down(self) -> None:
        """Tell the container, as Modal does, to end what it has and go."""
        self.loop.call_soon_threadsafe(self._waiting.put_nowait, None)

    def _arguments(self, app: str, tag: str) -> pb.ContainerArguments:
        definition, layout = self.definition(app, tag), self.layout(app)
        for needed in definition.object_dependencies:
            id = needed.object_id
            if id.startswith("vo-"):
                metadata = pb.VolumeMetadata(version=self._objects[id]["version"])
                layout.objects.append(pb.Object(object_id=id, volume_metadata=metadata))
            elif not id.startswith("fu-"):
                layout.objects.append(pb.Object(object_id=id))
        return pb.ContainerArguments(
            task_id="ta-1",
            function_id=self._apps[app].function_ids[tag],
            app_id=self._app_ids[app],
            environment_name="main",
            function_def=definition,
            app_layout=layout,
        )

    # ---- the front end

    async def _open_front(self) -> web.AppRunner:
        front = web.Application()
        front.router.add_route("*", "/{path:.*}", self._serve)
        runner = web.AppRunner(front, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return runner

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        socket = request.headers.get("upgrade", "").lower() == "websocket"
        scope = {
            "type": "websocket" if socket else "http",
            "http_version": "1.1",
            "method": request.method,
            "scheme": "ws" if socket else "http",
            "path": request.path,
            "query_string": request.query_string.encode(),
            "headers": [(name.lower().encode(), value.encode()) for name, value in request.headers.items()],
            "client": ("127.0.0.1", 0),
            "extensions": {},
        }
        call = Call(f"in-{len(self.calls)}", scope | ({"subprotocols": []} if socket else {}))
        self._calls[call.id] = call
        first = (
            {"type": "websocket.connect"}
            if socket
            else {"type": "http.request", "body": await request.read()}
        )
        call.to_app.put_nowait(first)
        self._waiting.put_nowait(call)
        return await (self._socket if socket else self._http)(request, call)

    async def _http(self, request: web.Request, call: Call) -> web.StreamResponse:
        response = web.StreamResponse(status=500)
        try:
            while message := await call.from_app.get():
                if message["type"] == "http.response.start":
                    response.set_status(message["status"])
                    for name, value in message["headers"]:
                        response.headers.add(name.decode(), value.decode())
                    await response.prepare(request)
                elif message["type"] == "http.response.body":
                    await response.write(message["body"])
                    if not message.get("more_body"):
                        break
        except (ConnectionResetError, asyncio.CancelledError):
            self._cancelled.put_nowait(call.id)
            raise
        if not response.prepared:
            await response.prepare(request)
        return response

    async def _socket(self, request: web.Request, call: Call) -> web.StreamResponse:
        socket = web.WebSocketResponse(max_msg_size=2 << 20, compress=False)  # Modal's limits
        reader = None
        while message := await call.from_app.get():
            match message:
                case {"type": "websocket.accept"}:
                    await socket.prepare(request)
                    reader = asyncio.create_task(self._read(socket, call))
                case {"type": "websocket.send", "bytes": bytes(content)}:
                    await socket.send_bytes(content)
                case {"type": "websocket.send", "text": str(content)}:
                    await socket.send_str(content)
                case {"type": "websocket.close"}:
                    await socket.close(code=message["code"], message=(message.get("reason") or "").encode())
        if reader is None:
            return web.Response(status=403)
        reader.cancel()
        return socket

    async def _read(self, socket: web.WebSocketResponse, call: Call) -> None:
        async for message in socket:
            if message.type == aiohttp.WSMsgType.TEXT:
                call.to_app.put_nowait({"type": "websocket.receive", "text": message.data})
            else:
                call.to_app.put_nowait({"type": "websocket.receive", "bytes": message.data})
        call.to_app.put_nowait({"type": "websocket.disconnect", "code": socket.close_code or 1005})


@dataclass
class Process:
    process: subprocess.Popen[bytes]
    log_file: Path

    @property
    def log(self) -> str:
        return self.log_file.read_text()
