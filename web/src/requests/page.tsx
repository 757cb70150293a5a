// What is under way. Only the rows in sight are asked for, so any number of requests will do.

import { useState } from "preact/hooks";
import { ApiError, call, getJson, said } from "../api";
import { count } from "../format";
import { Empty } from "../parts/bits";
import { useWidth } from "../parts/size";
import { useRange } from "../parts/window";
import { usePoll } from "../poll";
import type { LiveRequests, Phase } from "../wire";
import { Row } from "./row";

const PHASES: readonly (readonly [Phase | "", string])[] = [
  ["", "All"],
  ["queued", "Queued"],
  ["prefill", "Prefill"],
  ["decode", "Decode"],
];

/** Pixels of the line above them. */
const HEAD = 35;
/** Rows of one answer, at most. */
const MOST = 200;

export function RequestsPage() {
  const [phase, setPhase] = useState<Phase | "">("");
  const [total, setTotal] = useState(0);
  const [failed, setFailed] = useState("");
  const [place, width] = useWidth<HTMLDivElement>(900);
  const narrow = width < 620;
  const row = narrow ? 108 : 48;
  const [list, range] = useRange<HTMLDivElement>(row, total);
  const limit = Math.min(MOST, Math.max(20, range.end - range.first));
  const about = `${phase} ${range.first} ${limit}`;
  const live = usePoll(async (signal) => {
    const asked = new URLSearchParams({ offset: String(range.first), limit: String(limit), phase });
    const found = await getJson<LiveRequests>(`/requests?${asked}`, signal);
    setTotal(found.total);
    return found;
  }, 1000, about);
  const { data } = live;
  const cancel = async (id: string) => {
    setFailed("");
    try {
      await call(`/v1/cancel/${encodeURIComponent(id)}`, { method: "POST" });
    } catch (error) {
      // One that has ended meanwhile is what was wanted.
      if (!(error instanceof ApiError && error.status === 404)) setFailed(said(error));
    }
    live.again();
  };
  const own = data && !data.all_visible ? "Those of your key; the counts are of all." : "";
  return (
    <>
      <h1>Requests</h1>
      <div class="segments" role="group" aria-label="Phase">
        {PHASES.map(([name, label]) => (
          <button
            key={name}
            type="button"
            aria-pressed={phase === name}
            onClick={() => setPhase(name)}
          >
            {label} <b>{data ? count(inPhase(data, name)) : ""}</b>
          </button>
        ))}
      </div>
      {own ? <p class="hint">{own}</p> : null}
      {failed || live.error ? (
        <p class="banner bad" role="alert">
          {failed || live.error}
        </p>
      ) : null}
      <div ref={place} class={narrow ? "live narrow" : "live"}>
        <div
          ref={list}
          class="rows"
          role="table"
          aria-label="Live requests"
          aria-rowcount={total + 1}
          tabIndex={0}
          style={{ height: `${row * total + (narrow ? 0 : HEAD)}px` }}
        >
          <div class="head" role="row" aria-rowindex={1}>
            {["Request", "Key", "Phase", "Prompt", "Cached", "Tokens", "tok/s", "Age", ""].map(
              (name) => (
                <span key={name} role="columnheader">
                  {name || <span class="unseen">Cancel</span>}
                </span>
              ),
            )}
          </div>
          <div class="space" role="rowgroup" style={{ height: `${row * total}px` }}>
            {data?.requests.map((request, index) => (
              <Row
                key={request.id}
                request={request}
                index={data.offset + index}
                top={(data.offset + index) * row}
                cancel={cancel}
              />
            ))}
          </div>
        </div>
        {data && total === 0 ? <Empty>Nothing is under way.</Empty> : null}
      </div>
    </>
  );
}

function inPhase(data: LiveRequests, phase: Phase | ""): number {
  if (phase) return data.phases[phase];
  return data.phases.queued + data.phases.prefill + data.phases.decode + data.phases.draining;
}
