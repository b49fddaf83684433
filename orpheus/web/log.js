// What was said: one entry a turn, with the words that were heard, and where the time went.

const $ = (id) => document.getElementById(id);
const MAX_ENTRIES = 200;
const SVG = "http://www.w3.org/2000/svg";
const MIN_SCALE_MS = 1000; // the width of a bar, until a turn takes longer
const STAGES = {
  vad_ms: "end of turn",
  stt_ms: "transcript",
  llm_first_token_ms: "LLM",
  first_clause_ms: "first clause",
  first_audio_ms: "voice",
};
const WHOLE = "end_to_audio_ms"; // from the end of speech to the first audio

export class Log {
  constructor() {
    this.clear();
  }

  clear() {
    this._entries = new Map(); // by the id of the item
    this._scale_ms = MIN_SCALE_MS;
    $("log").replaceChildren();
  }

  /** The entry of an item, which is made if it is new; `who` is "user" or "assistant". */
  entry(id, who) {
    let entry = this._entries.get(id);
    if (!entry) {
      entry = new Entry(who);
      this._entries.set(id, entry);
      this._append(entry.element);
      const [oldest] = this._entries.keys();
      if (this._entries.size > MAX_ENTRIES) this.remove(oldest);
    }
    return entry;
  }

  find(id) {
    return this._entries.get(id);
  }

  remove(id) {
    this._entries.get(id)?.element.remove();
    this._entries.delete(id);
  }

  /** Who said what so far, oldest first. */
  texts() {
    return [...this._entries.values()].filter((entry) => entry.text).map(({ who, text }) => ({ who, text }));
  }

  /** Change something, and stay at the end unless the reader has scrolled away from it. */
  change(work) {
    const box = $("log");
    const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
    work();
    if (atEnd) box.scrollTop = box.scrollHeight;
  }

  /** Draw where the time of an answer went: `stages` has the milliseconds of each, null if it did not run. */
  time(id, stages) {
    const entry = this._entries.get(id);
    const parts = Object.keys(STAGES).filter((stage) => Number.isFinite(stages[stage]));
    if (!entry || !parts.length) return;
    entry.parts = parts.map((stage) => ({ stage, ms: stages[stage] }));
    entry.whole_ms = stages[WHOLE] ?? entry.parts.reduce((sum, { ms }) => sum + ms, 0);
    this._scale_ms = Math.max(this._scale_ms, entry.whole_ms);
    this.change(() => {
      for (const one of this._entries.values()) if (one.parts) one.draw(this._scale_ms);
    });
  }

  _append(element) {
    this.change(() => $("log").append(element));
  }
}

class Entry {
  constructor(who) {
    this.who = who;
    this.words = [];
    this.parts = null;
    this.element = make("li", who);
    this.element.setAttribute("aria-busy", "true"); // so that a screen reader reads it once, when it is complete
    this._text = make("p", "words");
    this._time = null;
    this.element.append(make("strong", "who", who === "user" ? "You" : "Orpheus"), this._text);
  }

  get text() {
    const heard = this.words.filter(({ span }) => !span.classList.contains("unheard"));
    return heard.map(({ text }) => text).join("").trim();
  }

  /** More of it; returns its element, which is marked `heard` if it need not be listened to. */
  add(text, heard = true) {
    const span = make("span", heard ? "heard" : "", text.trim());
    this.words.push({ span, text });
    this._text.append(text.match(/^\s*/)[0], span, text.trim() && text.match(/\s*$/)[0]);
    return span;
  }

  /** Its whole text, in place of what was there. */
  set(text) {
    this.words = [];
    this._text.replaceChildren();
    if (text) this.add(text);
  }

  done() {
    this.element.removeAttribute("aria-busy");
  }

  /** Two tracks, since the answer is begun before the end of the turn is certain: that above, all else below. */
  draw(scale_ms) {
    this._time?.remove();
    this._time = make("div", "time");
    const bar = document.createElementNS(SVG, "svg");
    const label = this.parts.map(({ stage, ms }) => `${STAGES[stage]} ${Math.round(ms)} ms`).join(", ");
    bar.setAttribute("viewBox", `0 0 ${scale_ms} 10`);
    bar.setAttribute("preserveAspectRatio", "none");
    bar.setAttribute("role", "img");
    bar.setAttribute("aria-label", `Answered after ${Math.round(this.whole_ms)} ms: ${label}`);
    const legend = make("ul", "stages");
    let ends_ms = this.whole_ms;
    for (const { stage, ms } of [...this.parts].reverse()) {
      const turn = stage === "vad_ms";
      const x = turn ? 0 : Math.max(0, ends_ms - ms);
      const part = document.createElementNS(SVG, "rect");
      const place = { x, y: turn ? 0 : 5, width: turn ? ms : ends_ms - x, height: 5, class: stage };
      for (const [name, value] of Object.entries(place)) part.setAttribute(name, value);
      bar.append(part);
      if (!turn) ends_ms = x;
      legend.prepend(make("li", stage, `${STAGES[stage]} ${Math.round(ms)}`));
    }
    legend.append(make("li", "sum", `${Math.round(this.whole_ms)} ms`));
    this._time.append(bar, legend);
    this.element.append(this._time);
  }
}

function make(tag, name, text = "") {
  const element = document.createElement(tag);
  if (name) element.className = name;
  element.textContent = text;
  return element;
}
