// The server panel: polls `/ready` and `/metrics` while the page is visible.

import { ms } from "./output.js";

const $ = (id) => document.getElementById(id);
const INTERVAL_MS = 2000;
const PREFIX = "orpheus_speech_";

export function watch() {
  let previous = null;
  const poll = async () => {
    if (!document.hidden) {
      await ready();
      previous = await metrics(previous);
    }
    setTimeout(poll, INTERVAL_MS);
  };
  poll();
}

async function ready() {
  const response = await fetch("ready").catch(() => null);
  const body = await response?.json().catch(() => null);
  if (!response) show("not ready", "The server cannot be reached");
  else if (response.ok) show("ready", "Ready");
  else show("not ready", `Not ready: ${body?.reason ?? response.status}`);
}

function show(state, text) {
  // Unchanged text is left alone: screen readers would read it out again.
  if ($("ready").textContent === text) return;
  $("ready").dataset.state = state;
  $("ready").textContent = text;
}

/** Show the metrics; rates are computed from the `previous` ones. */
async function metrics(previous) {
  const response = await fetch("metrics").catch(() => null);
  if (!response?.ok) {
    for (const value of document.querySelectorAll(".live dd")) value.textContent = "–";
    return null;
  }
  const now = { at: performance.now(), ...parse(await response.text()) };
  const put = (id, value) => ($(id).textContent = value);
  put("live-streams", now.sum("active"));
  put("live-waiting", now.sum("waiting"));
  put("live-median", now.quantile("first_audio_seconds", 0.5));
  put("live-tail", now.quantile("first_audio_seconds", 0.95));
  put("live-refused", `${now.sum("rejected_total")}, ${now.sum("failed_total")}`);
  if (previous) {
    const made_s = now.sum("audio_seconds_total") - previous.sum("audio_seconds_total");
    put("live-made", `${(made_s / ((now.at - previous.at) / 1000)).toFixed(1)} s`);
  }
  return now;
}

/** Prometheus' text format → `sum(name)` over all labels, and `quantile(name, share)` of a histogram. */
function parse(text) {
  const lines = [...text.matchAll(/^(\w+)(?:\{(.*)\})? (\S+)/gm)].map(([, name, labels = "", value]) => ({
    name: name.replace(PREFIX, ""),
    labels,
    value: Number(value),
  }));
  const sum = (name) => lines.filter((line) => line.name === name).reduce((total, line) => total + line.value, 0);
  return { sum, quantile: (name, share) => quantile(lines, name, share) };
}

/** As Prometheus computes it: by linear interpolation within a bucket. */
function quantile(lines, name, share) {
  const buckets = lines
    .filter((line) => line.name === `${name}_bucket`)
    .map((line) => ({ upto: Number(line.labels.match(/le="([^"]+)"/)[1].replace("+Inf", "Infinity")), count: line.value }));
  const rank = share * (buckets.at(-1)?.count ?? 0);
  if (!rank) return "–";
  const at = buckets.findIndex((bucket) => bucket.count >= rank);
  const low = buckets[at - 1] ?? { upto: 0, count: 0 };
  if (buckets[at].upto === Infinity) return `over ${ms(low.upto * 1000)}`;
  const part = (rank - low.count) / (buckets[at].count - low.count);
  return ms((low.upto + part * (buckets[at].upto - low.upto)) * 1000);
}
