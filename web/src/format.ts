// Numbers for people.

export const NONE = "–";

export function bytes(count: number): string {
  if (count < 1024) return `${count} B`;
  let value = count;
  let unit = -1;
  while (value >= 1024 && unit < 4) {
    value /= 1024;
    unit += 1;
  }
  return `${value < 10 ? value.toFixed(1) : Math.round(value)} ${"KMGTP"[unit]}iB`;
}

export function duration(seconds: number): string {
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return two(Math.floor(whole / 60), "min", whole % 60, "s");
  if (whole < 86400) return two(Math.floor(whole / 3600), "h", Math.floor((whole % 3600) / 60), "min");
  return two(Math.floor(whole / 86400), "d", Math.floor((whole % 86400) / 3600), "h");
}

function two(large: number, unit: string, small: number, smaller: string): string {
  return small ? `${large} ${unit} ${small} ${smaller}` : `${large} ${unit}`;
}

/** A time that is mostly far below a second. */
export function brief(seconds: number): string {
  if (seconds === 0) return "0";
  if (seconds >= 1) return `${seconds.toFixed(seconds < 10 ? 2 : 1)} s`;
  const ms = seconds * 1000;
  return ms >= 100 ? `${Math.round(ms)} ms` : `${ms.toFixed(ms < 10 ? 2 : 1)} ms`;
}

export function rate(perSecond: number): string {
  if (perSecond === 0) return "0";
  return perSecond >= 100 ? Math.round(perSecond).toLocaleString("en") : perSecond.toFixed(1);
}

export function count(number: number): string {
  return number.toLocaleString("en");
}

export function percent(share: number): string {
  return `${Math.round(share * 100)} %`;
}

export function roundTrip(microseconds: number): string {
  return microseconds < 1000
    ? `${microseconds < 10 ? microseconds.toFixed(1) : Math.round(microseconds)} µs`
    : `${(microseconds / 1000).toFixed(1)} ms`;
}

export function gigabits(value: number): string {
  return value >= 1 ? `${value.toFixed(value < 10 ? 1 : 0)} Gb/s` : `${Math.round(value * 1000)} Mb/s`;
}

/** Bytes that are read in a second. */
export function reading(perSecond: number): string {
  if (perSecond === 0) return "0";
  const giga = perSecond / 1e9;
  return giga >= 1 ? `${giga.toFixed(giga < 100 ? 1 : 0)} GB/s` : `${Math.round(giga * 1000)} MB/s`;
}

/** How far a download or loading has come, where its words say so: 0 to 1. */
export function shareOf(progress: string): number | null {
  const found = /(\d+(?:\.\d+)?)\s*%/.exec(progress);
  return found ? Math.min(1, Number(found[1]) / 100) : null;
}
