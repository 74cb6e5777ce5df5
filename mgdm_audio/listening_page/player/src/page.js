import { Clips } from "./clips.js";
import { Mixer } from "./mixer.js";
import { Rows } from "./rows.js";
import { Transport } from "./transport.js";
import { listenToKeys, releaseAfterPointer } from "./keyboard.js";
import { clock, spoken } from "./text.js";
import { wavOf } from "./wav.js";

const data = JSON.parse(document.getElementById("mgdm-data").textContent);
const find = (name) => document.querySelector(name);
const clips = new Clips(data);
const mixer = new Mixer(data.tracks);
const transport = new Transport(clips, mixer, data);

function say(text) {
  find("#said").textContent = text;
}

function complain(text) {
  const box = find("#problem");
  box.textContent = text;
  box.hidden = false;
}

const rows = new Rows(data, transport, mixer, say);
// Keys 1 to 9 count what can be soloed: stems and residual.
const heard = data.tracks.map((track, index) => ({ track, index })).filter(({ track }) => track.kind !== "mixture");

const playButton = find("#play");
const scrubber = find("#position");
const loopButton = find("#loop");
const themes = ["auto", "light", "dark"];

function toggle() {
  if (transport.paused) transport.play();
  else transport.pause();
}

function seek(seconds) {
  transport.currentTime = seconds;
}

function showTime() {
  const now = transport.currentTime;
  find("#now").textContent = clock(now);
  scrubber.value = now;
  scrubber.setAttribute("aria-valuetext", `${spoken(now)} of ${spoken(transport.duration)}`);
  scrubber.style.setProperty("--at", now / transport.duration);
}

function showState() {
  const playing = !transport.paused;
  playButton.setAttribute("aria-label", playing ? "Pause" : "Play");
  playButton.classList.toggle("playing", playing);
  document.body.classList.toggle("waiting", transport.waiting);
}

function hearMixture(on) {
  mixer.setHearsMixture(on);
  find("#hear-stems").setAttribute("aria-pressed", String(!on));
  find("#hear-mixture").setAttribute("aria-pressed", String(on));
  document.body.classList.toggle("hears-mixture", on);
  say(on ? "Hearing the original mixture" : "Hearing the stems");
}

let looping = false;

function setLooping(on) {
  looping = on && Boolean(rows.range);
  transport.setLoop(looping ? rows.range : null);
  loopButton.setAttribute("aria-pressed", String(looping));
  const { range } = rows;
  find("#selection").textContent = range ? `${clock(range.start)} – ${clock(range.end)}` : "";
  find("#clear").hidden = !range;
  loopButton.disabled = !range;
}

rows.onselect = (range) => {
  if (range.end - range.start < 0.05) {
    clearSelection();
    return;
  }
  setLooping(true);
  const now = transport.currentTime;
  if (now < range.start || now >= range.end) seek(range.start);
};

function clearSelection() {
  rows.draw(null);
  setLooping(false);
}

function mark(side) {
  const now = transport.currentTime;
  const range = rows.range ?? { start: 0, end: transport.duration };
  const next = { ...range, [side]: now };
  if (next.end - next.start < 0.05) {
    next[side === "start" ? "end" : "start"] = side === "start" ? transport.duration : 0;
  }
  rows.draw(next);
  rows.onselect(next);
  say(`Loop from ${spoken(next.start)} to ${spoken(next.end)}`);
}

function setTheme(name) {
  document.documentElement.dataset.theme = name;
  find("#theme").setAttribute("aria-label", `Colours: ${name}`);
  find("#theme").title = `Colours: ${name}`;
  rows.colours();
}

async function save(button) {
  const index = Number(button.dataset.track);
  button.disabled = true;
  try {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await wavOf(clips, index));
    link.download = button.dataset.name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  } catch (error) {
    complain(`This track cannot be saved: ${error.message}`);
  } finally {
    button.disabled = false;
  }
}

playButton.addEventListener("click", toggle);
find("#start").addEventListener("click", () => seek(0));
find("#hear-stems").addEventListener("click", () => hearMixture(false));
find("#hear-mixture").addEventListener("click", () => hearMixture(true));
loopButton.addEventListener("click", () => setLooping(!looping));
find("#clear").addEventListener("click", clearSelection);
find("#spectrograms").addEventListener("click", () => rows.spectrograms());
find("#theme").addEventListener("click", () => {
  const { theme } = document.documentElement.dataset;
  setTheme(themes[(themes.indexOf(theme) + 1) % themes.length]);
});
find("#master").addEventListener("input", (event) => {
  const value = Number(event.target.value);
  event.target.setAttribute("aria-valuetext", `${value} percent`);
  mixer.setMaster((value / 100) ** 2);
});
scrubber.addEventListener("input", () => seek(Number(scrubber.value)));
document.querySelectorAll("button.save").forEach((button) => {
  button.addEventListener("click", () => save(button));
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => rows.colours());

for (const name of ["play", "pause", "waiting", "playing", "ended"]) {
  transport.addEventListener(name, showState);
}
transport.addEventListener("timeupdate", showTime);
transport.addEventListener("failed", ({ detail }) => {
  complain(
    detail?.name === "EncodingError"
      ? `This browser cannot decode ${data.codec}. Write the page again with mp3, or use another browser.`
      : `The sound cannot be played: ${detail?.message ?? detail}`,
  );
});

const step = (fine) => (fine ? 1 : 5);
listenToKeys({
  " ": toggle,
  k: toggle,
  arrowleft: (fine) => seek(transport.currentTime - step(fine)),
  arrowright: (fine) => seek(transport.currentTime + step(fine)),
  arrowup: () => stepMaster(5),
  arrowdown: () => stepMaster(-5),
  home: () => seek(0),
  solo: (n) => heard[n] && rows.toggle(heard[n].index, "solo"),
  mute: (n) => heard[n] && rows.toggle(heard[n].index, "mute"),
  m: () => hearMixture(!mixer.hearsMixture),
  l: () => setLooping(!looping),
  "[": () => mark("start"),
  "]": () => mark("end"),
  escape: clearSelection,
  s: () => rows.spectrograms(),
  "?": () => find("#help").toggleAttribute("open"),
});

function stepMaster(by) {
  const slider = find("#master");
  slider.value = Number(slider.value) + by;
  slider.dispatchEvent(new Event("input"));
}

releaseAfterPointer();
setInterval(() => rows.meters(), 40);
setTheme(document.documentElement.dataset.theme);
showTime();
setLooping(false);
document.body.classList.add("ready");
globalThis.mgdm = { transport, mixer, clips, rows, data };
