#!/usr/bin/env bash
# Speak with curl. Usage: clients/curl.sh ["text"] [voice] [out.mp3]
# ORPHEUS_FASTAPI_URL names the server (http://127.0.0.1:5005).
set -euo pipefail
url=${ORPHEUS_FASTAPI_URL:-http://127.0.0.1:5005}
text=${1:-Hello, this is Orpheus, spoken by curl.}
voice=${2:-tara}
out=${3:-hello.mp3}
format=${out##*.}

# JSON strings need their quotes, backslashes and newlines escaped; python3 does it without surprises.
body=$(python3 -c 'import json, sys; print(json.dumps(dict(input=sys.argv[1], voice=sys.argv[2], response_format=sys.argv[3])))' \
    "$text" "$voice" "$format")

# --no-buffer: write the bytes as they come. --fail-with-body: an error is printed and is an error here too.
curl --silent --show-error --fail-with-body --no-buffer "$url/v1/audio/speech" \
    -H 'Content-Type: application/json' \
    ${ORPHEUS_API_KEY:+-H "Authorization: Bearer $ORPHEUS_API_KEY"} \
    -d "$body" -o "$out" \
    -w "$out: %{size_download} bytes, first after %{time_starttransfer} s, all after %{time_total} s\n" \
    || { [ $? = 22 ] && { cat "$out"; echo; } >&2; rm -f "$out"; exit 1; }  # 22: an answer, which says what was wrong
