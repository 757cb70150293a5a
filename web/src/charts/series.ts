// The last hour as it is drawn. Pure.

import type { History } from "../wire";

export const KEPT = 720;

/** What was known, and what has come since. A server that was started anew begins again. */
export function merged(before: History | null, next: History): History {
  if (!before || next.now < before.now) return next;
  if (!next.number.length) return { ...before, now: next.now };
  const first = next.number[0]!;
  const keep = before.number.filter((number) => number < first).length;
  const skip = Math.max(0, keep + next.number.length - KEPT);
  const made: Record<string, unknown> = { every_seconds: next.every_seconds, now: next.now };
  for (const name of Object.keys(next) as (keyof History)[]) {
    const column = next[name];
    if (Array.isArray(column)) {
      made[name] = [...(before[name] as unknown[]).slice(skip, keep), ...column];
    }
  }
  return made as unknown as History;
}

export interface Line {
  name: string;
  values: (number | null)[];
  /** How it is drawn: the first matters most. */
  weight: "first" | "second";
}

/** Points of a line within a box, one for each two pixels at most (the largest of those it
 * stands for); a gap where nothing was measured, or no sample was taken. */
export function pathOf(
  times: readonly number[],
  values: readonly (number | null)[],
  box: { from: number; to: number; top: number; width: number; height: number },
  gap: number,
): string {
  const span = box.to - box.from;
  const buckets = Math.max(1, Math.floor(box.width / 2));
  const path: string[] = [];
  let last = -Infinity;
  let bucket = -1;
  let most = 0;
  let at = 0;
  const put = () => {
    if (bucket < 0) return;
    const x = ((at - box.from) / span) * box.width;
    const y = box.height - (Math.min(most, box.top) / box.top) * box.height;
    path.push(`${at - last > gap ? "M" : "L"}${x.toFixed(1)} ${y.toFixed(1)}`);
    last = at;
    bucket = -1;
  };
  times.forEach((time, index) => {
    const value = values[index] ?? null;
    if (time < box.from || value === null) return;
    const into = Math.floor(((time - box.from) / span) * buckets);
    if (into !== bucket) {
      put();
      [bucket, most] = [into, value];
    }
    at = time;
    most = Math.max(most, value);
  });
  put();
  return path.join("");
}

/** A round number just above what is drawn. */
export function ceiling(most: number): number {
  if (most <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(most));
  const step = [1, 1.5, 2, 3, 4, 5, 6, 8, 10].find((times) => times * power >= most) ?? 10;
  return step * power;
}

export interface Told {
  now: number | null;
  median: number | null;
  most: number | null;
}

export function told(values: readonly (number | null)[]): Told {
  const known = values.filter((value): value is number => value !== null);
  return {
    now: known.at(-1) ?? null,
    median: medianOf(known),
    most: known.length ? Math.max(...known) : null,
  };
}

/** The rank that takes longest, in the median of what was measured (one may have been disturbed), and
 * how many times as long as the median rank; or as the fastest one. */
export function straggler(
  steps: readonly (readonly (number | null)[])[],
  beside: "median" | "fastest" = "median",
): { rank: number; factor: number } | null {
  const world = Math.max(0, ...steps.map((each) => each.length));
  const usually = Array.from(
    { length: world },
    (_, rank) => medianOf(steps.map((each) => each[rank] ?? null)) ?? 0,
  );
  if (world < 2 || !usually.some(Boolean)) return null;
  const rank = usually.indexOf(Math.max(...usually));
  const others = usually.filter((seconds, other) => seconds > 0 && other !== rank);
  const usual = beside === "fastest" ? Math.min(...others) : (medianOf(others) ?? 0);
  return others.length ? { rank, factor: usually[rank]! / usual } : null;
}

/** Seconds that each rank takes for a byte. */
export function perByte(speeds: readonly (readonly (number | null)[])[]): (number | null)[][] {
  return speeds.map((each) => each.map((speed) => (speed ? 1 / speed : null)));
}

/** The lower one of two that are in the middle. */
export function medianOf(values: readonly (number | null)[]): number | null {
  const known = values.filter((value): value is number => value !== null).sort((a, b) => a - b);
  return known[Math.floor((known.length - 1) / 2)] ?? null;
}
