// Word by word: a reply is typed word by word over `WS /v1/audio/speech/stream` and heard while it is being typed,
// until the listener barges in. One connection serves all replies; each is an utterance, numbered as the server does.

import { wordInterval } from "./form.js";
import { PcmReader, wav } from "./formats.js";
import { ms } from "./output.js";
import { Problem, problemOfClose } from "./problems.js";

export class Stream {
  constructor(output) {
    this._output = output;
    this._socket = null;
    this._reply = null; // the one in progress
    this._replies = 0; // started on this connection
    this._receiving = null; // the number of the reply that received audio belongs to
    this._cancelled_at = null; // when the last barge-in was sent
  }

  /** Speak `request.input` until all of it was heard or the signal barges in. Throws a Problem. */
  async speak(request, key, signal) {
    const output = this._output;
    output.begin("Connecting…");
    const socket = await this._connect(key, signal);
    const reply = (this._reply = new Reply(this._replies++, request.input, output));
    signal.addEventListener("abort", () => this._bargeIn(reply));
    const { input, ...params } = request;
    send(socket, {
      type: "session.config",
      ...params,
      response_format: "pcm",
      stream_audio: true,
      split_granularity: "sentence",
      word_timestamps: true,
    });
    await reply.type(socket, signal);
    await reply.spoken;
    if (!signal.aborted) await output.finish("conversation.wav", reply.file());
    reply.end();
  }

  async _connect(key, signal) {
    const url = new URL("v1/audio/speech/stream", document.baseURI.replace(/^http/, "ws"));
    if (key) url.searchParams.set("api_key", key);
    if (this._socket?.url === url.href && this._socket.readyState === WebSocket.OPEN) return this._socket;
    this._socket?.close();
    const socket = (this._socket = new WebSocket(url));
    socket.binaryType = "arraybuffer";
    this._replies = 0;
    await new Promise((opened, failed) => {
      socket.onopen = opened;
      socket.onclose = (event) => failed(problemOfClose(event, false));
      signal.addEventListener("abort", () => failed(signal.reason));
    });
    const isCurrent = () => this._socket === socket; // it may have been replaced meanwhile
    socket.onmessage = ({ data }) => isCurrent() && this._message(data);
    socket.onclose = (event) => isCurrent() && this._reply?.fail(problemOfClose(event, true));
    return socket;
  }

  _message(data) {
    const reply = this._reply;
    if (typeof data !== "string") {
      // Audio that was still in flight when the listener barged in is dropped.
      if (reply?.number === this._receiving) reply.audio(new Uint8Array(data));
      return;
    }
    const event = JSON.parse(data);
    if (event.type === "audio.start") this._receiving = event.utterance_index;
    if (event.type === "audio.cancelled") this._cancelled();
    if (!reply || (event.utterance_index ?? reply.number) !== reply.number) return;
    if (event.type === "audio.start") reply.segment(event);
    else if (event.type === "audio.word") reply.word(event);
    else if (event.type === "session.done") reply.done();
    else if (event.type === "error") {
      reply.fail(new Problem(event.message, "Change the request or try again.", event.param));
      this._socket.close(); // whatever of this reply the server still has ends with it
      this._socket = null;
    }
  }

  _bargeIn(reply) {
    if (this._reply !== reply || reply.over) return;
    this._cancelled_at = performance.now();
    send(this._socket, { type: "input.cancel" });
    reply.cut();
    this._reply = null;
  }

  _cancelled() {
    this._output.figure("answered", ms(performance.now() - this._cancelled_at));
  }
}

/** One utterance: its words as they are typed and heard, and its samples. */
class Reply {
  constructor(number, text, output) {
    this.number = number;
    this._output = output;
    this._words = text.match(/\s*\S+/g);
    this._shown = [];
    this._times = []; // of words: the span, and when it is heard, in seconds
    this._searched = 0; // spans whose time is known or skipped
    this._pcm = new PcmReader();
    this._samples = [];
    this._rate = 24_000;
    this._count = 0;
    this.over = false;
    this.spoken = new Promise((done, fail) => Object.assign(this, { _done: done, _fail: fail }));
    this.spoken.catch(() => {}); // nothing may be awaiting it yet
    document.getElementById("transcript").replaceChildren();
    document.getElementById("transcript").hidden = false;
    this._follow();
  }

  /** Send the words one by one, at the pace set in the form. */
  async type(socket, signal) {
    this._output.status("Typing and speaking…");
    this._output.clock();
    for (const word of this._words) {
      if (signal.aborted || this.over) return;
      send(socket, { type: "input.text", text: word });
      const span = document.createElement("span");
      span.textContent = word.trim();
      document.getElementById("transcript").append(" ", span);
      this._shown.push(span);
      await new Promise((next) => setTimeout(next, wordInterval() * 1000));
    }
    if (!signal.aborted && !this.over) send(socket, { type: "input.done" });
  }

  segment({ sample_rate }) {
    this._rate = sample_rate;
    this._output.rate(sample_rate);
    this._output.segment(this._count / sample_rate);
  }

  audio(bytes) {
    this._output.received(bytes.length);
    const samples = this._pcm.push(bytes);
    this._count += samples.length;
    this._samples.push(samples);
    this._output.samples(samples);
  }

  /** When a word is heard. Its span is the next one with its text: words that are not spoken get no time. */
  word({ text, start_s, stop_s }) {
    const near = this._shown.slice(this._searched, this._searched + 8);
    const at = near.findIndex((span) => span.textContent === text);
    if (at < 0) return;
    this._searched += at + 1;
    this._times.push({ span: near[at], start_s, stop_s });
  }

  done() {
    this.received = true;
    this._done();
  }

  fail(problem) {
    if (this.received) return;
    this.over = true;
    this._fail(problem);
  }

  file() {
    return wav(this._samples, this._rate);
  }

  /** Barged in: strike out what was not heard. */
  cut() {
    this._mark();
    this.over = true;
    for (const span of this._shown) if (!span.classList.contains("heard")) span.classList.add("unheard");
    for (const span of this._shown) span.classList.remove("now");
    this._output.offer("conversation.wav", this.file());
    this._done();
  }

  end() {
    if (this.over) return;
    this._mark();
    this.over = true;
    for (const span of this._shown) span.classList.remove("now");
  }

  _follow() {
    if (this.over) return;
    this._mark();
    requestAnimationFrame(() => this._follow());
  }

  _mark() {
    const heard_s = this._output.heard_s;
    for (const { span, start_s, stop_s } of this._times) {
      span.classList.toggle("heard", heard_s > start_s);
      span.classList.toggle("now", heard_s > start_s && heard_s <= stop_s);
    }
  }
}

function send(socket, message) {
  if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
}
