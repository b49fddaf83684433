// The request in the form → the same as a curl command, as Python, and as Python over a WebSocket.
//
// The API key is never written into them: they read ORPHEUS_API_KEY.

import { apiKey, currentRequest, mode, wordInterval } from "./form.js";
import { tabs } from "./tabs.js";

const $ = (id) => document.getElementById(id);
const OPENAI = ["model", "voice", "input", "response_format", "speed"]; // fields of the OpenAI SDK; the others go into extra_body
const MAKERS = { "tab-curl": curl, "tab-python": python, "tab-socket": socket };
let tab = "tab-curl";

export function setUp() {
  tabs($("tab-curl").parentElement, (selected) => {
    tab = selected.id;
    $("snippet").setAttribute("aria-labelledby", tab);
    show();
  });
  // Deferred, so that it runs after the listeners that change fields or the mode.
  for (const kind of ["input", "change", "click"]) $("form").addEventListener(kind, () => queueMicrotask(show));
  $("form").addEventListener("keyup", () => show());
  $("copy").addEventListener("click", copy);
  show();
}

function show() {
  $("snippet").textContent = MAKERS[tab](currentRequest());
}

function curl(request) {
  const lines = [`curl ${base()}/v1/audio/speech`, "-H 'Content-Type: application/json'"];
  if (apiKey()) lines.push('-H "Authorization: Bearer $ORPHEUS_API_KEY"');
  lines.push(`-d '${JSON.stringify(request, null, 2).replaceAll("'", `'\\''`)}'`, `-o ${fileName(request)}`);
  return lines.join(" \\\n  ");
}

function python(request) {
  const lines = OPENAI.filter((name) => name in request).map((name) => `    ${name}=${literal(request[name])},`);
  const rest = Object.entries(request).filter(([name]) => !OPENAI.includes(name));
  if (rest.length) lines.push(`    extra_body=${literal(Object.fromEntries(rest))},`);
  return `${apiKey() ? "import os\n\n" : ""}from openai import OpenAI

client = OpenAI(base_url="${base()}/v1", api_key=${apiKey() ? 'os.environ["ORPHEUS_API_KEY"]' : '"none-needed"'})
with client.audio.speech.with_streaming_response.create(
${lines.join("\n")}
) as response:
    response.stream_to_file("${fileName(request)}")
`;
}

function socket({ model, input, ...params }) {
  const byWord = mode() === "stream";
  const url = `${base().replace(/^http/, "ws")}/v1/audio/speech/stream`;
  const headers = apiKey() ? ', additional_headers={"Authorization": f"Bearer {os.environ[\'ORPHEUS_API_KEY\']}"}' : "";
  const imports = ["import json", ...(apiKey() ? ["import os"] : []), ...(byWord ? ["import re", "import time"] : [])];
  const words = `    for word in re.findall(r"\\s*\\S+", text):  # like the output of a language model
        send(type="input.text", text=word)
        time.sleep(${Number(wordInterval().toFixed(4))})`;
  return `${imports.join("\n")}

from websockets.sync.client import connect  # pip install websockets

text = ${literal(input)}
with connect("${url}"${headers}) as socket, open("${fileName(params)}", "wb") as file:

    def send(**message):
        socket.send(json.dumps(message))

    send(type="session.config", stream_audio=True, lead_s=0, **${literal(params)})
${byWord ? words : '    send(type="input.text", text=text)'}
    send(type="input.done")
    for message in socket:
        if isinstance(message, bytes):
            file.write(message)  # as it is generated
            continue
        event = json.loads(message)
        if event["type"] == "error":
            raise SystemExit(event["message"])
        if event["type"] == "session.done":
            break
`;
}

/** A JSON value as a Python literal. */
function literal(value) {
  if (value === true) return "True";
  if (value === false) return "False";
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  return `{${Object.entries(value).map(([name, one]) => `"${name}": ${literal(one)}`).join(", ")}}`;
}

function fileName({ response_format }) {
  return `speech.${response_format}`;
}

function base() {
  return new URL(".", document.baseURI).href.replace(/\/$/, "");
}

async function copy() {
  const copied = await navigator.clipboard?.writeText($("snippet").textContent).then(() => "Copied", () => null);
  if (!copied) getSelection().selectAllChildren($("snippet")); // the clipboard is only available over HTTPS
  $("copy").textContent = copied ?? "Selected";
  setTimeout(() => ($("copy").textContent = "Copy"), 2000);
}
