"""Speak over the WebSocket (pip install websockets): text in, 24 kHz samples out as they are made.

    python clients/websocket_stream.py "Some text." --voice tara --out hello.wav

ORPHEUS_FASTAPI_URL names the server (http://127.0.0.1:5005), ORPHEUS_API_KEY its key; ORPHEUS_PROXY_KEY and
ORPHEUS_PROXY_SECRET are the proxy token of one on Modal.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
import urllib.parse
import wave

import websockets

SAMPLE_RATE = 24_000
HEADERS = {
    "x-api-key": "ORPHEUS_API_KEY",
    "Modal-Key": "ORPHEUS_PROXY_KEY",
    "Modal-Secret": "ORPHEUS_PROXY_SECRET",
}


async def speak(url: str, voice: str, text: str, out: str) -> None:
    base = url.rstrip("/").replace("http", "ws", 1)
    query = urllib.parse.urlencode({"voice": voice})
    headers = {header: value for header, name in HEADERS.items() if (value := os.environ.get(name))}
    started = time.perf_counter()
    first = None
    size = 0
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        address = f"{base}/v1/audio/speech/stream/ws?{query}"
        async with websockets.connect(address, additional_headers=headers) as socket:
            await socket.send(text)
            async for samples in socket:  # ends by itself when the server closes with 1000
                first = first or time.perf_counter() - started
                size += len(samples)
                file.writeframes(samples)
    took = time.perf_counter() - started
    print(
        f"{out}: {size / 2 / SAMPLE_RATE:.2f} s of audio, "
        f"first after {(first or took) * 1000:.0f} ms, all after {took:.2f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", nargs="?", default="Hello, this is Orpheus, over a WebSocket.")
    parser.add_argument("--voice", default="tara")
    parser.add_argument("--out", default="hello.wav")
    parser.add_argument("--url", default=os.environ.get("ORPHEUS_FASTAPI_URL", "http://127.0.0.1:5005"))
    options = parser.parse_args()
    try:
        asyncio.run(speak(options.url, options.voice, options.text, options.out))
    except websockets.ConnectionClosedError as error:
        reason = error.rcvd.reason if error.rcvd else "the connection broke"
        sys.exit(f"the server closed: {reason}")
    except OSError as error:
        sys.exit(f"{options.url} cannot be reached: {error}")


if __name__ == "__main__":
    main()
