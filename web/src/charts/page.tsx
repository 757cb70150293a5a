// The last hour.

import { useState } from "preact/hooks";
import { getJson } from "../api";
import { brief, count, percent, rate, reading } from "../format";
import { Empty } from "../parts/bits";
import { usePoll } from "../poll";
import type { Cluster, History } from "../wire";
import { Chart } from "./chart";
import { type Line, medianOf, merged, perByte, straggler } from "./series";

const SPANS = [
  [300, "5 min"],
  [900, "15 min"],
  [3600, "1 hour"],
] as const;

/** Ranks that have a line each; of more, the slowest and the median are drawn. */
const NAMED = 8;

/** A rank is slow that takes more than so many times as long as the fastest, to read its weights. */
const SLOW = 1.25;

/** Seconds. They read every 256 steps, which may take longer than a sample. */
const READ_GAP = 120;

/** `query` names the group, which `view` is of. */
export function ChartsPage({ view, query }: { view: Cluster | null; query: string }) {
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
      <Charts history={data} span={span} view={view} />
    </>
  );
}

function Charts({ history, span, view }: { history: History; span: number; view: Cluster | null }) {
  const shared = { times: history.at, now: history.now, span, gap: history.every_seconds * 3 };
  const slow = straggler(history.step_seconds.slice(-60));
  const slowNote =
    slow && slow.factor > 1.1 ? `rank ${slow.rank} takes ${slow.factor.toFixed(1)} times the median` : "";
  const reads = history.read_bytes_per_second;
  const reader = straggler(perByte(reads.slice(-60)), "fastest");
  const readNote =
    reader && reader.factor > SLOW
      ? `rank ${reader.rank}${machineOf(view, reader.rank)} is ${reader.factor.toFixed(1)} times slower than the fastest`
      : "";
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
        lines={rankLines(history.step_seconds, slow?.rank ?? 0)}
      />
      <Chart
        {...shared}
        gap={READ_GAP}
        title="Own weights read, by rank"
        note={readNote}
        format={reading}
        lines={rankLines(reads, reader?.rank ?? 0)}
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
function rankLines(samples: (number | null)[][], slowest: number): Line[] {
  const world = Math.max(1, ...samples.map((each) => each.length));
  const slow = line(`rank ${slowest}`, of(samples, slowest));
  if (world > NAMED) return [{ ...line("median rank", samples.map(medianOf)), weight: "second" }, slow];
  const others = Array.from({ length: world }, (_, rank) => rank).filter((rank) => rank !== slowest);
  return [...others.map((r): Line => ({ ...line(`rank ${r}`, of(samples, r)), weight: "second" })), slow];
}

function of(samples: (number | null)[][], rank: number): (number | null)[] {
  return samples.map((each) => each[rank] ?? null);
}

/** " on NAME", where it is known where a rank runs. */
function machineOf(view: Cluster | null, rank: number): string {
  const id = view?.ranks.find((each) => each.rank === rank)?.node_id;
  const name = view?.nodes.find((node) => node.node_id === id)?.hostname;
  return name ? ` on ${name}` : "";
}
