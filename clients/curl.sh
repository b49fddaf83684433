#!/usr/bin/env bash
# Speak with curl. Usage: clients/curl.sh ["text"] [voice] [out.mp3]
# The server is ORPHEUS_FASTAPI_URL (default http://127.0.0.1:5005), the API key ORPHEUS_API_KEY.
set -euo pipefail
url=${ORPHEUS_FASTAPI_URL:-http://127.0.0.1:5005}
text=${1:-Hello, this is Orpheus, spoken by curl.}
voice=${2:-tara}
out=${3:-hello.mp3}
format=${out##*.}

# python3 escapes the quotes, backslashes and newlines in the JSON strings.
body=$(python3 -c 'import json, sys; print(json.dumps(dict(input=sys.argv[1], voice=sys.argv[2], response_format=sys.argv[3])))' \
    "$text" "$voice" "$format")

# --no-buffer writes the bytes as they arrive. --fail-with-body keeps the server's error message and exits with 22.
curl --silent --show-error --fail-with-body --no-buffer "$url/v1/audio/speech" \
    -H 'Content-Type: application/json' \
    ${ORPHEUS_API_KEY:+-H "Authorization: Bearer $ORPHEUS_API_KEY"} \
    -d "$body" -o "$out" \
    -w "$out: %{size_download} bytes, first after %{time_starttransfer} s, all after %{time_total} s\n" \
    || { [ $? = 22 ] && { cat "$out"; echo; } >&2; rm -f "$out"; exit 1; }  # 22: the file holds the error
