// Samples in → sound out, as they come, without a gap. Knows nothing of where they come from.
//
// Buffers scheduled one after another on the sample, not an AudioWorklet: that is only there where the page came
// by HTTPS or from this machine, and a server is often opened from a phone by its address.

const LEAD_S = 0.06; // from the first samples to their sound, so that those which follow are in time

let context = null;

/** The audio context of one sample rate. The first time, call it while a click is handled: browsers want that. */
function contextAt(rate) {
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
    this.samples = 0; // given to the player
    this.gaps = 0; // times it had nothing left to play
    this._context = contextAt(rate);
    this._volume = this._context.createGain();
    this._volume.connect(this._context.destination);
    this._runs = []; // each stretch without a gap: the frame of the context's clock it begins at, and its sample
    this._nodes = new Set();
    this._complete = false;
    this.ended = new Promise((end) => (this._end = end));
  }

  /** Play `samples`, a Float32Array, after those before. */
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

  /** Nothing follows: `ended` resolves once all was heard. */
  finish() {
    this._complete = true;
    this._endIfDone();
  }

  /** Fall silent at once, fading within 10 ms so that it does not click. */
  stop() {
    const now = this._context.currentTime;
    this._volume.gain.setTargetAtTime(0, now, 0.003);
    for (const node of this._nodes) node.stop(now + 0.02);
    this._complete = true;
    this._end();
  }

  /** Seconds of the utterance that were heard. */
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
