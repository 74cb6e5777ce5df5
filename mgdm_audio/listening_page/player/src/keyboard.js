/**
 * Keys for the whole page. A key that the focused control understands itself is left to it, so that
 * arrows still move a slider and space still presses a button.
 */
export function listenToKeys(actions) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const focus = document.activeElement;
    const slider = focus instanceof HTMLInputElement && focus.type === "range";
    const button = focus?.closest?.("button, a, summary");
    if (button && (event.key === " " || event.key === "Enter")) return;
    if (slider && /^(Arrow|Home|End|Page)/.test(event.key)) return;
    const digit = /^Digit([1-9])$/.exec(event.code);
    const name = digit ? (event.shiftKey ? "mute" : "solo") : event.key.toLowerCase();
    const action = actions[name];
    if (!action) return;
    event.preventDefault();
    action(digit ? Number(digit[1]) - 1 : event.shiftKey);
  });
}

/** After a click the keys belong to the page again; whoever tabs keeps the focus. */
export function releaseAfterPointer() {
  document.addEventListener("click", (event) => {
    if (event.detail > 0) event.target.closest?.("button")?.blur();
  });
  document.addEventListener("pointerup", (event) => {
    if (event.target instanceof HTMLInputElement) setTimeout(() => event.target.blur());
  });
}
