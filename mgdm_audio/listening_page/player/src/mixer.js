const RAMP = 0.012;

/** Gains, solo, mute and the choice between stems and mixture; one chain of nodes per track. */
export class Mixer extends EventTarget {
  constructor(tracks) {
    super();
    this.tracks = tracks.map((track) => ({ kind: track.kind, gain: 1, solo: false, mute: false }));
    this.master = 1;
    this.hearsMixture = false;
    this.chains = null;
  }

  /** Make the nodes, once a context exists. */
  connect(context) {
    this.context = context;
    this.output = context.createGain();
    this.output.connect(context.destination);
    this.chains = this.tracks.map(() => {
      const gain = context.createGain();
      const meter = context.createAnalyser();
      meter.fftSize = 2048;
      gain.connect(meter).connect(this.output);
      return { gain, meter, samples: new Float32Array(meter.fftSize) };
    });
    this.apply(0);
  }

  input(track) {
    return this.chains[track].gain;
  }

  set(track, changes) {
    Object.assign(this.tracks[track], changes);
    this.apply();
  }

  setMaster(gain) {
    this.master = gain;
    this.apply();
  }

  setHearsMixture(on) {
    this.hearsMixture = on;
    this.apply();
  }

  /** Factor at which a track is heard. */
  level(index) {
    const track = this.tracks[index];
    if (track.kind === "mixture") return this.hearsMixture ? track.gain : 0;
    const someSolo = this.tracks.some((other) => other.solo);
    if (this.hearsMixture || track.mute || (someSolo && !track.solo)) return 0;
    return track.gain;
  }

  /** Loudest sample of the last 43 ms that a track sent to the output. */
  peak(index) {
    if (!this.chains) return 0;
    const { meter, samples } = this.chains[index];
    meter.getFloatTimeDomainData(samples);
    let peak = 0;
    for (const value of samples) peak = Math.max(peak, Math.abs(value));
    return peak;
  }

  apply(ramp = RAMP) {
    if (this.chains) {
      const now = this.context.currentTime;
      const glide = (parameter, value) => {
        parameter.cancelScheduledValues(now);
        parameter.setValueAtTime(parameter.value, now);
        parameter.linearRampToValueAtTime(value, now + ramp);
      };
      this.chains.forEach((chain, index) => glide(chain.gain.gain, this.level(index)));
      glide(this.output.gain, this.master);
    }
    this.dispatchEvent(new Event("change"));
  }
}
