// Plays samples as they arrive, without gaps.
//
// Each buffer is scheduled on the sample after the last. An AudioWorklet would be available only over HTTPS or from
// localhost, and this page is often opened from a phone by the server's address.

const LEAD_S = 0.06; // delay of the first samples, so that those that follow are in time

let context = null;
let use = "playback";

/** Tell Safari what the page does with sound, "playback" or "play-and-record"; other browsers have no such interface. */
export function useSoundFor(purpose) {
  use = purpose;
  if (navigator.audioSession) navigator.audioSession.type = purpose;
}

/** The audio context of a sample rate. Browsers require the first call to be in the handler of a click. */
export function contextAt(rate) {
  useSoundFor(use); // otherwise an iPhone whose ring switch is off plays nothing
  if (context?.sampleRate !== rate) {
    context?.close();
    context = new AudioContext({ sampleRate: rate });
  }
  if (context.state === "suspended") context.resume();
  return context;
}

export class Player {
  /** `rate` in Hz. */
  constructor(rate) {
    this.rate = rate;
    this.samples = 0; // pushed so far
    this.gaps = 0; // times it had nothing left to play
    this._context = contextAt(rate);
    this._volume = this._context.createGain();
    this._volume.connect(this._context.destination);
    this._runs = []; // stretches without a gap: the sample each begins with, and its time in samples of the context
    this._nodes = new Set();
    this._complete = false;
    this.ended = new Promise((end) => (this._end = end));
  }

  /** Play `samples`, a Float32Array, after the previous ones. */
  push(samples) {
    if (!samples.length) return;
    const now = Math.round(this._context.currentTime * this.rate);
    let run = this._runs.at(-1);
    if (!run || run.frame + this.samples - run.sample < now) {
      if (run) this.gaps += 1;
      run = { frame: now + Math.round(LEAD_S * this.rate), sample: this.samples };
      this._runs.push(run);
    }
    const buffer = this._context.createBuffer(1, samples.length, this.rate);
    buffer.copyToChannel(samples, 0);
    const node = new AudioBufferSourceNode(this._context, { buffer });
    node.connect(this._volume);
    node.start((run.frame + this.samples - run.sample) / this.rate);
    node.onended = () => {
      this._nodes.delete(node);
      this._endIfDone();
    };
    this._nodes.add(node);
    this.samples += samples.length;
  }

  /** No samples follow: `ended` resolves once everything was heard. */
  finish() {
    this._complete = true;
    this._endIfDone();
  }

  /** Stop at once, with a fade of 10 ms so that it does not click. */
  stop() {
    const now = this._context.currentTime;
    this._volume.gain.setTargetAtTime(0, now, 0.003);
    for (const node of this._nodes) node.stop(now + 0.02);
    this._complete = true;
    this._end();
  }

  /** Seconds of the utterance heard so far. */
  heard_s() {
    const now = (this._context.currentTime - (this._context.outputLatency || 0)) * this.rate;
    const at = this._runs.findLastIndex((run) => run.frame <= now);
    if (at < 0) return 0;
    const run = this._runs[at];
    const end = this._runs[at + 1]?.sample ?? this.samples;
    return Math.min(run.sample + now - run.frame, end) / this.rate;
  }

  _endIfDone() {
    if (this._complete && !this._nodes.size) this._end();
  }
}
