// Numbers for people: short, and of a steady width.

const whole = new Intl.NumberFormat(undefined, { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat(undefined, { notation: "compact", maximumSignificantDigits: 3 });
const tenths = new Intl.NumberFormat(undefined, { minimumFractionDigits: 1, maximumFractionDigits: 1 });

export const count = (n) => (n < 10_000 ? whole : short).format(n);

export function bytes(n) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let i = 0;
  for (; n >= 1024 && i < units.length - 1; i++) n /= 1024;
  return `${(i === 0 || n >= 100 || Number.isInteger(n) ? whole : tenths).format(n)} ${units[i]}`;
}

export function duration(milliseconds) {
  const seconds = milliseconds / 1000;
  if (seconds < 1) return `${whole.format(milliseconds)} ms`;
  return seconds < 60 ? `${tenths.format(seconds)} s` : `${whole.format(seconds / 60)} min`;
}

// roundCount and roundBytes return the smallest round number from n up with a round half.
export function roundCount(n) {
  const power = 10 ** Math.floor(Math.log10(Math.max(n, 10)));
  return [1, 2, 4, 10].find((step) => step * power >= n) * power;
}
export const roundBytes = (n) => 2 ** Math.ceil(Math.log2(Math.max(n, 4096)));
