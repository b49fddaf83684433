// Errors → a sentence, and what to do about it.

const $ = (id) => document.getElementById(id);

export class Problem extends Error {
  /** `field` is the id of the form field to change, if there is one. */
  constructor(message, todo = "", field = null) {
    super(message);
    this.todo = todo;
    this.field = field;
  }
}

/** A failed response, or null if there was none → a Problem. */
export async function problemOf(response) {
  if (!response) return unreachable();
  const body = await response.json().catch(() => null);
  const error = body?.error ?? {};
  const message = error.message ?? `The server answered ${response.status} ${response.statusText}.`;
  const id = response.headers.get("x-request-id");
  const inLog = id ? ` The server's log has details, under ${id}.` : "";
  switch (response.status) {
    case 401:
      return keyNeeded(apiKeyEntered());
    case 429: {
      const wait = response.headers.get("retry-after") ?? "1";
      return new Problem("The server is at capacity.", `Try again in ${wait} s. It said: ${message}`);
    }
    case 503:
      return new Problem("The server is not ready.", `Try again in a few seconds. It said: ${message}`);
    case 400:
    case 413:
      return new Problem("The server cannot speak this.", message, error.param ?? "input");
    default:
      return new Problem(message, `Try again.${inLog}`);
  }
}

/** The close event of a WebSocket → a Problem. */
export function problemOfClose(event, opened) {
  if (event.reason) return new Problem(event.reason, "Change the request or try again.");
  if (opened) return new Problem("The connection broke.", "What was received is kept. Try again.");
  if (apiKeyEntered()) return new Problem("The WebSocket was refused.", "Check the API key, and any proxy in between.", "api_key");
  return new Problem(
    "The WebSocket could not be opened.",
    "Is the server still running? If it requires an API key, enter one. A proxy in between must allow WebSockets.",
  );
}

export function unreachable() {
  return new Problem("The server cannot be reached.", `Check that it is running at ${location.host}, then try again.`);
}

/** Show a problem and focus its field; null hides it. */
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

function keyNeeded(entered) {
  if (entered) return new Problem("The server does not accept this API key.", "Correct it.", "api_key");
  return new Problem("This server requires an API key.", "Enter one.", "api_key");
}

function apiKeyEntered() {
  return $("api_key").value.trim() !== "";
}
