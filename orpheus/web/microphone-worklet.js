// In the audio thread: samples of the microphone → frames of 16-bit samples at 24 kHz.

const RATE = 24_000; // Hz, that of OpenAI's Realtime protocol
const FRAME = 960; // samples, 40 ms
const ZEROS = 8; // zero crossings of the filter on either side

/** Any rate → RATE, by a windowed sinc that is cut off below the lower of their Nyquist frequencies. */
class Resampler {
  constructor(rate) {
    this._step = rate / RATE;
    this._cutoff = Math.min(1, 1 / this._step);
    this._reach = Math.ceil(ZEROS / this._cutoff);
    this._kept = new Float32Array(2 * this._reach);
    this._at = this._reach; // of the next sample, in those kept
  }

  push(samples) {
    const all = new Float32Array(this._kept.length + samples.length);
    all.set(this._kept);
    all.set(samples, this._kept.length);
    const out = [];
    for (; this._at + this._reach < all.length; this._at += this._step) {
      const middle = Math.floor(this._at);
      let sum = 0;
      for (let tap = middle - this._reach + 1; tap <= middle + this._reach; tap += 1)
        sum += all[tap] * this._weight(this._at - tap);
      out.push(sum);
    }
    const passed = Math.floor(this._at) - this._reach;
    this._kept = all.slice(passed);
    this._at -= passed;
    return out;
  }

  _weight(distance) {
    const turn = Math.PI * distance * this._cutoff;
    const window = Math.cos((Math.PI * distance) / (2 * this._reach)) ** 2;
    return this._cutoff * (turn ? Math.sin(turn) / turn : 1) * window;
  }
}

class Microphone extends AudioWorkletProcessor {
  constructor() {
    super();
    this._resampler = sampleRate === RATE ? null : new Resampler(sampleRate);
    this._frame = new Int16Array(FRAME);
    this._filled = 0;
    this._closed = false;
    this.port.onmessage = () => (this._closed = true);
  }

  process([[channel]]) {
    const samples = channel && this._resampler ? this._resampler.push(channel) : (channel ?? []);
    for (const sample of samples) {
      this._frame[this._filled++] = Math.max(-1, Math.min(1, sample)) * 32767;
      if (this._filled < FRAME) continue;
      this.port.postMessage(this._frame);
      this._filled = 0;
    }
    return !this._closed;
  }
}

registerProcessor("microphone", Microphone);
