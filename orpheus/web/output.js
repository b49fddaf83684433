// The output of one utterance: sound, waveform, figures, and the file to download.

import { Player } from "./player.js";
import { Waveform } from "./waveform.js";

const $ = (id) => document.getElementById(id);
const FIGURES = ["first-audio", "factor", "answered", "duration", "segments", "received", "gaps"];
const DEFAULT_RATE = 24_000;

export class Output {
  constructor() {
    this._wave = new Waveform($("wave"));
    this._player = null;
    this._rate = DEFAULT_RATE;
    this.clear();
  }

  get canReplay() {
    return this._samples.length > 0;
  }

  /** Seconds of the utterance heard so far. */
  get heard_s() {
    return this._player?.heard_s() ?? 0;
  }

  /** Nothing to hear or see. */
  clear() {
    this._wave.clear();
    this._samples = []; // to be played again
    this._bytes = 0;
    for (const name of FIGURES) this.figure(name, "–");
    this.status("Nothing spoken yet.");
    $("transcript").hidden = true;
    $("again").setAttribute("aria-disabled", "true");
    this._withdraw();
  }

  /** Start an utterance, within the click that asked for it. First audio is timed from here or from `clock`. */
  begin(text) {
    this.clear();
    this.status(text);
    $("wave").scrollIntoView({ block: "nearest" }); // on a phone it may be off-screen
    this.clock();
    this._first = false;
    this._play(this._rate);
  }

  clock() {
    this._since = performance.now();
  }

  /** Set the sample rate in Hz. */
  rate(rate) {
    if (rate === this._rate) return;
    this._rate = rate;
    this._play(rate);
  }

  /** Count encoded bytes. */
  received(bytes) {
    if (!this._first) {
      this._first = true;
      this.figure("first-audio", ms(performance.now() - this._since));
    }
    this._bytes += bytes;
    this.figure("received", size(this._bytes));
  }

  samples(samples) {
    this._player.push(samples);
    this._samples.push(samples);
    this._wave.push(samples, this._rate);
    this.figure("duration", `${this._wave.duration_s.toFixed(2)} s`);
    this.figure("gaps", String(this._player.gaps));
  }

  /** A segment begins at `at_s`. */
  segment(at_s) {
    this._wave.segment(at_s);
    this.figure("segments", String(this._wave.segments_s.length));
  }

  /** Everything was received: show how fast and offer the file. Resolves once everything was heard. */
  async finish(name, blob) {
    if (this._wave.duration_s)
      this.figure("factor", ((performance.now() - this._since) / 1000 / this._wave.duration_s).toFixed(2));
    this.offer(name, blob);
    await this.heard();
  }

  async heard() {
    const player = this._player;
    player.finish();
    await player.ended;
    if (player !== this._player || player.stopped) return;
    this.status(`Done: ${this._wave.duration_s.toFixed(2)} s of speech.`);
  }

  /** Offer a file to download, and its samples to play again. */
  offer(name, blob) {
    this._withdraw();
    if (blob.size) {
      Object.assign($("download"), { href: URL.createObjectURL(blob), download: name });
      $("download").removeAttribute("aria-disabled");
    }
    $("again").setAttribute("aria-disabled", String(!this.canReplay));
  }

  async replay(signal) {
    this._play(this._rate);
    this.status("Playing again…");
    for (const samples of this._samples) this._player.push(samples);
    await this.heard();
    signal.throwIfAborted();
  }

  stop() {
    this.status(`Stopped after ${this.heard_s.toFixed(2)} s.`);
    this._silence();
    $("again").setAttribute("aria-disabled", String(!this.canReplay));
  }

  /** Something went wrong; what was received is still played. */
  fail() {
    this.status(this._samples.length ? "Broke off." : "Nothing spoken.");
    this._player?.finish();
    $("again").setAttribute("aria-disabled", String(!this.canReplay));
  }

  figure(name, text) {
    $(name).textContent = text;
  }

  status(text) {
    $("status").textContent = text;
  }

  _play(rate) {
    this._silence();
    const player = (this._player = new Player(rate));
    const follow = () => {
      if (player !== this._player) return;
      this._wave.heard(player.heard_s());
      if (!player.over) requestAnimationFrame(follow);
    };
    player.ended.then(() => (player.over = true));
    requestAnimationFrame(follow);
  }

  _silence() {
    if (!this._player) return;
    this._player.stopped = true;
    this._player.stop();
  }

  _withdraw() {
    const link = $("download");
    if (link.href) URL.revokeObjectURL(link.href);
    link.removeAttribute("href");
    link.setAttribute("aria-disabled", "true");
  }
}

export function ms(milliseconds) {
  return `${Math.round(milliseconds)} ms`;
}

function size(bytes) {
  return bytes < 1e6 ? `${(bytes / 1e3).toFixed(1)} kB` : `${(bytes / 1e6).toFixed(2)} MB`;
}
