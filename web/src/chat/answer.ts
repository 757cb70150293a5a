// One answer as it grows. Pure: events in, the answer out.

import type { SseEvent } from "./sse";

export interface Call {
  id: string;
  name: string;
  arguments: string;
}

export interface Usage {
  prompt_tokens: number;
  completion_tokens: number;
  cached: number;
}

export interface Answer {
  content: string;
  reasoning: string;
  calls: Call[];
  /** "stop", "length", "tool_calls"; "stopped" by the user; "failed"; empty while it grows. */
  finish: string;
  error: string;
  usage: Usage | null;
  /** What the server is at before the first token, as "prefill 4096/67580". */
  progress: string;
  /** Bytes of the stream that this is made of. */
  offset: number;
}

export const NO_ANSWER: Answer = {
  content: "",
  reasoning: "",
  calls: [],
  finish: "",
  error: "",
  usage: null,
  progress: "",
  offset: 0,
};

interface Delta {
  content?: string | null;
  reasoning_content?: string | null;
  tool_calls?: {
    index: number;
    id?: string;
    function?: { name?: string; arguments?: string };
  }[];
}

interface Chunk {
  choices?: { index?: number; delta?: Delta; finish_reason?: string | null }[];
  usage?: {
    prompt_tokens: number;
    completion_tokens: number;
    prompt_tokens_details?: { cached_tokens?: number };
  } | null;
  error?: { message?: string };
}

/** True once nothing more will come. */
export function isOver(answer: Answer): boolean {
  return answer.finish !== "";
}

/** The answer with one more event. `done` is true for the last of a whole stream. */
export function apply(answer: Answer, event: SseEvent): { answer: Answer; done: boolean } {
  const offset = event.id ?? answer.offset;
  if (event.kind === "comment") {
    return { answer: { ...answer, progress: event.text, offset }, done: false };
  }
  if (event.text === "[DONE]") {
    return { answer: { ...answer, finish: answer.finish || "stop", progress: "", offset }, done: true };
  }
  let chunk: Chunk;
  try {
    chunk = JSON.parse(event.text) as Chunk;
  } catch {
    return { answer: failed(answer, "the server sent what is no JSON", offset), done: true };
  }
  if (chunk.error) {
    return { answer: failed(answer, chunk.error.message ?? "unknown error", offset), done: true };
  }
  return { answer: { ...grown(answer, chunk), offset }, done: false };
}

export function failed(answer: Answer, error: string, offset = answer.offset): Answer {
  return { ...answer, finish: "failed", error, progress: "", offset };
}

function grown(answer: Answer, chunk: Chunk): Answer {
  const next = { ...answer };
  if (chunk.usage) {
    next.usage = {
      prompt_tokens: chunk.usage.prompt_tokens,
      completion_tokens: chunk.usage.completion_tokens,
      cached: chunk.usage.prompt_tokens_details?.cached_tokens ?? 0,
    };
  }
  const choice = chunk.choices?.find((each) => (each.index ?? 0) === 0);
  if (!choice) return next;
  const { delta } = choice;
  if (delta?.content || delta?.reasoning_content || delta?.tool_calls) next.progress = "";
  next.content += delta?.content ?? "";
  next.reasoning += delta?.reasoning_content ?? "";
  for (const part of delta?.tool_calls ?? []) next.calls = called(next.calls, part);
  if (choice.finish_reason) next.finish = choice.finish_reason;
  return next;
}

function called(calls: Call[], part: NonNullable<Delta["tool_calls"]>[number]): Call[] {
  const made = [...calls];
  const before = made[part.index] ?? { id: "", name: "", arguments: "" };
  made[part.index] = {
    id: part.id ?? before.id,
    name: before.name + (part.function?.name ?? ""),
    arguments: before.arguments + (part.function?.arguments ?? ""),
  };
  return made;
}
