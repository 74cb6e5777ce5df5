/** Minutes and seconds, as on a player. */
export function clock(seconds) {
  const whole = Math.floor(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

/** Minutes and seconds to be read out. */
export function spoken(seconds) {
  const minutes = Math.floor(seconds / 60);
  const rest = Math.floor(seconds % 60);
  const part = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;
  return minutes ? `${part(minutes, "minute")} ${part(rest, "second")}` : part(rest, "second");
}

export function decibels(value) {
  return `${value > 0 ? "+" : value < 0 ? "\u2212" : ""}${Math.abs(value)} dB`;
}
