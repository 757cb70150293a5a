// What was said.

import { useState } from "preact/hooks";
import { count, duration, rate } from "../format";
import { Empty } from "../parts/bits";
import { Icon } from "../parts/icon";
import { memo } from "../parts/memo";
import { type Answer, type Call, isOver } from "./answer";
import * as chats from "./chats";
import { type Conversation, openCalls, type Turn } from "./conversation";
import { Copy, Markdown } from "./markdown_view";

export function Turns({ conversation }: { conversation: Conversation }) {
  const { turns } = conversation;
  if (!turns.length) {
    return <Empty>Ask something. It stays in this browser, and an answer survives a reload.</Empty>;
  }
  const open = openCalls(conversation);
  return (
    <>
      {turns.map((turn, index) => (
        <TurnView key={index} turn={turn} last={index === turns.length - 1} id={conversation.id} />
      ))}
      {open.length ? <Results id={conversation.id} calls={open} /> : null}
    </>
  );
}

const TurnView = memo(({ turn, last, id }: { turn: Turn; last: boolean; id: string }) => {
  switch (turn.role) {
    case "user":
      return (
        <article class="turn user" aria-label="You">
          <p>{turn.content}</p>
        </article>
      );
    case "tool":
      return (
        <article class="turn tool" aria-label={`Result of ${turn.name}`}>
          <p>
            <b>{turn.name}</b> {turn.content}
          </p>
        </article>
      );
    case "assistant":
      return <AnswerView turn={turn} last={last} id={id} />;
  }
});

function AnswerView(props: {
  turn: Extract<Turn, { role: "assistant" }>;
  last: boolean;
  id: string;
}) {
  const { answer, seconds } = props.turn;
  const over = isOver(answer);
  const empty = !answer.content && !answer.reasoning && !answer.calls.length;
  return (
    <article class="turn answer" aria-label="Answer" aria-busy={!over}>
      {answer.reasoning ? <Reasoning answer={answer} /> : null}
      {answer.content ? <Markdown text={answer.content} /> : null}
      {answer.calls.map((call) => (
        <CallView key={call.id} call={call} />
      ))}
      {!over ? <p class="waiting">{empty ? stage(answer.progress) : <span class="caret" />}</p> : null}
      {answer.error ? (
        <p class="banner bad" role="alert">
          {answer.error}
        </p>
      ) : null}
      {over ? (
        <footer>
          <span>{summary(answer, seconds)}</span>
          {answer.content ? <Copy text={answer.content} what="the answer" /> : null}
          {props.last ? (
            <button
              type="button"
              class="quiet small"
              aria-label="Answer again"
              title="Answer again"
              onClick={() => chats.again(props.id)}
            >
              <Icon name="again" />
            </button>
          ) : null}
        </footer>
      ) : null}
      <span class="unseen" role="status">
        {over ? "The answer is complete." : "Answering."}
      </span>
    </article>
  );
}

function Reasoning({ answer }: { answer: Answer }) {
  const thinking = !answer.content && !answer.calls.length && !isOver(answer);
  const words = answer.reasoning.split(/\s+/).length;
  return (
    <details class="reasoning">
      <summary>{thinking ? `Reasoning… (${count(words)} words)` : `Reasoning, ${count(words)} words`}</summary>
      <Markdown text={answer.reasoning} />
    </details>
  );
}

function CallView({ call }: { call: Call }) {
  return (
    <div class="call">
      <header>
        <Icon name="sliders" />
        <b>{call.name}</b>
        <span>tool call</span>
      </header>
      <pre tabIndex={0}>{pretty(call.arguments)}</pre>
    </div>
  );
}

function Results({ id, calls }: { id: string; calls: { id: string; name: string }[] }) {
  const [told, setTold] = useState<Record<string, string>>({});
  const submit = (event: Event) => {
    event.preventDefault();
    chats.tell(
      id,
      calls.map((call) => ({ call: call.id, name: call.name, content: told[call.id] ?? "" })),
    );
  };
  return (
    <form class="results" onSubmit={submit}>
      {calls.map((call) => (
        <label class="field" key={call.id}>
          Result of {call.name}
          <textarea
            rows={2}
            value={told[call.id] ?? ""}
            onInput={(event) => setTold({ ...told, [call.id]: event.currentTarget.value })}
          />
        </label>
      ))}
      <button class="primary">Go on</button>
    </form>
  );
}

function stage(progress: string): string {
  const [what, figures] = progress.split(" ");
  if (what === "prefill") return `Reading the prompt, ${figures?.replace("/", " of ") ?? ""} tokens…`;
  if (what === "queued") return "Waiting for a slot…";
  return "…";
}

function summary(answer: Answer, seconds: number): string {
  const ends: Record<string, string> = {
    length: "cut: no more tokens allowed",
    stopped: "stopped",
    failed: "failed",
  };
  const { usage } = answer;
  const parts = [ends[answer.finish] ?? ""];
  if (usage) {
    parts.push(`${count(usage.completion_tokens)} tokens`);
    if (seconds > 0.2) parts.push(`${rate(usage.completion_tokens / seconds)} tok/s`);
    if (usage.cached) parts.push(`${count(usage.cached)} of ${count(usage.prompt_tokens)} prompt tokens cached`);
  }
  if (seconds > 0.2) parts.push(duration(seconds));
  return parts.filter(Boolean).join(" · ");
}

function pretty(text: string): string {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text; // still coming
  }
}
