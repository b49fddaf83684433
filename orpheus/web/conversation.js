// A reply typed word by word → `WS /v1/audio/speech/stream`, heard while it is typed, until it is barged in on.
//
// One connection serves every reply; each is an utterance of its own, with the number the server counts it by.

import { wordEvery } from "./form.js";
import { PcmReader, wav } from "./formats.js";
import { ms } from "./output.js";
import { Problem, problemOfClose } from "./problems.js";

export class Conversation {
  constructor(output) {
    this._output = output;
    this._socket = null;
    this._reply = null; // the one under way
    this._replies = 0; // begun on this connection
    this._heard = null; // the number of the reply that audio now belongs to
    this._cancelled_at = null; // when the last barge-in was sent
  }

  /** Speak `request.input` until it was heard, or the signal barges in. Throws a Problem. */
  async say(request, key, signal) {
    const output = this._output;
    output.begin("Connecting…");
    const socket = await this._connect(key, signal);
    const reply = (this._reply = new Reply(this._replies++, request.input, output));
    signal.addEventListener("abort", () => this._bargeIn(reply));
    const { input, ...manner } = request;
    send(socket, {
      type: "session.config",
      ...manner,
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
    const ours = () => this._socket === socket; // and was not replaced meanwhile
    socket.onmessage = ({ data }) => ours() && this._message(data);
    socket.onclose = (event) => ours() && this._reply?.fail(problemOfClose(event, true));
    return socket;
  }

  _message(data) {
    const reply = this._reply;
    if (typeof data !== "string") {
      // What was on its way when the listener spoke up is not for anyone's ears.
      if (reply?.number === this._heard) reply.audio(new Uint8Array(data));
      return;
    }
    const event = JSON.parse(data);
    if (event.type === "audio.start") this._heard = event.utterance_index;
    if (event.type === "audio.cancelled") this._answered();
    if (!reply || (event.utterance_index ?? reply.number) !== reply.number) return;
    if (event.type === "audio.start") reply.segment(event);
    else if (event.type === "audio.word") reply.word(event);
    else if (event.type === "session.done") reply.done();
    else if (event.type === "error") {
      reply.fail(new Problem(event.message, "Change it or try again.", event.param));
      this._socket.close(); // the next reply begins anew, whatever of this one the server has
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

  _answered() {
    this._output.figure("answered", ms(performance.now() - this._cancelled_at));
  }
}

/** One utterance: its words as they are typed and heard, its samples. */
class Reply {
  constructor(number, text, output) {
    this.number = number;
    this._output = output;
    this._words = text.match(/\s*\S+/g);
    this._shown = [];
    this._times = []; // of words: the span, and the seconds it is spoken from and to
    this._searched = 0;
    this._pcm = new PcmReader();
    this._samples = [];
    this._rate = 24_000;
    this._count = 0;
    this.over = false;
    this.spoken = new Promise((done, fail) => Object.assign(this, { _done: done, _fail: fail }));
    this.spoken.catch(() => {}); // whoever waits for it is told; nobody may be waiting yet
    document.getElementById("transcript").replaceChildren();
    document.getElementById("transcript").hidden = false;
    this._follow();
  }

  /** Send the words one by one, as fast as the form says at each. */
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
      await new Promise((next) => setTimeout(next, wordEvery() * 1000));
    }
    if (!signal.aborted && !this.over) send(socket, { type: "input.done" });
  }

  segment({ sample_rate }) {
    this._rate = sample_rate;
    this._output.rate(sample_rate);
    this._output.edge(this._count / sample_rate);
  }

  audio(bytes) {
    this._output.received(bytes.length);
    const samples = this._pcm.push(bytes);
    this._count += samples.length;
    this._samples.push(samples);
    this._output.samples(samples);
  }

  /** When a word is spoken. Its span is the next of its text: what the voice leaves out has no time. */
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

  /** Barged in: what was not heard is struck out. */
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
