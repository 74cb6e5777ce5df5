import { bytesOf } from "./bytes.js";

const KEPT = 5;

/**
 * Encoded sound of all tracks, cut at the same samples into clips, decoded when it is needed.
 *
 * A page for a phone cannot hold six decoded tracks of a song: only the last few clips stay.
 * Inside one file a clip is a script element that is never run; in a folder it is a script file,
 * the only thing that a page from file:// may load.
 */
export class Clips {
  constructor(data) {
    this.data = data;
    this.kept = new Map();
    this.files = new Map();
    // Decoding needs no running clock, and an AudioContext may only start after a gesture.
    this.decoder = new OfflineAudioContext(2, 1, data.rate);
    globalThis.mgdmClip = (track, index, base64) => {
      const waiting = this.files.get(`${track}-${index}`);
      if (waiting) waiting(base64);
    };
  }

  get count() {
    return Math.ceil(this.data.frames / this.data.clipFrames);
  }

  /** Decoded clip `index` of every track, in the order of the tracks. */
  get(index) {
    let found = this.kept.get(index);
    if (!found) {
      found = Promise.all(this.data.tracks.map((_, track) => this.decoded(track, index)));
      found.catch(() => this.kept.delete(index));
    }
    this.kept.delete(index);
    this.kept.set(index, found);
    while (this.kept.size > KEPT) this.kept.delete(this.kept.keys().next().value);
    return found;
  }

  /** Decoded clip of one track. */
  async decoded(track, index) {
    const bytes = bytesOf(await this.encoded(track, index));
    return this.decoder.decodeAudioData(bytes.buffer);
  }

  encoded(track, index) {
    const element = document.getElementById(`clip-${track}-${index}`);
    if (element) return Promise.resolve(element.textContent);
    return new Promise((resolve, reject) => {
      const script = document.createElement("script");
      const done = (base64) => {
        this.files.delete(`${track}-${index}`);
        script.remove();
        resolve(base64);
      };
      this.files.set(`${track}-${index}`, done);
      script.src = `audio/${track}-${index}.js`;
      script.onerror = () => reject(new Error(`${script.src} is missing beside the page`));
      document.head.append(script);
    });
  }

  /** Where in clip `index` the song's frame `frame` lies. */
  offset(index, frame) {
    return frame - Math.max(0, index * this.data.clipFrames - this.data.before);
  }
}
