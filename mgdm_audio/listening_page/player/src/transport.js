const FADE = 0.005;
const START = 0.03;
const AHEAD = 2.5;
const PUMP = 250;

/**
 * The one clock. All tracks are scheduled together, clip by clip, on one AudioContext, so that they
 * cannot drift; neighbouring clips overlap by a crossfade that the encoder left room for.
 *
 * It has the surface of a media element, which is what wavesurfer.js draws its cursors from.
 */
export class Transport extends EventTarget {
  constructor(clips, mixer, data) {
    super();
    Object.assign(this, { clips, mixer, rate: data.rate, frames: data.frames });
    this.duration = data.frames / data.rate;
    this.context = null;
    this.loop = null;
    this.paused = true;
    this.waiting = false;
    this.position = 0;
    this.run = 0;
    this.segments = [];
    this.sources = new Set();
    Object.assign(this, { volume: 1, muted: false, playbackRate: 1, readyState: 4 });
    Object.assign(this, { seeking: false, error: null, src: "", currentSrc: "" });
  }

  get ended() {
    return this.paused && this.position >= this.duration;
  }

  /** Where the song is now, in seconds. */
  get currentTime() {
    if (this.paused) return this.position;
    const now = this.context.currentTime;
    for (const { when, from, length } of this.segments) {
      if (now >= when && now < when + length) return from + (now - when);
    }
    return this.position;
  }

  set currentTime(seconds) {
    this.position = Math.min(Math.max(Number.isFinite(seconds) ? seconds : 0, 0), this.duration);
    if (!this.paused) this.restart();
    for (const name of ["seeking", "timeupdate", "seeked"]) this.dispatchEvent(new Event(name));
  }

  async play() {
    if (!this.paused) return;
    if (!this.context) {
      // iOS mutes Web Audio with the ringer switch unless the page says that it is a player.
      if (navigator.audioSession) navigator.audioSession.type = "playback";
      this.context = new AudioContext({ sampleRate: this.rate, latencyHint: "playback" });
      this.mixer.connect(this.context);
    }
    if (this.position >= this.duration - 0.01) this.position = 0;
    this.paused = false;
    this.dispatchEvent(new Event("play"));
    await this.context.resume();
    this.restart();
    this.tick();
  }

  pause() {
    if (this.paused) return;
    this.position = this.currentTime;
    this.paused = true;
    this.run += 1;
    this.silence();
    this.setWaiting(false);
    this.dispatchEvent(new Event("pause"));
    this.dispatchEvent(new Event("timeupdate"));
  }

  /** Repeat [start, end) in seconds, or null to play on. */
  setLoop(range) {
    this.loop = range;
    if (!this.paused) {
      this.position = this.currentTime;
      this.restart();
    }
  }

  restart() {
    this.run += 1;
    this.silence();
    this.cursor = { when: this.context.currentTime + START, frame: this.frameOf(this.position) };
    this.segments = [];
    this.pump(this.run);
  }

  frameOf(seconds) {
    return Math.min(Math.round(seconds * this.rate), this.frames);
  }

  /** Schedule what plays within the next seconds, then look again. */
  async pump(run) {
    clearTimeout(this.timer);
    try {
      while (run === this.run && this.cursor.when < this.context.currentTime + AHEAD) {
        const frame = this.cursor.frame;
        if (frame >= this.frames) break;
        const index = Math.floor(frame / this.clips.data.clipFrames);
        const late = setTimeout(() => run === this.run && this.setWaiting(true), 150);
        const buffers = await this.clips.get(index).finally(() => clearTimeout(late));
        if (run !== this.run) return;
        this.setWaiting(false);
        this.schedule(index, buffers);
        if (index + 1 < this.clips.count) this.clips.get(index + 1).catch(() => {});
      }
    } catch (error) {
      if (run === this.run) {
        this.pause();
        this.dispatchEvent(new CustomEvent("failed", { detail: error }));
      }
      return;
    }
    if (run === this.run) this.timer = setTimeout(() => this.pump(run), PUMP);
  }

  schedule(index, buffers) {
    const { frame } = this.cursor;
    const loopEnd = this.loop ? this.frameOf(this.loop.end) : Infinity;
    const inLoop = frame < loopEnd;
    const clipEnd = Math.min((index + 1) * this.clips.data.clipFrames, this.frames);
    const end = inLoop ? Math.min(clipEnd, loopEnd) : clipEnd;
    // After a wait for decoding the clock goes on from now rather than skipping sound.
    const when = Math.max(this.cursor.when, this.context.currentTime + 0.01);
    const length = (end - frame) / this.rate;
    const offset = this.clips.offset(index, frame) / this.rate;
    buffers.forEach((buffer, track) => this.start(buffer, track, when, offset, length));
    this.segments.push({ when, from: frame / this.rate, length });
    this.segments = this.segments.filter((s) => s.when + s.length > this.context.currentTime - 1);
    const next = inLoop && end === loopEnd ? this.frameOf(this.loop.start) : end;
    this.cursor = { when: when + length, frame: next };
  }

  start(buffer, track, when, offset, length) {
    const source = this.context.createBufferSource();
    const fade = this.context.createGain();
    source.buffer = buffer;
    fade.gain.setValueAtTime(0, when);
    fade.gain.linearRampToValueAtTime(1, when + FADE);
    fade.gain.setValueAtTime(1, when + length);
    fade.gain.linearRampToValueAtTime(0, when + length + FADE);
    source.connect(fade).connect(this.mixer.input(track));
    source.start(when, offset, length + FADE);
    const entry = { source, fade };
    this.sources.add(entry);
    source.onended = () => {
      this.sources.delete(entry);
      fade.disconnect();
    };
  }

  silence() {
    clearTimeout(this.timer);
    const now = this.context.currentTime;
    for (const { source, fade } of this.sources) {
      const { gain } = fade;
      const value = gain.value;
      gain.cancelScheduledValues(now);
      gain.setValueAtTime(value, now);
      gain.linearRampToValueAtTime(0, now + FADE);
      source.stop(now + 2 * FADE);
    }
    this.sources.clear();
  }

  setWaiting(on) {
    if (this.waiting === on) return;
    this.waiting = on;
    this.dispatchEvent(new Event(on ? "waiting" : "playing"));
  }

  tick() {
    if (this.paused) return;
    const now = this.currentTime;
    this.position = now;
    const played = this.cursor.frame >= this.frames && this.context.currentTime >= this.cursor.when;
    if (played) {
      this.pause();
      this.position = this.duration;
      this.dispatchEvent(new Event("timeupdate"));
      this.dispatchEvent(new Event("ended"));
      return;
    }
    this.dispatchEvent(new Event("timeupdate"));
    requestAnimationFrame(() => this.tick());
  }

  canPlayType() {
    return "maybe";
  }

  load() {}

  removeAttribute() {}
}
