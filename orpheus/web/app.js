// The page's controls: run one utterance, or one conversation, at a time. Read this first.
//
//     form.js ─▶ speak.js (HTTP) or stream.js (WebSocket) ─▶ output.js ─▶ player.js, waveform.js
//     microphone.js ─▶ talk.js (realtime.js: WebSocket) ─▶ player.js, log.js

import { apiKey, loadVoices, mode, onChange, setUp as setUpForm, validRequest } from "./form.js";
import { Output } from "./output.js";
import { show as showProblem } from "./problems.js";
import { setUp as setUpSnippets } from "./snippets.js";
import { speak } from "./speak.js";
import { watch } from "./status.js";
import { Stream } from "./stream.js";
import { tabs } from "./tabs.js";
import { Talk } from "./talk.js";

const $ = (id) => document.getElementById(id);
const output = new Output();
const stream = new Stream(output);
const talk = new Talk();
let current = null; // the AbortController of the utterance in progress

/** Stop the previous utterance, run a new one, and show what goes wrong. */
async function begin(run) {
  stop();
  showProblem(null);
  const mine = (current = new AbortController());
  enable("stop", true);
  enable("barge", true);
  try {
    await run(mine.signal);
  } catch (error) {
    if (!mine.signal.aborted) {
      output.fail();
      showProblem(error);
    }
  } finally {
    if (current === mine) {
      current = null;
      enable("stop", false);
      enable("barge", false);
    }
  }
}

function stop() {
  if (!current) return;
  current.abort();
  current = null;
  output.stop();
  enable("stop", false);
  enable("barge", false);
}

function start() {
  if (mode() === "talk") return talk.toggle();
  const request = validRequest(); // null if a field is invalid, which then shows why
  if (!request) return;
  if (mode() === "speak") begin((signal) => speak(request, apiKey(), output, signal));
  else begin((signal) => stream.speak(request, apiKey(), signal));
}

// Not `disabled`: a button that was pressed by keyboard would lose the focus.
function enable(id, on) {
  $(id).setAttribute("aria-disabled", String(!on));
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  start();
});
$("start-reply").addEventListener("click", start);
$("stop").addEventListener("click", stop);
$("barge").addEventListener("click", stop);
$("again").addEventListener("click", () => {
  if (output.canReplay) begin((signal) => output.replay(signal));
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") mode() === "talk" ? talk.interrupt() : stop();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    start();
  }
});

tabs($("tab-speak").parentElement, () => {
  stop();
  for (const part of document.querySelectorAll("[data-mode]")) part.hidden = !part.dataset.mode.split(" ").includes(mode());
  for (const panel of document.querySelectorAll("#form [role=tabpanel]")) panel.hidden = panel.id !== `panel-${mode()}`;
  if (talk.running) talk.end();
  output.clear();
  if (mode() === "talk") talk.invite();
});
setUpForm();
setUpSnippets();
loadVoices().catch(showProblem);
onChange("api_key", () => {
  showProblem(null);
  loadVoices().catch(showProblem);
});
watch();
