"""Speak with the unmodified OpenAI SDK (pip install openai).

    python clients/openai_sdk.py "Some text." --voice tara --out hello.mp3

The server is ORPHEUS_FASTAPI_URL (default http://127.0.0.1:5005), the API key ORPHEUS_API_KEY.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

import openai


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", nargs="?", default="Hello, this is Orpheus, called with the OpenAI SDK.")
    parser.add_argument("--voice", default="tara", help="an Orpheus or OpenAI voice")
    parser.add_argument(
        "--out", default="hello.mp3", help="audio file to write; its extension chooses the format"
    )
    parser.add_argument("--url", default=os.environ.get("ORPHEUS_FASTAPI_URL", "http://127.0.0.1:5005"))
    options = parser.parse_args()

    client = openai.OpenAI(
        base_url=f"{options.url.rstrip('/')}/v1",
        api_key=os.environ.get("ORPHEUS_API_KEY") or "none-needed",
    )
    started = time.perf_counter()
    first = None
    try:
        with (
            client.audio.speech.with_streaming_response.create(
                model="orpheus-tts",
                voice=options.voice,
                input=options.text,
                response_format=options.out.rsplit(".", 1)[-1],
            ) as response,
            open(options.out, "wb") as file,
        ):
            for chunk in response.iter_bytes():
                first = first or time.perf_counter() - started
                file.write(chunk)
    except openai.APIStatusError as error:
        sys.exit(f"{error.status_code}: {error.message}")
    except openai.APIConnectionError as error:
        sys.exit(f"{options.url} cannot be reached: {error}")
    except OSError as error:
        sys.exit(f"{options.out} cannot be written: {error}")
    except Exception as error:  # a body that breaks off: the SDK raises whatever its HTTP library does
        os.remove(options.out)
        sys.exit(f"{options.url} broke off in the middle: {error}")
    total = time.perf_counter() - started
    print(f"{options.out}: first bytes after {first * 1000:.0f} ms, all after {total:.2f} s")


if __name__ == "__main__":
    main()
