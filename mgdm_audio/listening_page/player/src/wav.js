/** A 16-bit wav of one track, put together from its decoded clips. */
export async function wavOf(clips, track) {
  const { data } = clips;
  let samples = null;
  let channels = 0;
  for (let index = 0; index < clips.count; index += 1) {
    const buffer = await clips.decoded(track, index);
    channels = buffer.numberOfChannels;
    samples ??= new Int16Array(data.frames * channels);
    const begin = index * data.clipFrames;
    const end = Math.min(begin + data.clipFrames, data.frames);
    const offset = clips.offset(index, begin);
    for (let channel = 0; channel < channels; channel += 1) {
      const values = buffer.getChannelData(channel);
      for (let frame = begin; frame < end; frame += 1) {
        const value = Math.round((values[offset + frame - begin] ?? 0) * 32768);
        samples[frame * channels + channel] = Math.max(-32768, Math.min(32767, value));
      }
    }
  }
  const head = new DataView(new ArrayBuffer(44));
  const text = (at, word) => [...word].forEach((c, i) => head.setUint8(at + i, c.charCodeAt(0)));
  text(0, "RIFF");
  head.setUint32(4, 36 + samples.byteLength, true);
  text(8, "WAVEfmt ");
  head.setUint32(16, 16, true);
  head.setUint16(20, 1, true);
  head.setUint16(22, channels, true);
  head.setUint32(24, data.rate, true);
  head.setUint32(28, data.rate * channels * 2, true);
  head.setUint16(32, channels * 2, true);
  head.setUint16(34, 16, true);
  text(36, "data");
  head.setUint32(40, samples.byteLength, true);
  return new Blob([head, samples], { type: "audio/wav" });
}
