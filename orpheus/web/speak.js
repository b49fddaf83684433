// Speak mode: a request to `POST /v1/audio/speech`, heard while it arrives.
//
// It asks for events (`stream_format: sse`) instead of bare bytes: they carry the same bytes, say where segments begin,
// and report an error that a body could only show by breaking off.

import { decode, file, joined, readerOf } from "./formats.js";
import { Problem, problemOf, unreachable } from "./problems.js";

/** Speak `request` into `output`. Throws a Problem, or the reason of an abort. */
export async function speak(request, key, output, signal) {
  const format = request.response_format;
  const reader = readerOf(format);
  output.begin("Waiting for the server…");
  const response = await post(request, key, signal);
  if (!response?.ok) throw await problemOf(response);
  const rate = Number(response.headers.get("x-sample-rate")) || 24_000;
  output.rate(rate);
  output.status(reader ? "Speaking…" : `Receiving… Browsers play ${format} only once it is complete, wav and pcm at once.`);

  const chunks = [];
  const name = `speech.${format}`;
  try {
    await eachEvent(response.body, signal, (event) => {
      if (event.type === "error") throw broken(event.error.message);
      for (const at_s of event.segments_s ?? []) output.segment(at_s);
      if (event.type !== "speech.audio.delta") return event.type === "speech.audio.done";
      const bytes = Uint8Array.from(atob(event.audio), (letter) => letter.charCodeAt(0));
      chunks.push(bytes);
      output.received(bytes.length);
      if (reader) output.samples(reader.push(bytes));
    });
  } catch (error) {
    if (!signal.aborted) output.offer(name, file(chunks, format));
    throw error;
  }
  const received = file(chunks, format);
  if (!reader) {
    const samples = await decode(joined(chunks), rate).catch(() => null);
    signal.throwIfAborted();
    if (!samples) {
      output.offer(name, received);
      throw new Problem(`This browser cannot play ${format}.`, "All of it was received: download it, or choose wav.", "response_format");
    }
    output.status("Speaking…");
    output.samples(samples);
  }
  await output.finish(name, received);
}

async function post(request, key, signal) {
  const headers = { "Content-Type": "application/json", ...(key && { Authorization: `Bearer ${key}` }) };
  const body = JSON.stringify({ ...request, stream_format: "sse" });
  try {
    return await fetch("v1/audio/speech", { method: "POST", headers, body, signal });
  } catch (error) {
    signal.throwIfAborted();
    throw unreachable();
  }
}

/** Pass each event to `take` until it returns true. Throws a Problem if the stream ends first. */
async function eachEvent(body, signal, take) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read().catch(() => ({ done: true }));
    signal.throwIfAborted();
    if (done) throw broken("The connection broke.");
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const data = event.split("\n").find((line) => line.startsWith("data: "));
      if (data && take(JSON.parse(data.slice(6)))) return;
    }
  }
}

function broken(message) {
  return new Problem(`The speech broke off. ${message}`, "Try again. What was received can be played and downloaded.");
}
