// Calls everything that the npm clients have for Tandem's endpoints, and says of each whether it
// went well: node run.mjs http://127.0.0.1:8642 MODEL
import assert from "node:assert/strict";

import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import Anthropic from "@anthropic-ai/sdk";
import { generateObject, generateText, stepCountIs, streamText, tool } from "ai";
import OpenAI from "openai";
import { z } from "zod";

const [, , url, model] = process.argv;
const openai = new OpenAI({ baseURL: `${url}/v1`, apiKey: "-", maxRetries: 0, timeout: 60_000 });
const anthropic = new Anthropic({ baseURL: url, apiKey: "-", maxRetries: 0, timeout: 60_000 });
const compatible = createOpenAICompatible({
  name: "tandem", baseURL: `${url}/v1`, includeUsage: true, supportsStructuredOutputs: true,
})(model);
const claude = createAnthropic({ baseURL: `${url}/v1`, apiKey: "-" })(model);

const messages = [{ role: "user", content: "What is the capital of France?" }];
const greedy = { model, messages, temperature: 0, max_tokens: 24 };
const parameters = {
  type: "object",
  properties: { city: { type: "string", maxLength: 12 } },
  required: ["city"],
  additionalProperties: false,
};
const weather = { name: "weather", description: "Tells the weather.", parameters };
const tools = [{ type: "function", function: weather }];
const claudeTools = [{ name: "weather", description: "Tells the weather.", input_schema: parameters }];
const schema = { type: "json_schema", json_schema: { name: "place", schema: parameters } };
const never = "a model that is not served";

async function collect(stream, pick) {
  const parts = [];
  for await (const event of stream) parts.push(pick(event) ?? "");
  return parts.join("");
}

async function leave(stream) {
  // The iterator's return() is what a broken-off loop calls.
  for await (const _ of stream) break;
}

const checks = {
  async openai_chat() {
    const whole = await openai.chat.completions.create(greedy);
    const stream = await openai.chat.completions.create({
      ...greedy, stream: true, stream_options: { include_usage: true },
    });
    let usage;
    const text = await collect(stream, (chunk) => {
      usage = chunk.usage ?? usage;
      return chunk.choices[0]?.delta.content;
    });
    assert.equal(text, whole.choices[0].message.content);
    assert.deepEqual(
      [usage.prompt_tokens, usage.completion_tokens],
      [whole.usage.prompt_tokens, whole.usage.completion_tokens],
    );
  },
  async openai_chat_helper() {
    const runner = openai.chat.completions.stream({
      ...greedy, max_tokens: 80, tools, tool_choice: "required" });
    const made = await runner.finalChatCompletion();
    const [call] = made.choices[0].message.tool_calls;
    assert.equal(call.function.name, "weather");
    assert.equal(typeof JSON.parse(call.function.arguments).city, "string");
    const follow = await openai.chat.completions.create({
      ...greedy, tools,
      messages: [...messages, made.choices[0].message,
        { role: "tool", tool_call_id: call.id, content: "Rain." }],
    });
    assert.ok(follow.usage.prompt_tokens_details.cached_tokens > 0);
  },
  async openai_schema() {
    const made = await openai.chat.completions.parse({ ...greedy, max_tokens: 60, response_format: schema });
    assert.equal(typeof JSON.parse(made.choices[0].message.content).city, "string");
  },
  async openai_errors() {
    await assert.rejects(openai.chat.completions.create({ ...greedy, model: never }), OpenAI.NotFoundError);
    await assert.rejects(openai.chat.completions.create({ ...greedy, top_p: 7 }), OpenAI.BadRequestError);
    await assert.rejects(
      openai.chat.completions.create({ ...greedy, max_tokens: 2000 }, { timeout: 1 }),
      OpenAI.APIConnectionTimeoutError,
    );
  },
  async openai_cancel() {
    await leave(await openai.chat.completions.create({ ...greedy, max_tokens: 4000, ignore_eos: true, stream: true }));
    const controller = new AbortController();
    const asked = openai.chat.completions.create(
      { ...greedy, max_tokens: 4000, ignore_eos: true }, { signal: controller.signal });
    setTimeout(() => controller.abort(), 50);
    await assert.rejects(asked, OpenAI.APIUserAbortError);
  },
  async openai_completions() {
    const asked = { model, prompt: "The capital of France is", temperature: 0, max_tokens: 8 };
    const whole = await openai.completions.create(asked);
    const stream = await openai.completions.create({ ...asked, stream: true });
    assert.equal(await collect(stream, (chunk) => chunk.choices[0]?.text), whole.choices[0].text);
  },
  async openai_responses() {
    const asked = { model, input: messages[0].content, temperature: 0, max_output_tokens: 24 };
    const whole = await openai.responses.create(asked);
    assert.equal(whole.status === "completed" || whole.status === "incomplete", true);
    const runner = openai.responses.stream(asked);
    const final = await runner.finalResponse();
    assert.equal(final.output_text, whole.output_text);
    assert.deepEqual(final.usage.output_tokens, whole.usage.output_tokens);
    const next = await openai.responses.create({
      model, input: "And of Spain?", previous_response_id: whole.id, max_output_tokens: 8 });
    assert.ok(next.usage.input_tokens > whole.usage.input_tokens);
    assert.equal((await openai.responses.retrieve(whole.id)).id, whole.id);
    assert.ok((await openai.responses.inputItems.list(whole.id)).data.length);
    await openai.responses.delete(whole.id);
    await assert.rejects(openai.responses.retrieve(whole.id), OpenAI.NotFoundError);
  },
  async openai_responses_tools() {
    const made = await openai.responses.create({
      model, input: "Weather in Paris?", tools: [{ type: "function", strict: true, ...weather }],
      tool_choice: "required", max_output_tokens: 80, temperature: 0,
    });
    const call = made.output.find((item) => item.type === "function_call");
    assert.equal(call.name, "weather");
    JSON.parse(call.arguments);
  },
  async openai_background() {
    let job = await openai.responses.create({
      model, input: "Count.", background: true, max_output_tokens: 16 });
    assert.ok(["queued", "in_progress", "completed", "incomplete"].includes(job.status), job.status);
    for (let i = 0; i < 200 && ["queued", "in_progress"].includes(job.status); i++) {
      await new Promise((done) => setTimeout(done, 25));
      job = await openai.responses.retrieve(job.id);
    }
    assert.ok(["completed", "incomplete"].includes(job.status), job.status);
    const long = await openai.responses.create({
      model, input: "Count.", background: true, max_output_tokens: 3000 });
    assert.equal((await openai.responses.cancel(long.id)).status, "cancelled");
  },
  async openai_models() {
    const all = [];
    for await (const each of openai.models.list()) all.push(each.id);
    assert.ok(all.includes(model));
    assert.equal((await openai.models.retrieve(model)).id, model);
  },
  async anthropic_messages() {
    const asked = { model, messages, max_tokens: 24, temperature: 0, system: "Be brief." };
    const whole = await anthropic.messages.create(asked);
    const runner = anthropic.messages.stream(asked);
    const final = await runner.finalMessage();
    assert.deepEqual(final.content.map((b) => b.text), whole.content.map((b) => b.text));
    assert.equal(final.stop_reason, whole.stop_reason);
    assert.equal(final.usage.output_tokens, whole.usage.output_tokens);
    const { max_tokens, temperature, ...counted } = asked;
    const { input_tokens } = await anthropic.messages.countTokens(counted);
    const { usage } = whole;
    assert.equal(
      input_tokens,
      usage.input_tokens + usage.cache_read_input_tokens + usage.cache_creation_input_tokens,
    );
  },
  async anthropic_tools() {
    const made = await anthropic.messages.stream({
      model, messages, max_tokens: 80, tools: claudeTools, tool_choice: { type: "any" },
    }).finalMessage();
    assert.equal(made.stop_reason, "tool_use");
    const call = made.content.find((block) => block.type === "tool_use");
    assert.equal(typeof call.input.city, "string");
    const follow = await anthropic.messages.create({
      model, max_tokens: 8, tools: claudeTools,
      messages: [...messages, { role: "assistant", content: made.content },
        { role: "user", content: [{ type: "tool_result", tool_use_id: call.id, content: "Rain." }] }],
    });
    assert.ok(follow.usage.cache_read_input_tokens > 0);
  },
  async anthropic_errors() {
    const asked = { model, messages, max_tokens: 8 };
    await assert.rejects(anthropic.messages.create({ ...asked, model: never }), Anthropic.NotFoundError);
    await assert.rejects(anthropic.messages.create({ ...asked, max_tokens: 0 }), Anthropic.BadRequestError);
    await assert.rejects(
      anthropic.messages.create({ ...asked, max_tokens: 2000 }, { timeout: 1 }),
      Anthropic.APIConnectionTimeoutError,
    );
    const runner = anthropic.messages.stream({ ...asked, max_tokens: 3000 });
    runner.on("streamEvent", () => runner.abort());
    await assert.rejects(runner.finalMessage(), Anthropic.APIUserAbortError);
  },
  async ai_text() {
    const asked = { prompt: messages[0].content, temperature: 0, maxOutputTokens: 24 };
    for (const provider of [compatible, claude]) {
      const whole = await generateText({ model: provider, ...asked });
      const stream = streamText({ model: provider, ...asked });
      assert.equal(await collect(stream.textStream, (text) => text), whole.text);
      assert.equal((await stream.usage).outputTokens, whole.usage.outputTokens);
    }
  },
  async ai_object() {
    const made = await generateObject({
      model: compatible, prompt: "A city.", maxOutputTokens: 60,
      schema: z.object({ city: z.string().max(12) }),
    });
    assert.equal(typeof made.object.city, "string");
  },
  async ai_tools() {
    const asked = [];
    for (const provider of [compatible, claude]) {
      await generateText({
        model: provider, prompt: "Weather in Paris?", maxOutputTokens: 80, toolChoice: "required",
        stopWhen: stepCountIs(1),
        tools: { weather: tool({
          inputSchema: z.object({ city: z.string().max(12) }),
          execute: async ({ city }) => { asked.push(city); return "Rain."; },
        }) },
      });
    }
    assert.equal(asked.length, 2);
  },
  async ai_cancel() {
    const controller = new AbortController();
    const stream = streamText({
      model: compatible, prompt: "Count.", maxOutputTokens: 3000, abortSignal: controller.signal,
      onError: () => {},
    });
    let aborted = false;
    for await (const part of stream.fullStream) {
      if (part.type === "text-delta") controller.abort();
      aborted ||= part.type === "abort";
    }
    assert.ok(aborted);
  },
};

for (const [name, check] of Object.entries(checks)) {
  try {
    await check();
    console.log(`ok ${name}`);
  } catch (error) {
    console.log(`failed ${name}: ${error?.stack ?? error}`.replaceAll("\n", " | "));
  }
}
