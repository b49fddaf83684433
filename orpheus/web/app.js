// The page: what is clicked and typed → one utterance at a time. Read this first.
//
//     form.js ─▶ speak.js (HTTP) or conversation.js (WebSocket) ─▶ output.js ─▶ player.js, waveform.js
//
// Knows nothing of protocols or of sound.

import { Conversation } from "./conversation.js";
import { apiKey, chosen, loadVoices, mode, onChange, setUp as setUpForm } from "./form.js";
import { Output } from "./output.js";
import { show as showProblem } from "./problems.js";
import { setUp as setUpSnippets } from "./snippets.js";
import { speak } from "./speak.js";
import { watch } from "./status.js";
import { tabs } from "./tabs.js";

const $ = (id) => document.getElementById(id);
const output = new Output();
const conversation = new Conversation(output);
let speaking = null; // what aborts the answer under way

/** Run one utterance; the one before is stopped, and what goes wrong is shown. */
async function begin(run) {
  stop();
  showProblem(null);
  const mine = (speaking = new AbortController());
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
    if (speaking === mine) {
      speaking = null;
      enable("stop", false);
      enable("barge", false);
    }
  }
}

function stop() {
  if (!speaking) return;
  speaking.abort();
  speaking = null;
  output.stop();
  enable("stop", false);
  enable("barge", false);
}

function start() {
  const request = chosen(); // null where a field holds something impossible, which it then says itself
  if (!request) return;
  if (mode() === "speak") begin((signal) => speak(request, apiKey(), output, signal));
  else begin((signal) => conversation.say(request, apiKey(), signal));
}

// Not `disabled`: who has just pressed a button by keyboard would lose the focus with it.
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
