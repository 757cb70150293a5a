// The last hour.

import { useState } from "preact/hooks";
import { getJson } from "../api";
import { brief, count, percent, rate } from "../format";
import { Empty } from "../parts/bits";
import { usePoll } from "../poll";
import type { History } from "../wire";
import { Chart } from "./chart";
import { type Line, medianOf, merged, straggler } from "./series";

const SPANS = [
  [300, "5 min"],
  [900, "15 min"],
  [3600, "1 hour"],
] as const;

/** Ranks that have a line each; of more, the slowest and the median are drawn. */
const NAMED = 8;

/** `query` names the group. */
export function ChartsPage({ query }: { query: string }) {
  const [chosen, setChosen] = useState<number | null>(null);
  const { data, error } = usePoll<History>(async (signal, before) => {
    const after = before?.number.at(-1) ?? 0;
    return merged(before, await getJson<History>(`/history?after=${after}${query}`, signal));
  }, 5000, query);
  if (!data) return <Empty>{error || "Waiting for the server."}</Empty>;
  const covered = data.at.length ? data.now - data.at[0]! : 0;
  const span = chosen ?? SPANS.find(([seconds]) => covered <= seconds)?.[0] ?? 3600;
  return (
    <>
      <h1>Charts</h1>
      <div class="segments" role="group" aria-label="Time shown">
        {SPANS.map(([seconds, label]) => (
          <button
            key={seconds}
            type="button"
            aria-pressed={span === seconds}
            onClick={() => setChosen(seconds)}
          >
            {label}
          </button>
        ))}
      </div>
      {data.at.length ? null : <Empty>The first sample comes within {data.every_seconds} s.</Empty>}
      <Charts history={data} span={span} />
    </>
  );
}

function Charts({ history, span }: { history: History; span: number }) {
  const shared = { times: history.at, now: history.now, span, gap: history.every_seconds * 3 };
  const slow = straggler(history.step_seconds.slice(-60));
  const slowNote =
    slow && slow.factor > 1.1 ? `rank ${slow.rank} takes ${slow.factor.toFixed(1)} times the median` : "";
  return (
    <div class="charts">
      <Chart
        {...shared}
        title="Decode, tok/s"
        format={rate}
        lines={[line("decode", history.decode_tokens_per_second)]}
      />
      <Chart
        {...shared}
        title="Prefill, tok/s"
        format={rate}
        lines={[line("prefill", history.prefill_tokens_per_second)]}
      />
      <Chart
        {...shared}
        title="Time to first token"
        format={brief}
        lines={pairLines(history.first_token_seconds)}
      />
      <Chart
        {...shared}
        title="Time between tokens"
        format={brief}
        lines={pairLines(history.inter_token_seconds)}
      />
      <Chart
        {...shared}
        title="Requests"
        format={(value) => count(Math.round(value * 10) / 10)}
        lines={[line("running", history.running), { ...line("queued", history.queued), weight: "second" }]}
      />
      <Chart
        {...shared}
        title="Prompt tokens from the cache"
        format={percent}
        top={1}
        lines={[line("cached", history.cached_share)]}
      />
      <Chart
        {...shared}
        title="Decode step by rank"
        note={slowNote}
        format={brief}
        lines={rankLines(history, slow?.rank ?? 0)}
      />
    </div>
  );
}

function line(name: string, values: (number | null)[]): Line {
  return { name, values, weight: "first" };
}

function pairLines(pairs: ([number, number] | null)[]): Line[] {
  return [
    { name: "95th percentile", values: pairs.map((pair) => pair?.[1] ?? null), weight: "second" },
    { name: "median", values: pairs.map((pair) => pair?.[0] ?? null), weight: "first" },
  ];
}

/** The slowest last, so that it is drawn above the others. */
function rankLines({ step_seconds: steps }: History, slowest: number): Line[] {
  const world = Math.max(1, ...steps.map((each) => each.length));
  const slow = line(`rank ${slowest}`, of(steps, slowest));
  if (world > NAMED) return [{ ...line("median rank", steps.map(medianOf)), weight: "second" }, slow];
  const others = Array.from({ length: world }, (_, rank) => rank).filter((rank) => rank !== slowest);
  return [...others.map((r): Line => ({ ...line(`rank ${r}`, of(steps, r)), weight: "second" })), slow];
}

function of(steps: History["step_seconds"], rank: number): (number | null)[] {
  return steps.map((each) => each[rank] ?? null);
}
