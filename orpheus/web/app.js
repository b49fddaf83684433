// The page's controls: run one utterance at a time. Read this first.
//
//     form.js ─▶ speak.js (HTTP) or conversation.js (WebSocket) ─▶ output.js ─▶ player.js, waveform.js

import { Conversation } from "./conversation.js";
import { apiKey, loadVoices, mode, onChange, setUp as setUpForm, validRequest } from "./form.js";
import { Output } from "./output.js";
import { show as showProblem } from "./problems.js";
import { setUp as setUpSnippets } from "./snippets.js";
import { speak } from "./speak.js";
import { watch } from "./status.js";
import { tabs } from "./tabs.js";

const $ = (id) => document.getElementById(id);
const output = new Output();
const conversation = new Conversation(output);
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
  const request = validRequest(); // null if a field is invalid, which then shows why
  if (!request) return;
  if (mode() === "speak") begin((signal) => speak(request, apiKey(), output, signal));
  else begin((signal) => conversation.speak(request, apiKey(), signal));
}

// Not `disabled`: a button that was pressed by keyboard would lose the focus.
function enable(id, on) {
  $(id).setAttribute("aria-disabled", String(!on));
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  start();
});
$("talk").addEventListener("click", start);
$("stop").addEventListener("click", stop);
$("barge").addEventListener("click", stop);
$("again").addEventListener("click", () => {
  if (output.canReplay) begin((signal) => output.replay(signal));
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") stop();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    start();
  }
});

tabs($("tab-speak").parentElement, () => {
  stop();
  for (const part of document.querySelectorAll("[data-mode]")) part.hidden = part.dataset.mode !== mode();
  $("panel-speak").hidden = mode() !== "speak";
  $("panel-talk").hidden = mode() !== "talk";
  output.clear();
});
setUpForm();
setUpSnippets();
loadVoices().catch(showProblem);
onChange("api_key", () => {
  showProblem(null);
  loadVoices().catch(showProblem);
});
watch();
