"""A tier 1 that misbehaves in every way we know, before each way of being heard; secrets, redirects and origins."""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections.abc import Callable, Iterable, Iterator

import httpx
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from benchmarks.faults import hostile
from benchmarks.faults.broken_tier1 import (
    FAULTS,
    HANGS,
    BrokenTier1,
    Fault,
    Play,
    numbered,
    refuses,
    sends,
)
from benchmarks.faults.completions import whole
from benchmarks.faults.fronts import FRONTS, HTTP_FRONTS, Front
from benchmarks.faults.hostile import SPEECH, answer_of, frame, message, opened, post
from benchmarks.faults.stage import KEY, KEYED, PASSWORD, PROXY_SECRET, SECRETS, Case, Group, Stage, Tier
from orpheus.tts.token_source import STALL_TIMEOUT_S

SOON_S = STALL_TIMEOUT_S + 25  # every case is asked for at the same time
AT_ONCE = 180  # more than those that tier 2 has to wait for
MAX_TOKENS = "140"
LATE = "This came after the end. "
# What tier 1 may send so much of that reading it could keep others waiting.
HEAVY = (
    "an endless line",
    "an endless event",
    "a bomb",
    "endless audio",
    "endless audio, a token at a time",
    "an endless 500",
    "deep JSON",
    "a huge number",
    "too many headers",
    "informational answers without end",
)
FOREIGN = ("https://evil.example", "null", "http://127.0.0.1:1", "file://")
SOCKETS = ("/ws", "/v1/audio/speech/stream/ws", "/v1/audio/speech/stream", "/api/tts_streaming")
OPEN_ROUTES = (
    "/ready",
    "/health",
    "/metrics",
    "/openapi.json",
    "/v1/models",
    "/api/build_info",
    "/api/modules_info",
    "/",
)


def groups(started: contextlib.ExitStack, chosen: Callable[[Iterable[Case]], list[Case]]) -> Iterator[Group]:
    """Each with its tier, which is starting."""
    broken, another, elsewhere = (started.enter_context(BrokenTier1().served()) for _ in range(3))
    broken.faults = [fault for fault in FAULTS.values() for _ in FRONTS]
    settings = {"max_tokens": MAX_TOKENS, "max_requests": "1000"}
    settings |= {"proxy_key": "wk-4711", "proxy_secret": PROXY_SECRET}
    if faults := chosen(
        itertools.chain(_faults(broken), _heavy(broken), _after_the_end(broken), _foreign_pages())
    ):
        tier = Tier(started, "speech", {**settings, "llama_endpoint": _endpoint(broken)})
        yield Group(Stage((tier,)), faults, AT_ONCE)
    if secrets := chosen(itertools.chain(_told(another), _redirects(another, elsewhere), _keys())):
        debugged = {"llama_endpoint": _endpoint(another), "log_level": "debug", "api_keys": KEY}
        tier = Tier(started, "speech", settings | debugged)
        yield Group(Stage((tier,), KEYED), secrets, at_once=1)
    if logged := chosen(_tier_1_keys()):
        yield Group(Stage((Tier(started, "llama", {"log_level": "debug"}),)), logged, at_once=1)


def _endpoint(broken: BrokenTier1) -> str:
    return broken.url.replace("://", f"://speaker:{PASSWORD}@")


def _faults(broken: BrokenTier1) -> Iterator[Case]:
    """Those that take longest first: all run at the same time."""
    numbers = itertools.count()
    cases = [
        (
            name not in HANGS and "429" not in name,
            Case("tier 1", f"{name}, {front}", _broken(broken, fault, front, number)),
        )
        for name, fault in FAULTS.items()
        for front, number in zip(FRONTS, numbers, strict=False)
    ]
    yield from (case for _, case in sorted(cases, key=lambda case: case[0]))
    for front, listen in FRONTS.items():
        yield Case("tier 1", f"behaves, {front}", _behaves(listen))


def _broken(broken: BrokenTier1, fault: Fault, front: str, number: int) -> Callable[[Stage], str | None]:
    def listen(stage: Stage) -> str | None:
        started_s = time.monotonic()
        with stage.client() as client:
            heard = FRONTS[front](client, numbered(number))
        took_s = time.monotonic() - started_s
        if heard.complete:
            return "it was taken for complete speech"
        if took_s > SOON_S:
            return f"it took {took_s:.0f} s"
        if not heard.message:
            return "it failed without a word"
        if leaked := _leaked(heard.message, broken):
            return leaked
        if front in HTTP_FRONTS and heard.status not in (200, *fault.statuses):
            return f"it was answered {heard.status}"
        return None

    return listen


def _behaves(listen: Front) -> Callable[[Stage], str | None]:
    def run(stage: Stage) -> str | None:
        with stage.client() as client:
            heard = listen(client)
        return (
            None
            if heard.complete and len(heard.audio) > 20_000
            else f"it heard {heard.message or 'too little'}"
        )

    return run


def _leaked(text: str, broken: BrokenTier1) -> str | None:
    found = [secret for secret in (*SECRETS, broken.url.removeprefix("http://")) if secret in text]
    return f"it tells {found[0]}" if found else None


def _heavy(broken: BrokenTier1) -> Iterator[Case]:
    numbers = {name: index * len(FRONTS) for index, name in enumerate(FAULTS)}
    for name in HEAVY:
        run = _broken(broken, FAULTS[name], "audio", numbers[name])
        yield Case(
            "tier 1", f"{name}, while others ask", run, alone=name != "informational answers without end"
        )


# After the end


def _after_the_end(broken: BrokenTier1) -> Iterator[Case]:
    def packed(kind: bytes, text: str = "") -> bytes:
        said = b"\xa4text\xb9" + text.encode() if text else b""
        return frame(
            hostile.BINARY, bytes([0x81 + bool(text)]) + b"\xa4type" + bytes([0xA0 + len(kind)]) + kind + said
        )

    def plain(text: str) -> bytes:
        return frame(hostile.TEXT, text.encode())

    hello = "Hello there, how are you? "[:25]
    late = LATE
    zero = frame(hostile.BINARY, b"\0")
    config = message(type="session.config", voice="tara", stream_audio=True, response_format="pcm")
    asked = config + message(type="input.text", text=hello)
    over = message(type="session.close")
    ways: dict[str, tuple[str, bytes, bytes]] = {
        "session": ("/v1/audio/speech/stream", asked + over, message(type="input.text", text=late) * 3),
        "session, a new config": (
            "/v1/audio/speech/stream",
            asked + over,
            config + message(type="input.text", text=late),
        ),
        "session, junk": ("/v1/audio/speech/stream", asked + over, plain("{") + plain("[1]") + zero),
        "session, nothing asked": (
            "/v1/audio/speech/stream",
            config + over,
            message(type="input.text", text=late),
        ),
        "plain, JSON": (
            "/ws",
            message(type="text", text=hello) + message(type="eos"),
            message(type="text", text=late),
        ),
        "plain, msgpack": ("/ws", packed(b"Text", hello) + packed(b"Eos"), packed(b"Text", late)),
        "plain, a zero byte": ("/ws?close=eos", plain(hello) + zero, plain(late)),
        "plain, whole": ("/ws", plain(hello) + plain(""), plain(late)),
        "unmute": ("/api/tts_streaming", packed(b"Text", hello) + packed(b"Eos"), packed(b"Text", late)),
        "unmute, old": ("/api/tts_streaming", plain(hello) + zero, plain(late)),
        "unmute, junk": (
            "/api/tts_streaming",
            packed(b"Text", hello) + packed(b"Eos"),
            frame(hostile.BINARY, b"\xc1"),
        ),
    }
    for name, (path, sent, more) in ways.items():
        yield Case("after the end", name, _ended(broken, path, sent, more))


def _ended(broken: BrokenTier1, path: str, sent: bytes, more: bytes) -> Callable[[Stage], str | None]:
    def run(stage: Stage) -> str | None:
        with contextlib.closing(hostile.socket_of(stage.url, path)) as connection:
            connection.sendall(sent + more)
            answer = answer_of(connection, 30)
        if any(LATE.strip()[:20] in body for body in broken.bodies):
            return "what came after the end was spoken"
        if answer.end != "closed":
            return f"the connection is {answer.end}"
        return None if answer.close_code == 1000 else f"it was closed with {answer.close_code}"

    return run


# Origins


def _foreign_pages() -> Iterator[Case]:
    for origin in FOREIGN:
        for path in SOCKETS:
            yield Case("origins", f"{path} from {origin}", _no_socket(path, origin))
        for kind in ("text/plain", "application/json", "application/x-www-form-urlencoded"):
            headers = {"Origin": origin, "Content-Type": kind}
            yield Case("origins", f"POST of {kind} from {origin}", _forbidden("POST", headers))
    embedded = {"Sec-Fetch-Site": "cross-site"}
    yield Case("origins", "audio embedded in a foreign page", _forbidden("GET", embedded))
    yield Case("origins", "a foreign name that points here", _rebound)
    for path in SOCKETS:
        yield Case("origins", f"{path} from its own page", _own_socket(path))


def _no_socket(path: str, origin: str) -> Callable[[Stage], str | None]:
    def run(stage: Stage) -> str | None:
        try:
            with connect(
                stage.url.replace("http", "ws", 1) + path, proxy=None, additional_headers={"Origin": origin}
            ):
                return "it was accepted"
        except InvalidStatus as refused:
            status = refused.response.status_code
            return None if status == 403 else f"it was answered {status}"

    return run


def _own_socket(path: str) -> Callable[[Stage], str | None]:
    def run(stage: Stage) -> str | None:
        with connect(
            stage.url.replace("http", "ws", 1) + path, proxy=None, additional_headers={"Origin": stage.url}
        ):
            return None

    return run


def _forbidden(method: str, headers: dict[str, str]) -> Callable[[Stage], str | None]:
    def run(stage: Stage) -> str | None:
        with stage.client() as client:
            body = json.dumps({"input": "Hello."}) if method == "POST" else None
            query = {"input": "Hello."} if method == "GET" else None
            status = client.request(method, SPEECH, headers=headers, content=body, params=query).status_code
        return None if status == 403 else f"it was answered {status}"

    return run


def _rebound(stage: Stage) -> str | None:
    name = f"evil.example:{stage.tier.port}"
    return _forbidden("POST", {"Host": name, "Origin": f"http://{name}"})(stage)


# Secrets


def _told(broken: BrokenTier1) -> Iterator[Case]:
    states: dict[str, Play] = {
        "up": refuses(200, b"{}"),
        "answering 500": refuses(500, b'{"error": {"message": "worker http://u:p@tier1.internal:1 died"}}'),
        "loading": refuses(503, b'{"error": {"message": "loading"}}'),
        "silent": FAULTS["silent"].play,
        "no HTTP": FAULTS["no HTTP"].play,
    }
    for state, play in states.items():
        for route in OPEN_ROUTES:
            yield Case("secrets", f"{route} while tier 1 is {state}", _tells_nothing(broken, route, play))


def _tells_nothing(broken: BrokenTier1, route: str, health: Play) -> Callable[[Stage], str | None]:
    def run(stage: Stage) -> str | None:
        usual, broken.health = broken.health, health
        try:
            with stage.client() as client:
                answer = client.get(route)
        finally:
            broken.health = usual
        return _leaked(answer.text + str(answer.headers), broken)

    return run


def _redirects(broken: BrokenTier1, elsewhere: BrokenTier1) -> Iterator[Case]:
    targets = {
        "another port": elsewhere.url,
        "another name": elsewhere.url.replace("127.0.0.1", "localhost"),
        "https": broken.url.replace("http:", "https:"),
        "a user": elsewhere.url.replace("://", "://x:y@"),
    }
    for status, (name, url) in itertools.product((301, 302, 303, 307, 308), targets.items()):
        fault = Fault(refuses(status, b"", f"Location: {url}/v1/completions"))
        yield Case("redirects", f"{status} to {name}", _not_followed(broken, elsewhere, fault))


def _not_followed(broken: BrokenTier1, elsewhere: BrokenTier1, fault: Fault) -> Callable[[Stage], str | None]:
    def run(stage: Stage) -> str | None:
        broken.fault = fault
        try:
            with stage.client() as client:
                answer = client.post(SPEECH, json={"input": "Hello."})
        finally:
            broken.fault = Fault(sends(*whole()))
        if not any(PROXY_SECRET in head for head in broken.heads):
            return "tier 1 itself did not get the secret: this shows nothing"
        if any(
            secret in head for head in elsewhere.heads for secret in (*SECRETS, "modal-key", "authorization")
        ):
            return "another origin got the credentials"
        return None if answer.status_code == 502 else f"it was answered {answer.status_code}"

    return run


def _keys() -> Iterator[Case]:
    """At debug level nothing of a key is in the log, whichever way it comes."""
    for key in (KEY, "wrong-key-4714"):
        for name, headers in {
            "Authorization": {"Authorization": f"Bearer {key}"},
            "Basic": {"Authorization": f"Basic {key}"},
            "x-api-key": {"x-api-key": key},
            "kyutai-api-key": {"kyutai-api-key": key},
            "a cookie": {"Cookie": f"session={key}"},
            "Modal-Key": {"Modal-Key": "wk-4711", "Modal-Secret": key},
        }.items():
            yield Case("keys", f"{name}, {key[:5]}", _not_logged(key, "", headers))
        for parameter in ("api_key", "auth_id", "API_KEY", "api%5Fkey", "key", "token"):
            yield Case("keys", f"?{parameter}=, {key[:5]}", _not_logged(key, f"?{parameter}={key}", {}))


def _not_logged(key: str, query: str, headers: dict[str, str]) -> Callable[[Stage], str | None]:
    def run(stage: Stage) -> str | None:
        before = len(stage.output())
        is_speech = stage.tier.name == "speech"
        path = SPEECH if is_speech else "/v1/completions"
        body = {"input": "Hello."} if is_speech else {"prompt": "tara: Hello.", "max_tokens": 7}
        with httpx.Client(base_url=stage.url, trust_env=False, timeout=30) as client:
            client.post(path + query, json=body, headers=headers)
            client.get("/v1/models" + query, headers=headers)
            client.get(f"{SPEECH}{query or '?x=1'}&input=Hello.", headers=headers)
        if is_speech:
            url = stage.url.replace("http", "ws", 1)
            for socket_path in SOCKETS:
                with (
                    contextlib.suppress(InvalidStatus, ConnectionClosed, TimeoutError),
                    connect(f"{url}{socket_path}{query}", additional_headers=headers, proxy=None) as socket,
                ):
                    socket.send("Hello.")
                    socket.recv(2)
        time.sleep(0.1)
        said = stage.output()[before:]
        if not said:
            return "nothing was logged at all: this shows nothing"
        return "the key is in the log" if any(secret in said for secret in (key, *SECRETS)) else None

    return run


def _tier_1_keys() -> Iterator[Case]:
    key = "some-key-4715"
    for name, (query, headers) in {
        "Authorization": ("", {"Authorization": f"Bearer {key}"}),
        "x-api-key": ("", {"x-api-key": key}),
        "Modal-Secret": ("", {"Modal-Key": "wk-4711", "Modal-Secret": key}),
        "?api_key=": (f"?api_key={key}", {}),
        "?token=": (f"?token={key}", {}),
    }.items():
        yield Case("keys", f"tier 1, {name}", _not_logged(key, query, headers))
    for origin in FOREIGN:
        yield Case("origins", f"tier 1 from {origin}", _no_completion(origin))


def _no_completion(origin: str) -> Callable[[Stage], str | None]:
    def run(stage: Stage) -> str | None:
        sent = post(
            {"prompt": "x", "max_tokens": 7}, "/v1/completions", [("Origin", origin), ("Connection", "close")]
        )
        with contextlib.closing(opened(stage.url)) as connection:
            connection.sendall(sent)
            status = answer_of(connection).status
        return None if status == 403 else f"it was answered {status}"

    return run
