// What went wrong → a sentence, and what to do about it. Knows nothing of what was tried.

const $ = (id) => document.getElementById(id);

export class Problem extends Error {
  /** `field` is the id of the field to change, where it is one. */
  constructor(message, todo = "", field = null) {
    super(message);
    this.todo = todo;
    this.field = field;
  }
}

/** A response that is an error, or none at all → a Problem. */
export async function problemOf(response) {
  if (!response) return unreachable();
  const body = await response.json().catch(() => null);
  const said = body?.error ?? {};
  const message = said.message ?? `The server answered ${response.status} ${response.statusText}.`;
  const id = response.headers.get("x-request-id");
  const inLog = id ? ` The server's log has more, under ${id}.` : "";
  switch (response.status) {
    case 401:
      return keyNeeded(apiKeyEntered());
    case 429: {
      const wait = response.headers.get("retry-after") ?? "1";
      return new Problem("The server is busy: all its places are taken.", `Try again in ${wait} s. It said: ${message}`);
    }
    case 503:
      return new Problem("The server is not ready.", `Try again in a few seconds. It said: ${message}`);
    case 400:
    case 413:
      return new Problem("The server cannot speak this.", message, said.param ?? "input");
    default:
      return new Problem(message, `Try again.${inLog}`);
  }
}

/** The reason of a WebSocket's end → a Problem. */
export function problemOfClose(event, opened) {
  if (event.reason) return new Problem(event.reason, "Change it or try again.");
  if (opened) return new Problem("The connection broke.", "What was heard until then is kept. Try again.");
  if (apiKeyEntered()) return new Problem("The WebSocket was refused.", "Check the API key, or what stands between.", "api_key");
  return new Problem(
    "The WebSocket could not be opened.",
    "Is the server still running? Where it asks for an API key, enter one. A proxy in between must let WebSockets pass.",
  );
}

export function unreachable() {
  return new Problem("The server cannot be reached.", `Is it still running at ${location.host}? Then try again.`);
}

/** Show a problem and lead to its field; null shows none. */
export function show(problem) {
  const box = $("problem");
  box.hidden = !problem;
  box.replaceChildren();
  if (!problem) return;
  const known = problem instanceof Problem ? problem : new Problem(`This page failed: ${problem.message}`, "Reload it.");
  const title = document.createElement("strong");
  title.textContent = known.message;
  box.append(title, known.todo);
  const field = known.field && $(known.field);
  if (field) {
    field.setAttribute("aria-invalid", "true");
    field.focus();
  }
}

function keyNeeded(given) {
  if (given) return new Problem("That API key is not one of this server's.", "Correct it.", "api_key");
  return new Problem("This server asks for an API key.", "Enter one of its keys.", "api_key");
}

function apiKeyEntered() {
  return $("api_key").value.trim() !== "";
}
