import WaveSurfer from "wavesurfer.js";
import Regions from "wavesurfer.js/plugins/regions";
import { bytesOf } from "./bytes.js";
import { decibels } from "./text.js";

/** Lanes of all tracks: waveform, spectrogram, confidence, meter, and the selection on all. */
export class Rows {
  constructor(data, transport, mixer, say) {
    Object.assign(this, { data, transport, mixer, say });
    this.elements = [...document.querySelectorAll(".track")];
    const peaks = data.tracks.map((track) => Float32Array.from(bytesOf(track.peaks), (v) => (v / 255) ** 0.75));
    // One scale for all lanes: a quiet stem looks quiet, and the exponent keeps it visible.
    const most = Math.max(...peaks.map((values) => values.reduce((a, b) => Math.max(a, b), 0)), 1e-4);
    this.waves = this.elements.map((row, index) => this.wave(row, peaks[index], most));
    this.elements.forEach((row, index) => this.controls(row, index));
    this.colours();
    mixer.addEventListener("change", () => this.show());
    transport.addEventListener("timeupdate", () => this.moved());
    new ResizeObserver(() => this.confidences()).observe(this.elements[0]);
    this.show();
  }

  wave(row, peaks, most) {
    const wave = WaveSurfer.create({
      container: row.querySelector(".wave"),
      media: this.transport,
      peaks: [peaks],
      duration: this.transport.duration,
      height: "auto",
      maxPeak: most,
      normalize: true,
      cursorWidth: 2,
      barWidth: 2,
      barGap: 1,
      barRadius: 1,
      minPxPerSec: 0,
      autoScroll: false,
      hideScrollbar: true,
    });
    const regions = wave.registerPlugin(Regions.create());
    regions.enableDragSelection({ color: "transparent" }, 6);
    regions.on("region-created", (region) => this.select(region));
    regions.on("region-update", (region) => this.mirror(region, false));
    regions.on("region-updated", (region) => this.mirror(region, true));
    return { wave, regions };
  }

  /** A new selection replaces the old one in all lanes. */
  select(region) {
    if (this.mirroring) return;
    this.mirroring = true;
    for (const { regions } of this.waves) {
      for (const other of regions.getRegions()) if (other !== region) other.remove();
    }
    this.mirroring = false;
    this.mirror(region, true);
  }

  mirror(region, done) {
    if (this.mirroring) return;
    this.draw({ start: region.start, end: region.end }, region);
    if (done) this.onselect(this.range);
  }

  /** Show a selection in all lanes, or none. */
  draw(range, source = null) {
    this.mirroring = true;
    this.range = range;
    for (const { regions } of this.waves) {
      const own = regions.getRegions();
      if (!range) own.forEach((region) => region.remove());
      else if (own.length && own[0] === source) own[0].setOptions({ color: this.selection });
      else if (own.length) own[0].setOptions({ ...range, color: this.selection });
      else regions.addRegion({ ...range, color: this.selection });
    }
    this.mirroring = false;
  }

  controls(row, index) {
    const { mixer } = this;
    const find = (name) => row.querySelector(name);
    find(".solo")?.addEventListener("click", () => this.toggle(index, "solo"));
    find(".mute")?.addEventListener("click", () => this.toggle(index, "mute"));
    find(".spectrum").addEventListener("click", () => this.spectrogram(index));
    find(".spectrogram").addEventListener("click", (event) => {
      const box = event.currentTarget.getBoundingClientRect();
      this.transport.currentTime = ((event.clientX - box.left) / box.width) * this.transport.duration;
    });
    const gain = find(".gain");
    const set = () => {
      const value = Number(gain.value);
      const text = value <= Number(gain.min) ? "off" : decibels(value);
      gain.setAttribute("aria-valuetext", text);
      gain.title = `Level: ${text} (double click: 0 dB)`;
      find(".level").textContent = text;
      mixer.set(index, { gain: value <= Number(gain.min) ? 0 : 10 ** (value / 20) });
    };
    gain.addEventListener("input", set);
    gain.addEventListener("dblclick", () => {
      gain.value = 0;
      set();
    });
  }

  toggle(index, what) {
    if (index >= this.elements.length || this.data.tracks[index].kind === "mixture") return;
    const on = !this.mixer.tracks[index][what];
    this.mixer.set(index, { [what]: on });
    this.say(`${this.data.tracks[index].label}: ${what} ${on ? "on" : "off"}`);
  }

  spectrogram(index, on = this.elements[index].querySelector(".spectrogram").hidden) {
    const row = this.elements[index];
    const box = row.querySelector(".spectrogram");
    const image = box.querySelector("img");
    if (on && !image.src) image.src = this.data.tracks[index].spectrogram;
    box.hidden = !on;
    row.querySelector(".spectrum").setAttribute("aria-pressed", String(on));
  }

  spectrograms() {
    const on = this.elements.some((row) => row.querySelector(".spectrogram").hidden);
    this.elements.forEach((_, index) => this.spectrogram(index, on));
    this.say(`Spectrograms ${on ? "shown" : "hidden"}`);
  }

  moved() {
    const share = this.transport.currentTime / this.transport.duration;
    for (const row of this.elements) row.style.setProperty("--at", share);
  }

  /** Meters follow what is heard; they fall slowly enough to be read. */
  meters() {
    this.elements.forEach((row, index) => {
      const heard = this.transport.paused ? 0 : this.mixer.peak(index);
      const shown = Math.max(0, 1 + (20 * Math.log10(Math.max(heard, 1e-6))) / 60);
      const before = Number(row.style.getPropertyValue("--meter")) || 0;
      row.style.setProperty("--meter", Math.max(shown, before - 0.02).toFixed(3));
    });
  }

  show() {
    this.elements.forEach((row, index) => {
      const { solo, mute } = this.mixer.tracks[index];
      row.classList.toggle("silent", this.mixer.level(index) === 0);
      row.querySelector(".solo")?.setAttribute("aria-pressed", String(solo));
      row.querySelector(".mute")?.setAttribute("aria-pressed", String(mute));
    });
  }

  /** Canvases know no CSS variables: read them again whenever the theme changes. */
  colours() {
    this.selection = getComputedStyle(document.body).getPropertyValue("--selection");
    this.waves.forEach(({ wave }, index) => {
      const style = getComputedStyle(this.elements[index]);
      wave.setOptions({
        waveColor: style.getPropertyValue("--wave"),
        progressColor: style.getPropertyValue("--played"),
        cursorColor: style.getPropertyValue("--cursor"),
      });
    });
    if (this.range) this.draw(this.range);
    this.confidences();
  }

  confidences() {
    this.elements.forEach((row, index) => {
      const canvas = row.querySelector("canvas.confidence");
      if (!canvas) return;
      const values = (this.decoded ??= {})[index] ??= bytesOf(this.data.tracks[index].confidence);
      const width = Math.max(1, Math.round(canvas.clientWidth * devicePixelRatio));
      if (!canvas.clientWidth) return;
      canvas.width = width;
      canvas.height = 1;
      const paint = canvas.getContext("2d");
      paint.fillStyle = getComputedStyle(row).getPropertyValue("--played");
      for (let x = 0; x < width; x += 1) {
        const value = values[Math.floor((x * values.length) / width)];
        // 255 means that nothing is known, as where the stem is silent.
        paint.globalAlpha = value === 255 ? 0 : 0.08 + 0.92 * (value / 254) ** 2;
        paint.fillRect(x, 0, 1, 1);
      }
    });
  }
}
