// The fields → a request in the words of `POST /v1/audio/speech`. Knows nothing of how it is sent.

import { problemOf } from "./problems.js";

const $ = (id) => document.getElementById(id);
const NUMBERS = ["seed", "temperature", "top_p", "repetition_penalty", "max_tokens"];
const KEY = "orpheus-api-key";

let voices = [];
let tags = {};

/** "speak" or "talk". */
export function mode() {
  return $("tab-speak").getAttribute("aria-selected") === "true" ? "speak" : "talk";
}

export function apiKey() {
  return $("api_key").value.trim();
}

/** The text and the request of the mode in use, without asking whether they can be sent. */
export function asked() {
  const request = { model: "orpheus-tts", input: textField().value };
  if ($("voice").value) request.voice = $("voice").value;
  request.response_format = mode() === "speak" ? $("response_format").value : "wav";
  if ($("speed").value !== "1") request.speed = Number($("speed").value);
  for (const name of NUMBERS) if ($(name).value !== "") request[name] = Number($(name).value);
  if ($("normalize").checked) request.normalize = true;
  return request;
}

/** The same once it is checked; null where a field says what is wrong with it. */
export function chosen() {
  for (const field of $("form").elements) field.removeAttribute("aria-invalid");
  const text = textField();
  text.setCustomValidity(text.value.trim() ? "" : "Enter some text to speak.");
  const shown = [...$("form").elements].filter((field) => !field.closest("[hidden]"));
  const wrong = shown.find((field) => !field.checkValidity());
  if (!wrong) return asked();
  wrong.setAttribute("aria-invalid", "true");
  wrong.reportValidity(); // the browser's own words, at the field
  return null;
}

/** Seconds between two words that are typed. */
export function wordEvery() {
  return 1 / Number($("rate").value);
}

export function onChange(id, listener) {
  $(id).addEventListener("change", listener);
}

/** Fill voices, languages and tags with what the server has. Throws a Problem. */
export async function loadVoices() {
  const headers = apiKey() ? { Authorization: `Bearer ${apiKey()}` } : {};
  const response = await fetch("v1/audio/voices", { headers }).catch(() => null);
  if (!response?.ok) throw await problemOf(response);
  ({ voices, tags = {} } = await response.json());
  const names = new Intl.DisplayNames(["en"], { type: "language" });
  const languages = [...new Set(voices.map((voice) => voice.language))];
  fill("language", languages.map((language) => [language, names.of(language)]));
  showLanguage();
}

export function setUp() {
  $("api_key").value = sessionStorage.getItem(KEY) ?? "";
  onChange("api_key", () => sessionStorage.setItem(KEY, apiKey()));
  onChange("language", showLanguage);
  $("speed").addEventListener("input", showSpeed);
  showSpeed(); // a browser that reloads a page may have kept what was entered
  for (const id of ["input", "reply"]) $(id).addEventListener("input", () => $(id).setCustomValidity(""));
}

function showSpeed() {
  $("speed-shown").value = `${Number($("speed").value).toFixed(2)}×`;
}

function showLanguage() {
  const language = $("language").value;
  const there = voices.filter((voice) => voice.language === language);
  fill("voice", there.map((voice) => [voice.id, `${voice.name} (${voice.gender})`]));
  $("tags").replaceChildren(...(tags[language] ?? []).map(tagButton));
  $("form").dispatchEvent(new Event("input"));
}

function fill(id, entries) {
  const before = $(id).value;
  $(id).replaceChildren(...entries.map(([value, text]) => new Option(text, value)));
  if (entries.some(([value]) => value === before)) $(id).value = before;
}

function tagButton(tag) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = tag;
  button.setAttribute("aria-label", `Insert <${tag}>`);
  button.addEventListener("click", () => insert(`<${tag}>`));
  return button;
}

function insert(tag) {
  const field = textField();
  const before = field.value.slice(0, field.selectionStart);
  const after = field.value.slice(field.selectionEnd);
  const space = { before: before && !/\s$/.test(before) ? " " : "", after: /^[\s.,;:!?]/.test(after) ? "" : " " };
  field.setRangeText(space.before + tag + space.after, field.selectionStart, field.selectionEnd, "end");
  field.dispatchEvent(new Event("input", { bubbles: true }));
  field.focus();
}

function textField() {
  return $(mode() === "speak" ? "input" : "reply");
}
