// Tabs for mouse and arrow keys, following the WAI-ARIA pattern.

/** Make `list` (role=tablist) work; calls `changed(tab)` when a tab is selected. */
export function tabs(list, changed) {
  const all = [...list.querySelectorAll("[role=tab]")];

  function select(tab) {
    for (const one of all) {
      one.setAttribute("aria-selected", String(one === tab));
      one.tabIndex = one === tab ? 0 : -1;
    }
    changed(tab);
  }

  list.addEventListener("click", (event) => {
    const tab = event.target.closest("[role=tab]");
    if (tab && tab.getAttribute("aria-selected") !== "true") select(tab);
  });
  list.addEventListener("keydown", (event) => {
    const at = all.indexOf(document.activeElement);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: -1 }[event.key];
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    const tab = all.at(to % all.length);
    tab.focus();
    select(tab);
  });
}
