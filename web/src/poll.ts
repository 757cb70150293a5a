// Asking again and again, one question at a time, and not while nobody looks.

import { useEffect, useRef, useState } from "preact/hooks";
import { apiKey, said } from "./api";

export interface Polled<T> {
  data: T | null;
  /** Why the last try failed; empty when it did not. `data` is then what was known before. */
  error: string;
}

/** Follows `ask`, which is called anew every `every` milliseconds and when `about` changes. */
export function usePoll<T>(
  ask: (signal: AbortSignal, before: T | null) => Promise<T>,
  every: number,
  about = "",
): Polled<T> & { again: () => void } {
  const [polled, setPolled] = useState<Polled<T>>({ data: null, error: "" });
  const latest = useRef(ask);
  latest.current = ask;
  const wake = useRef(() => {});
  useEffect(() => {
    const stop = poll(
      (signal, before) => latest.current(signal, before),
      every,
      setPolled,
    );
    wake.current = stop.again;
    return stop.stop;
  }, [every, about]);
  return { ...polled, again: () => wake.current() };
}

function poll<T>(
  ask: (signal: AbortSignal, before: T | null) => Promise<T>,
  every: number,
  tell: (polled: Polled<T>) => void,
): { stop: () => void; again: () => void } {
  let known: T | null = null;
  let timer: number | undefined;
  let asking: AbortController | null = null;
  let failures = 0;
  let stopped = false;
  const plan = (wait: number) => {
    clearTimeout(timer);
    if (!document.hidden) timer = window.setTimeout(look, wait);
  };
  const look = async () => {
    asking?.abort();
    const mine = (asking = new AbortController());
    let error = "";
    try {
      const found = await ask(mine.signal, known);
      failures = 0;
      known = found;
    } catch (thrown) {
      if (mine.signal.aborted) return;
      failures += 1;
      error = said(thrown);
    }
    if (mine !== asking || stopped) return;
    asking = null;
    tell({ data: known, error });
    plan(every * Math.min(8, 2 ** failures / (failures ? 2 : 1)));
  };
  const onVisibility = () => plan(0);
  document.addEventListener("visibilitychange", onVisibility);
  const unfollow = apiKey.follow(() => plan(0));
  void look();
  return {
    again: () => plan(0),
    stop: () => {
      stopped = true;
      clearTimeout(timer);
      asking?.abort();
      unfollow();
      document.removeEventListener("visibilitychange", onVisibility);
    },
  };
}
