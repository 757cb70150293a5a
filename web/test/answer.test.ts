import { describe, expect, test } from "vitest";
import { apply, isOver, NO_ANSWER } from "../src/chat/answer";
import { bodyOf, newConversation, openCalls, titleOf, type Turn } from "../src/chat/conversation";
import { SseReader } from "../src/chat/sse";

const chunk = (delta: object, more: object = {}) =>
  `data: ${JSON.stringify({ choices: [{ index: 0, delta, finish_reason: null, ...more }] })}\n`;
const STREAM = [
  ": prefill 10/20\nid: 20\n\n",
  `${chunk({ role: "assistant", content: "" })}id: 100\n\n`,
  `${chunk({ reasoning_content: "Hm" })}id: 200\n\n`,
  `${chunk({ content: "Hé" })}id: 300\n\n`,
  `${chunk({ tool_calls: [{ index: 0, id: "c1", function: { name: "f", arguments: "" } }] })}id: 400\n\n`,
  `${chunk({ tool_calls: [{ index: 0, function: { arguments: '{"a"' } }] })}id: 450\n\n`,
  `${chunk({ tool_calls: [{ index: 0, function: { arguments: ":1}" } }] })}id: 500\n\n`,
  `${chunk({}, { finish_reason: "tool_calls" })}id: 600\n\n`,
  'data: {"choices":[],"usage":{"prompt_tokens":20,"completion_tokens":7,"prompt_tokens_details":{"cached_tokens":5}}}\nid: 700\n\n',
  "data: [DONE]\nid: 714\n\n",
].join("");

function read(text: string, step: number, from = NO_ANSWER) {
  const reader = new SseReader();
  let answer = from;
  let done = false;
  for (let at = 0; at < text.length; at += step) {
    for (const event of reader.push(text.slice(at, at + step))) {
      const next = apply(answer, event);
      [answer, done] = [next.answer, done || next.done];
    }
  }
  return { answer, done };
}

describe("a stream", () => {
  const whole = read(STREAM, STREAM.length);

  test("becomes an answer", () => {
    expect(whole).toEqual({
      done: true,
      answer: {
        content: "Hé",
        reasoning: "Hm",
        calls: [{ id: "c1", name: "f", arguments: '{"a":1}' }],
        finish: "tool_calls",
        error: "",
        usage: { prompt_tokens: 20, completion_tokens: 7, cached: 5 },
        progress: "",
        offset: 714,
      },
    });
  });

  test("is the same however it is cut, and with carriage returns", () => {
    for (const step of [1, 2, 3, 7, 50]) expect(read(STREAM, step)).toEqual(whole);
    expect(read(STREAM.replaceAll("\n", "\r\n"), 5)).toEqual(whole);
  });

  test("goes on at any offset that an event ends at", () => {
    const ends = [...STREAM.matchAll(/id: (\d+)\n\n/g)];
    for (const end of ends.slice(0, -1)) {
      const cut = end.index + end[0].length;
      const half = read(STREAM.slice(0, cut), 9).answer;
      expect(half.offset).toBe(Number(end[1]));
      expect(read(STREAM.slice(cut), 9, half)).toEqual(whole);
    }
  });

  test("tells how far the prompt is", () => {
    expect(read(STREAM.slice(0, 30), 30).answer.progress).toBe("prefill 10/20");
  });

  test("that ends in an error has failed, and keeps what came", () => {
    const failed = read(`${chunk({ content: "He" })}id: 9\n\ndata: {"error":{"message":"gone"}}\n\n`, 4);
    expect(failed.done).toBe(true);
    expect(failed.answer).toMatchObject({ content: "He", finish: "failed", error: "gone", offset: 9 });
    expect(isOver(failed.answer)).toBe(true);
    expect(read("data: {\n\n", 2).answer.finish).toBe("failed");
  });

  test("an event that is cut off is not taken", () => {
    expect(read('data: {"choices":[{"delta":{"content":"x"}}]}\nid: 5\n', 3).answer).toEqual(NO_ANSWER);
  });
});

describe("a conversation", () => {
  const answer = read(STREAM, 9).answer;
  const turn: Turn = { role: "assistant", answer, stream: "s", model: "m", seconds: 1 };
  const asked = { ...newConversation("1", 0), model: "m", turns: [{ role: "user", content: "Q" }, turn] as Turn[] };

  test("is sent as it was, calls and reasoning too", () => {
    const told: Turn = { role: "tool", call: "c1", name: "f", content: "2" };
    const body = bodyOf({ ...asked, turns: [...asked.turns, told] });
    expect(body.messages).toEqual([
      { role: "user", content: "Q" },
      {
        role: "assistant", content: "Hé", reasoning_content: "Hm",
        tool_calls: [{ id: "c1", type: "function", function: { name: "f", arguments: '{"a":1}' } }],
      },
      { role: "tool", tool_call_id: "c1", name: "f", content: "2" },
    ]);
    expect(openCalls(asked)).toMatchObject([{ id: "c1", name: "f" }]);
    expect(openCalls({ ...asked, turns: [...asked.turns, told] })).toEqual([]);
  });

  test("sends only the parameters that were chosen", () => {
    const usual = bodyOf(asked);
    expect(Object.keys(usual).sort()).toEqual(["messages", "model", "stream", "stream_options"]);
    const parameters = {
      ...asked.parameters, system: "S", temperature: 0, thinking: false, tools: '[{"type":"function"}]',
    };
    expect(bodyOf({ ...asked, parameters })).toMatchObject({
      temperature: 0, chat_template_kwargs: { enable_thinking: false }, tools: [{ type: "function" }],
    });
    expect(() => bodyOf({ ...asked, parameters: { ...parameters, tools: "{" } })).toThrow(SyntaxError);
  });

  test("is named by its first line", () => {
    expect(titleOf("\n Hello\nthere")).toBe("Hello");
    expect(titleOf("x".repeat(100))).toHaveLength(60);
    expect(titleOf("  ")).toBe("New conversation");
  });
});
