// Talk: a conversation over OpenAI's Realtime protocol. The microphone goes out as it is recorded, what comes back is
// heard as it comes, and whoever speaks while an answer is heard silences it.

import { apiKey } from "./form.js";
import { PcmReader } from "./formats.js";
import { Log } from "./log.js";
import { Microphone } from "./microphone.js";
import { Player, useSoundFor } from "./player.js";
import { Problem, show as showProblem } from "./problems.js";
import { Realtime, problemOfEnd } from "./realtime.js";

const $ = (id) => document.getElementById(id);
const RATE = 24_000; // Hz, both ways
const RETRY_MS = [500, 1000, 2000, 4000, 8000]; // before each attempt to connect again
const REMEMBERED = 20; // turns that a new connection is told of
const FINAL_CODES = [1008, 1009, 1013]; // a new connection would fare no better; 1000 is the end of a session's hour
const HARMLESS = ["response_cancel_not_active"]; // the answer ended while its cancellation was on the way
const SETTINGS = ["voice", "speed", "instructions", "language"];
const IDLE = "Press Start talking, then speak.";

export class Talk {
  constructor() {
    this._log = new Log();
    this._run = null; // the conversation in progress
    for (const id of SETTINGS) $(id).addEventListener("change", () => this._run?.configure());
    $("converse").addEventListener("click", () => this.toggle());
    $("mute").addEventListener("click", () => this._run?.toggleMute());
    $("send").addEventListener("click", () => this._say());
    $("say").addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.ctrlKey || event.metaKey) return;
      event.preventDefault(); // it would submit the form
      this._say();
    });
  }

  get running() {
    return this._run !== null;
  }

  /** Start a conversation, or end the one in progress. Call it within a click or a key press. */
  toggle() {
    if (this._run) this.end();
    else this._start(true);
  }

  /** Silence the answer that is being heard. */
  interrupt() {
    this._run?.interrupt();
  }

  end(problem = null) {
    this._run?.close();
    this._run = null;
    useSoundFor("playback");
    show(false);
    status(this._log.texts().length ? "The conversation has ended." : IDLE);
    if (problem) showProblem(problem);
  }

  invite() {
    status(IDLE);
  }

  _start(listening) {
    showProblem(null);
    this._log.clear();
    useSoundFor("play-and-record");
    this._run = new Run(this._log, (problem) => this.end(problem));
    show(true);
    $("log").scrollIntoView({ block: "nearest" }); // on a phone it may be off-screen
    this._run.start(listening);
  }

  _say() {
    const text = $("say").value.trim();
    if (!text) return $("say").focus();
    $("say").value = "";
    if (!this._run) this._start(false); // typing needs no microphone
    this._run.say(text);
  }
}

/** One conversation, over one connection after another. */
class Run {
  constructor(log, end) {
    this._log = log;
    this._end = end; // called with the Problem that ends it
    this._connection = null;
    this._ready = false; // the session is configured
    this._waiting = []; // texts typed before it was
    this._attempts = 0; // to connect again
    this._microphone = null;
    this._opening = false; // the microphone
    this._muted = false;
    this._closed = false;
    this._response = null; // the id of the one in progress
    this._hearing = false; // the user is speaking
    this._stopped = []; // turns, by id, of which it is not known yet whether they are any
    this._cut = new Set(); // responses of which nothing more is heard
    this._renew();
    this._follow();
  }

  start(listening) {
    status("Connecting…");
    this._connect().catch((problem) => this._closed || this._end(problem));
    if (listening) this._listen();
    else this._showMuted(true);
  }

  close() {
    this._closed = true;
    this._connection?.close();
    this._microphone?.close();
    this._player.stop();
    for (const item of this._items.values()) item.entry.done();
    level(0);
  }

  /** Tell the server the settings of the form. */
  configure() {
    const turns = { type: "semantic_vad", create_response: true, interrupt_response: true };
    const format = { type: "audio/pcm", rate: RATE };
    const transcription = { model: "whisper-1", ...($("language").value && { language: $("language").value }) };
    const instructions = $("instructions").value.trim();
    const session = {
      type: "realtime",
      output_modalities: ["audio"],
      ...(instructions && { instructions }),
      audio: {
        input: { format, transcription, turn_detection: turns },
        output: { format, speed: Number($("speed").value), ...($("voice").value && { voice: $("voice").value }) },
      },
    };
    this._send("session.update", { session });
  }

  /** A turn that is typed. */
  say(text) {
    if (!this._ready) return this._waiting.push(text);
    this.interrupt();
    const id = `item_${crypto.getRandomValues(new Uint32Array(3)).join("")}`;
    this._spoken(id, text);
    const content = [{ type: "input_text", text }];
    this._send("conversation.item.create", { item: { id, type: "message", role: "user", content } });
    this._send("response.create");
    status("Thinking…");
  }

  interrupt() {
    this._silence();
    if (this._response) this._send("response.cancel");
  }

  toggleMute() {
    if (!this._microphone) return this._listen();
    this._muted = !this._muted;
    this._microphone.mute(this._muted);
    this._showMuted(this._muted);
  }

  async _listen() {
    if (this._opening) return;
    this._opening = true;
    showProblem(null);
    this._showMuted(false);
    try {
      const microphone = await Microphone.open((frame) => this._recorded(frame), () => this._unplugged());
      if (this._closed) return microphone.close();
      this._microphone = microphone;
    } catch (problem) {
      if (this._closed) return;
      this._showMuted(true);
      showProblem(problem);
    } finally {
      this._opening = false;
    }
  }

  _unplugged() {
    this._microphone.close();
    this._microphone = null;
    this._showMuted(true);
    showProblem(new Problem("The microphone was disconnected.", "Connect one, then press Unmute. You can type meanwhile."));
  }

  _showMuted(muted) {
    $("mute").textContent = muted ? "Unmute" : "Mute";
    if (muted) level(0);
    if (this._ready && !this._response) this._rest();
  }

  _recorded(frame) {
    level(this._muted ? 0 : loudness(frame));
    if (this._ready) this._send("input_audio_buffer.append", { audio: base64(new Uint8Array(frame.buffer)) });
  }

  async _connect() {
    const connection = await Realtime.open(apiKey(), (event) => this._received(event), (event) => this._lost(event));
    if (this._closed) return connection.close();
    this._connection = connection;
  }

  async _lost(event) {
    this._ready = this._hearing = false;
    this._connection = this._response = null;
    for (const id of this._stopped.splice(0)) this._log.remove(id);
    let problem = problemOfEnd(event);
    while (!this._closed && !FINAL_CODES.includes(event.code) && this._attempts < RETRY_MS.length) {
      status("The connection broke. Connecting again…");
      await new Promise((next) => setTimeout(next, RETRY_MS[this._attempts++]));
      try {
        return await this._connect();
      } catch (refusal) {
        problem = refusal; // after the last attempt
      }
    }
    if (!this._closed) this._end(problem);
  }

  _received(event) {
    const handle = HANDLERS[event.type];
    if (handle && !this._closed) handle.call(this, event);
  }

  _begun() {
    this.configure();
    // A new connection knows nothing of an earlier one.
    for (const { who, text } of this._log.texts().slice(-REMEMBERED)) {
      const content = [{ type: who === "user" ? "input_text" : "output_text", text }];
      this._send("conversation.item.create", { item: { type: "message", role: who, content } });
    }
  }

  _configured() {
    this._attempts = 0;
    if (this._ready) return;
    this._ready = true;
    this._rest();
    for (const text of this._waiting.splice(0)) this.say(text);
  }

  _speechStarted({ item_id }) {
    this._silence();
    this._hearing = true;
    this._log.entry(item_id, "user");
    status("Listening to you…");
  }

  _speechStopped({ item_id }) {
    this._hearing = false;
    this._stopped.push(item_id);
    status("Thinking…");
  }

  _committed({ item_id }) {
    this._stopped = this._stopped.filter((id) => id !== item_id);
  }

  /** It was no speech. */
  _dropped() {
    this._log.remove(this._stopped.shift());
    if (!this._response) this._rest();
  }

  _transcribed({ item_id, transcript }) {
    const entry = this._log.find(item_id);
    if (!transcript.trim()) this._log.remove(item_id); // it was no speech
    else if (entry) this._log.change(() => entry.set(transcript));
    entry?.done();
    if (!transcript.trim() && !this._response) this._rest();
  }

  _notTranscribed({ item_id, error }) {
    this._log.remove(item_id);
    showProblem(new Problem("What you said was not understood.", error?.message ?? "Say it again."));
  }

  _itemAdded({ response_id, item }) {
    if (item.type !== "message" || this._cut.has(response_id)) return;
    const entry = this._log.entry(item.id, "assistant");
    this._items.set(item.id, { entry, response: response_id, content: 0, start: null, samples: 0, reader: new PcmReader(), words: [] });
  }

  _audio({ response_id, item_id, content_index, delta }) {
    const item = this._items.get(item_id);
    if (!item || this._cut.has(response_id)) return;
    const samples = item.reader.push(Uint8Array.from(atob(delta), (letter) => letter.charCodeAt(0)));
    item.start ??= this._player.samples;
    item.content = content_index;
    item.samples += samples.length;
    this._player.push(samples);
    status(this._microphone ? "Speaking. Talk to interrupt." : "Speaking.");
  }

  /** More of the answer's text. Its audio comes next. */
  _word({ response_id, item_id, delta }) {
    const item = this._items.get(item_id);
    if (!item || this._cut.has(response_id)) return;
    this._log.change(() => item.words.push({ span: item.entry.add(delta, false), at: this._player.samples }));
  }

  _text({ item_id, delta }) {
    const entry = this._log.find(item_id);
    this._log.change(() => entry?.add(delta));
  }

  _answered({ response }) {
    if (this._response === response.id) this._response = null;
    const ids = response.output.map((item) => item.id);
    for (const id of ids) this._log.find(id)?.done();
    if (response.orpheus) this._log.time(ids.at(-1), response.orpheus);
    const reason = response.status_details?.error?.message;
    if (response.status === "failed") showProblem(new Problem("The answer failed.", reason ?? "Say it again."));
    if (!this._playing()) this._rest();
  }

  _failed({ error }) {
    if (!HARMLESS.includes(error.code)) showProblem(new Problem(error.message, "The conversation goes on."));
  }

  /** Play no more of what was received, and tell the server what of it was heard. */
  _silence() {
    if (this._response) this._cut.add(this._response);
    const heard = this._heard();
    const rest = [...this._items].filter(([, item]) => item.start !== null && item.start + item.samples > heard);
    for (const [id, item] of rest) {
      this._cut.add(item.response);
      const audio_end_ms = Math.max(0, Math.floor(((heard - item.start) / RATE) * 1000));
      this._send("conversation.item.truncate", { item_id: id, content_index: item.content, audio_end_ms });
    }
    this._mark(true);
    if (rest.length) this._player.stop();
    if (rest.length) this._renew();
  }

  /** An empty player, and nothing on its way to be heard. */
  _renew() {
    this._player = new Player(RATE);
    this._items = new Map(); // by id: the answers that this player plays
  }

  _heard() {
    return this._player.heard_s() * RATE;
  }

  _playing() {
    return this._heard() + 1 < this._player.samples;
  }

  _follow() {
    if (this._closed) return;
    const playing = this._playing();
    if (playing || this._wasPlaying) this._mark(false);
    if (this._wasPlaying && !playing && !this._response && this._ready) this._rest();
    this._wasPlaying = playing;
    requestAnimationFrame(() => this._follow());
  }

  /** Mark the words that were heard, and the one that is; with `cut`, strike out the rest. */
  _mark(cut) {
    const heard = this._heard();
    for (const { words, start, samples } of this._items.values())
      words.forEach(({ span, at }, index) => {
        const next = words[index + 1]?.at ?? (start ?? 0) + samples;
        const begun = start !== null && (heard > at || heard >= start + samples);
        span.classList.toggle("heard", begun);
        span.classList.toggle("now", begun && !cut && heard < next);
        if (cut) span.classList.toggle("unheard", !begun);
      });
  }

  _spoken(id, text) {
    const entry = this._log.entry(id, "user");
    this._log.change(() => entry.set(text));
    entry.done();
  }

  /** Nothing is said or awaited. */
  _rest() {
    if (this._hearing) return;
    status(this._microphone && !this._muted ? "Listening…" : "The microphone is off: type, or press Unmute.");
  }

  _send(type, fields) {
    this._connection?.send(type, fields);
  }
}

const HANDLERS = {
  "session.created": Run.prototype._begun,
  "session.updated": Run.prototype._configured,
  "input_audio_buffer.speech_started": Run.prototype._speechStarted,
  "input_audio_buffer.speech_stopped": Run.prototype._speechStopped,
  "input_audio_buffer.committed": Run.prototype._committed,
  "input_audio_buffer.cleared": Run.prototype._dropped,
  "conversation.item.input_audio_transcription.delta": Run.prototype._text,
  "conversation.item.input_audio_transcription.completed": Run.prototype._transcribed,
  "conversation.item.input_audio_transcription.failed": Run.prototype._notTranscribed,
  "response.created"({ response }) {
    this._response = response.id;
  },
  "response.output_item.added": Run.prototype._itemAdded,
  "response.output_audio.delta": Run.prototype._audio,
  "response.output_audio_transcript.delta": Run.prototype._word,
  "response.output_text.delta": Run.prototype._text,
  "response.done": Run.prototype._answered,
  error: Run.prototype._failed,
};

function show(running) {
  $("converse").textContent = running ? "End" : "Start talking";
  $("converse").classList.toggle("ending", running);
  $("mute").setAttribute("aria-disabled", String(!running));
  if (!running) $("mute").textContent = "Mute";
}

function status(text) {
  // Unchanged text is left alone: screen readers would read it out again.
  if ($("status").textContent !== text) $("status").textContent = text;
}

function level(share) {
  $("level").style.transform = `scaleX(${share.toFixed(3)})`;
}

/** Of a frame, from 0 to 1: the upper 50 dB. */
function loudness(frame) {
  const power = frame.reduce((sum, sample) => sum + sample * sample, 0) / frame.length;
  return Math.max(0, Math.min(1, 1 + (10 * Math.log10(power / 32768 ** 2 + 1e-12)) / 50));
}

function base64(bytes) {
  return btoa(String.fromCharCode(...bytes));
}
