// A connection of OpenAI's Realtime protocol, opened with a secret of its own: a key in a WebSocket's subprotocol may
// hold only some characters, and a browser does not tell a page why a WebSocket was refused.

import { Problem, problemOf, unreachable } from "./problems.js";

const MODEL = "orpheus";
const PATH = "v1/realtime";
const REFUSED = 1006; // what every handshake that failed is closed with

export class Realtime {
  /** `event` gets each message, `closed` the close event, unless it was closed from here. Throws a Problem. */
  static async open(key, event, closed) {
    const secret = await newSecret(key);
    const url = new URL(`${PATH}?model=${MODEL}`, document.baseURI.replace(/^http/, "ws"));
    const socket = new WebSocket(url, ["realtime", `openai-insecure-api-key.${secret}`]);
    await new Promise((opened, failed) => {
      socket.onopen = opened;
      socket.onclose = (closing) => problemOfRefusal(closing, key).then(failed);
    });
    socket.onmessage = ({ data }) => event(JSON.parse(data));
    socket.onclose = closed;
    return new Realtime(socket);
  }

  constructor(socket) {
    this._socket = socket;
  }

  send(type, fields) {
    if (this._socket.readyState === WebSocket.OPEN) this._socket.send(JSON.stringify({ type, ...fields }));
  }

  close() {
    this._socket.onmessage = this._socket.onclose = null;
    this._socket.close();
  }
}

/** A WebSocket that was never opened → a Problem. A browser keeps the answer to itself, so the server is asked by HTTP. */
async function problemOfRefusal(closing, key) {
  if (closing.code !== REFUSED) return problemOfEnd(closing);
  const response = await fetch(PATH, { headers: authorization(key) }).catch(() => null);
  if (response?.status === 429) return full(`Try again in ${response.headers.get("retry-after") ?? "a few"} s.`);
  return [401, 503].includes(response?.status) ? problemOf(response) : problemOfEnd(closing);
}

function full(todo) {
  return new Problem("The agent is full: it is talking to as many people as it can.", todo);
}

function authorization(key) {
  return key ? { Authorization: `Bearer ${key}` } : {};
}

/** A close event → a Problem, for a connection that is not opened again. */
export function problemOfEnd({ code, reason }) {
  if (code === 1013) return full(`Try again in a moment. ${reason}`.trim());
  return new Problem("The conversation broke off.", `${reason || "Is the server still running? A proxy in between must allow WebSockets."} Start again.`);
}

async function newSecret(key) {
  const headers = { "Content-Type": "application/json", ...authorization(key) };
  const response = await fetch(`${PATH}/client_secrets`, { method: "POST", headers, body: "{}" }).catch(() => null);
  if (response?.status === 404)
    throw new Problem(
      "The voice agent is not running on this server.",
      "Start the server with `make talk`, or with `orpheus talk` in the place of `orpheus serve`.",
    );
  if (!response?.ok) throw response ? await problemOf(response) : unreachable();
  return (await response.json()).value;
}
