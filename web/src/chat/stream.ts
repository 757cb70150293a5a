// Follows an answer at the server. It goes on there when the connection is lost or the page is
// left, and here from the byte that was reached (docs/streams.md).

import { ApiError, call, said } from "../api";
import { type Answer, apply, failed, isOver } from "./answer";
import { SseReader } from "./sse";

/** Seconds that an answer goes on while nobody follows it. */
const LEASE = "600";
/** Milliseconds before each try to go on; after these it is given up. */
const WAITS = [0, 300, 1000, 2000, 4000, 8000, 15_000, 30_000];

export interface Followed {
  /** Called with each change. */
  grow: (answer: Answer) => void;
  signal: AbortSignal;
}

/** Ask for an answer under the name `stream`, and follow it to its end. */
export async function begin(stream: string, body: object, to: Followed, from: Answer): Promise<void> {
  const headers = {
    "content-type": "application/json",
    "x-conversation-id": stream,
    "x-stream-lease": LEASE,
  };
  let answer = from;
  try {
    const response = await call("/v1/chat/completions", {
      method: "POST",
      headers,
      body: JSON.stringify(body),
      signal: to.signal,
    });
    answer = await read(response, answer, to);
  } catch (error) {
    if (to.signal.aborted) return;
    if (error instanceof ApiError) {
      to.grow(failed(answer, error.message));
      return;
    }
    answer = error instanceof Cut ? error.answer : answer;
  }
  if (!isOver(answer)) await resume(stream, answer, to);
}

/** Go on with an answer that was begun, here or before the page was loaded. */
export async function resume(stream: string, from: Answer, to: Followed): Promise<void> {
  let answer = from;
  let tries = 0;
  while (!isOver(answer) && !to.signal.aborted) {
    const wait = WAITS[tries];
    if (wait === undefined) {
      to.grow(failed(answer, "the connection is lost"));
      return;
    }
    tries += 1;
    await pause(wait, to.signal);
    const reached = answer.offset;
    try {
      const path = `/v1/stream/${encodeURIComponent(stream)}?from=${answer.offset}`;
      answer = await read(await call(path, { signal: to.signal }), answer, to);
    } catch (error) {
      if (to.signal.aborted) return;
      if (error instanceof ApiError && error.status !== 401 && error.status < 500) {
        to.grow(failed(answer, error.status === 404 ? GONE : said(error)));
        return;
      }
      if (error instanceof Cut) answer = error.answer;
    }
    if (answer.offset > reached) tries = 1;
  }
}

const GONE = "the rest of this answer is gone: the server was started anew, or it was too long ago";

/** End an answer at the server, so that nothing more of it is computed. */
export async function stop(stream: string): Promise<void> {
  await call(`/v1/stream/${encodeURIComponent(stream)}`, { method: "DELETE" });
}

/** The connection broke off. */
class Cut extends Error {
  constructor(readonly answer: Answer) {
    super("the connection broke off");
  }
}

async function read(response: Response, from: Answer, to: Followed): Promise<Answer> {
  const reader = response.body?.getReader();
  if (!reader) return from;
  const [text, events] = [new TextDecoder(), new SseReader()];
  let answer = from;
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return answer;
      let over = false;
      for (const event of events.push(text.decode(value, { stream: true }))) {
        const next = apply(answer, event);
        answer = next.answer;
        over ||= next.done;
      }
      to.grow(answer);
      if (over) return answer;
    }
  } catch (error) {
    if (to.signal.aborted) throw error;
    throw new Cut(answer);
  } finally {
    reader.cancel().catch(() => {});
  }
}

function pause(milliseconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((done) => {
    const timer = setTimeout(done, milliseconds);
    signal.addEventListener("abort", () => (clearTimeout(timer), done()), { once: true });
  });
}
