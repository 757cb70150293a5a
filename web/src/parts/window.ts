// Which rows of a long list are in sight.

import { useEffect, useRef, useState } from "preact/hooks";
import type { RefObject } from "preact";

export interface Range {
  first: number;
  /** Behind the last. */
  end: number;
}

/** Rows to draw: those in sight, and `spare` on both sides, in steps of `spare`, so that few
 * scroll events change anything. */
export function rangeOf(top: number, height: number, row: number, total: number, spare = 10): Range {
  const first = Math.floor(top / row / spare) * spare - spare;
  const end = Math.ceil((top + height) / row / spare) * spare + spare;
  const from = Math.max(0, Math.min(first, total - 1));
  return { first: from, end: Math.max(from, Math.min(total, end)) };
}

/** The rows in sight of a scrolling element. */
export function useRange<T extends HTMLElement>(row: number, total: number): [RefObject<T>, Range] {
  const ref = useRef<T>(null);
  const [range, setRange] = useState<Range>({ first: 0, end: Math.min(total, 30) });
  useEffect(() => {
    const element = ref.current;
    if (!element) return undefined;
    const look = () => {
      const next = rangeOf(element.scrollTop, element.clientHeight, row, total);
      setRange((now) => (now.first === next.first && now.end === next.end ? now : next));
    };
    look();
    element.addEventListener("scroll", look, { passive: true });
    const observer = new ResizeObserver(look);
    observer.observe(element);
    return () => {
      element.removeEventListener("scroll", look);
      observer.disconnect();
    };
  }, [row, total]);
  return [ref, range];
}
