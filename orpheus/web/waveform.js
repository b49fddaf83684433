// The waveform: loudness, how much of it was heard, and where segments begin.

const BUCKET_S = 0.01;
const BAR = 4; // CSS pixels from bar to bar
const MIN_S = 5; // the width until there is more
const TOP = 18; // CSS pixels for the segment numbers
const BOTTOM = 18; // CSS pixels for the seconds

export class Waveform {
  constructor(canvas) {
    this._canvas = canvas;
    this._scheduled = false;
    this.clear();
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  clear() {
    this.duration_s = 0;
    this.segments_s = [];
    this._peaks = []; // the loudest sample of each BUCKET_S
    this._filled = 0; // samples in the last of them
    this._heard_s = 0;
    this.draw();
  }

  /** More samples, a Float32Array at `rate` Hz. */
  push(samples, rate) {
    const bucket = Math.round(rate * BUCKET_S);
    for (const sample of samples) {
      if (this._filled === 0) this._peaks.push(0);
      const last = this._peaks.length - 1;
      this._peaks[last] = Math.max(this._peaks[last], Math.abs(sample));
      this._filled = (this._filled + 1) % bucket;
    }
    this.duration_s += samples.length / rate;
    this.draw();
  }

  /** A segment begins at `at_s`. */
  segment(at_s) {
    this.segments_s.push(at_s);
    this.draw();
  }

  heard(at_s) {
    this._heard_s = at_s;
    this.draw();
  }

  /** Draw once with the next animation frame, however often this is called. */
  draw() {
    if (this._scheduled) return;
    this._scheduled = true;
    requestAnimationFrame(() => {
      this._scheduled = false;
      this._paint();
    });
  }

  _paint() {
    const { clientWidth: width, clientHeight: height } = this._canvas;
    if (!width) return;
    const scale = devicePixelRatio;
    this._canvas.width = width * scale;
    this._canvas.height = height * scale;
    const pen = this._canvas.getContext("2d");
    const style = getComputedStyle(this._canvas);
    const colour = (name) => style.getPropertyValue(name);
    const span_s = Math.max(MIN_S, this.duration_s);
    const x = (at_s) => (at_s / span_s) * width;
    pen.scale(scale, scale);
    pen.font = `12px ${style.fontFamily}`;
    this._seconds(pen, colour, x, span_s, width, height);
    this._bars(pen, colour, span_s, width, height);
    this._segments(pen, colour, x, height);
    this._label();
  }

  _seconds(pen, colour, x, span_s, width, height) {
    const step = [1, 2, 5, 10, 30, 60, 300].find((seconds) => x(seconds) >= 48) ?? 600;
    pen.fillStyle = colour("--quiet");
    pen.textBaseline = "bottom";
    for (let at = 0; at <= span_s; at += step) {
      const text = `${at} s`;
      pen.fillText(text, Math.min(x(at), width - pen.measureText(text).width), height);
    }
  }

  /** The height is the square root of the loudness: quiet speech is not heard as softly as its samples suggest. */
  _bars(pen, colour, span_s, width, height) {
    const middle = TOP + (height - TOP - BOTTOM) / 2;
    const tall = (height - TOP - BOTTOM) / 2 - 2;
    const count = Math.floor(width / BAR);
    const per = span_s / BUCKET_S / count; // buckets a bar
    for (let bar = 0; bar < count; bar += 1) {
      const from = Math.floor(bar * per);
      const peaks = this._peaks.slice(from, Math.max(from + 1, Math.floor((bar + 1) * per)));
      const half = peaks.length ? Math.max(1, Math.sqrt(Math.max(...peaks)) * tall) : 0.5;
      const heard = peaks.length && from * BUCKET_S < this._heard_s;
      pen.fillStyle = colour(heard ? "--accent" : peaks.length ? "--edge" : "--line");
      pen.fillRect(bar * BAR, middle - half, BAR - 1.5, half * 2);
    }
  }

  _segments(pen, colour, x, height) {
    pen.textBaseline = "top";
    let free = 0; // so that the numbers do not overlap
    this.segments_s.forEach((at_s, index) => {
      pen.fillStyle = colour("--quiet");
      if (index) for (let y = TOP - 2; y < height - BOTTOM; y += 6) pen.fillRect(Math.round(x(at_s)), y, 1, 3);
      if (x(at_s) < free) return;
      pen.fillText(String(index + 1), x(at_s) + (index ? -2 : 0), 2);
      free = x(at_s) + 20;
    });
  }

  _label() {
    const segments = this.segments_s.length;
    const shown = this.duration_s ? `${this.duration_s.toFixed(1)} s` : "empty";
    const label = `Waveform, ${shown}${segments ? `, ${segments} ${segments === 1 ? "segment" : "segments"}` : ""}`;
    if (this._canvas.getAttribute("aria-label") !== label) this._canvas.setAttribute("aria-label", label);
  }
}
