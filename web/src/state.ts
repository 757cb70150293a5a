// A value that components follow.

import { useEffect, useState } from "preact/hooks";

export class State<T> {
  private followers = new Set<() => void>();

  constructor(private current: T) {}

  get value(): T {
    return this.current;
  }

  set(next: T): void {
    if (next === this.current) return;
    this.current = next;
    for (const follower of [...this.followers]) follower();
  }

  follow(follower: () => void): () => void {
    this.followers.add(follower);
    return () => this.followers.delete(follower);
  }
}

export function useValue<T>(state: State<T>): T {
  const [, redraw] = useState(0);
  useEffect(() => {
    let seen = state.value;
    const look = () => {
      if (state.value !== seen) {
        seen = state.value;
        redraw((n) => n + 1);
      }
    };
    redraw((n) => n + 1); // it may have changed between the first drawing and now
    return state.follow(look);
  }, [state]);
  return state.value;
}
