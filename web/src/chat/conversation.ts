// Conversations: what is kept of them, and what of them the model is asked. Pure.

import type { Answer } from "./answer";

export interface Parameters {
  system: string;
  temperature: number | null;
  top_p: number | null;
  max_tokens: number | null;
  seed: number | null;
  /** Whether the model reasons first; null for its own habit. */
  thinking: boolean | null;
  /** As JSON, in OpenAI's shape; empty for none. */
  tools: string;
}

export const USUAL: Parameters = {
  system: "",
  temperature: null,
  top_p: null,
  max_tokens: null,
  seed: null,
  thinking: null,
  tools: "",
};

export type Turn =
  | { role: "user"; content: string }
  | { role: "tool"; call: string; name: string; content: string }
  | {
      role: "assistant";
      answer: Answer;
      /** The stream's name at the server while it may still be followed there; else empty. */
      stream: string;
      model: string;
      seconds: number;
    };

export interface Conversation {
  id: string;
  title: string;
  model: string;
  /** Unix time in milliseconds of the last change. */
  changed: number;
  parameters: Parameters;
  turns: Turn[];
}

export function newConversation(id: string, now: number, before?: Conversation): Conversation {
  return {
    id,
    title: "New conversation",
    model: before?.model ?? "",
    changed: now,
    parameters: before?.parameters ?? USUAL,
    turns: [],
  };
}

export function titleOf(text: string): string {
  const line = text.trim().split("\n")[0] ?? "";
  return line.length > 60 ? `${line.slice(0, 59)}…` : line || "New conversation";
}

/** The turn that may be growing: the last, if it is an answer. */
export function lastAnswer(
  conversation: Conversation,
): Extract<Turn, { role: "assistant" }> | null {
  const last = conversation.turns.at(-1);
  return last?.role === "assistant" ? last : null;
}

/** Calls of the last answer that nobody has answered yet. */
export function openCalls(conversation: Conversation): { id: string; name: string }[] {
  const answered = new Set(
    conversation.turns.flatMap((turn) => (turn.role === "tool" ? [turn.call] : [])),
  );
  const answers = conversation.turns.filter((turn) => turn.role === "assistant");
  const last = answers.at(-1);
  if (last?.role !== "assistant" || last.answer.finish !== "tool_calls") return [];
  return last.answer.calls.filter((call) => !answered.has(call.id));
}

type Message = Record<string, unknown>;

/** The body of a request for the next answer. Raises SyntaxError for tools that are no JSON. */
export function bodyOf(conversation: Conversation): Record<string, unknown> {
  const { parameters: asked, model } = conversation;
  const messages: Message[] = conversation.turns.flatMap(messageOf);
  if (asked.system.trim()) messages.unshift({ role: "system", content: asked.system });
  const body: Record<string, unknown> = {
    messages,
    stream: true,
    stream_options: { include_usage: true },
  };
  if (model) body.model = model;
  for (const name of ["temperature", "top_p", "max_tokens", "seed"] as const) {
    if (asked[name] !== null) body[name] = asked[name];
  }
  if (asked.thinking !== null) body.chat_template_kwargs = { enable_thinking: asked.thinking };
  if (asked.tools.trim()) body.tools = JSON.parse(asked.tools) as unknown;
  return body;
}

function messageOf(turn: Turn): Message[] {
  if (turn.role === "user") return [{ role: "user", content: turn.content }];
  if (turn.role === "tool") {
    return [{ role: "tool", tool_call_id: turn.call, name: turn.name, content: turn.content }];
  }
  const { content, reasoning, calls } = turn.answer;
  if (!content && !calls.length) return [];
  const made: Message = { role: "assistant", content };
  if (reasoning) made.reasoning_content = reasoning;
  if (calls.length) {
    made.tool_calls = calls.map((call) => ({
      id: call.id,
      type: "function",
      function: { name: call.name, arguments: call.arguments },
    }));
  }
  return [made];
}
