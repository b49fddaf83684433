// The form: its fields → a request for `POST /v1/audio/speech`.

import { problemOf } from "./problems.js";

const $ = (id) => document.getElementById(id);
const NUMBERS = ["seed", "temperature", "top_p", "repetition_penalty", "max_tokens"];
const KEY = "orpheus-api-key";

let voices = [];

/** "speak", "stream" or "talk". */
export function mode() {
  return document.querySelector("#form [role=tab][aria-selected=true]").id.replace("tab-", "");
}

export function apiKey() {
  return $("api_key").value.trim();
}

/** The request of the current mode, not validated. */
export function currentRequest() {
  const request = { model: "orpheus-tts", input: textField().value };
  if ($("voice").value) request.voice = $("voice").value;
  request.response_format = mode() === "speak" ? $("response_format").value : "wav";
  if ($("speed").value !== "1") request.speed = Number($("speed").value);
  for (const name of NUMBERS) if ($(name).value !== "") request[name] = Number($(name).value);
  if ($("normalize").checked) request.normalize = true;
  return request;
}

/** The request of the current mode; null if a field is invalid, which then shows why. */
export function validRequest() {
  for (const field of $("form").elements) field.removeAttribute("aria-invalid");
  const text = textField();
  text.setCustomValidity(text.value.trim() ? "" : "Enter some text to speak.");
  const visible = [...$("form").elements].filter((field) => !field.closest("[hidden]"));
  const invalid = visible.find((field) => !field.checkValidity());
  if (!invalid) return currentRequest();
  invalid.setAttribute("aria-invalid", "true");
  invalid.reportValidity(); // the browser's own message, at the field
  return null;
}

/** Seconds from one typed word to the next. */
export function wordInterval() {
  return 1 / Number($("rate").value);
}

export function onChange(id, listener) {
  $(id).addEventListener("change", listener);
}

/** Fill in the languages and voices of the server. Throws a Problem. */
export async function loadVoices() {
  const headers = apiKey() ? { Authorization: `Bearer ${apiKey()}` } : {};
  const response = await fetch("v1/audio/voices", { headers }).catch(() => null);
  if (!response?.ok) throw await problemOf(response);
  ({ voices } = await response.json());
  const names = new Intl.DisplayNames(["en"], { type: "language" });
  const languages = [...new Set(voices.map((voice) => voice.language))];
  fill("language", languages.map((language) => [language, names.of(language)]));
  showLanguage();
}

export function setUp() {
  $("api_key").value = sessionStorage.getItem(KEY) ?? "";
  onChange("api_key", () => sessionStorage.setItem(KEY, apiKey()));
  onChange("language", showLanguage);
  onChange("voice", showTags);
  $("speed").addEventListener("input", showSpeed);
  showSpeed(); // a browser may keep what was entered when the page is reloaded
  for (const id of ["input", "reply"]) $(id).addEventListener("input", () => $(id).setCustomValidity(""));
}

function showSpeed() {
  $("speed-shown").value = `${Number($("speed").value).toFixed(2)}×`;
}

function showLanguage() {
  const language = $("language").value;
  const available = voices.filter((voice) => voice.language === language);
  fill("voice", available.map(({ id, name, gender }) => [id, gender ? `${name} (${gender})` : name]));
  showTags();
  $("form").dispatchEvent(new Event("input"));
}

function showTags() {
  const voice = voices.find(({ id }) => id === $("voice").value);
  $("tags").replaceChildren(...(voice?.tags ?? []).map(tagButton));
}

function fill(id, entries) {
  const selected = $(id).value;
  $(id).replaceChildren(...entries.map(([value, text]) => new Option(text, value)));
  if (entries.some(([value]) => value === selected)) $(id).value = selected;
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
