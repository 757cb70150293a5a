// The ring of machines as a drawing, and what was measured as a table.

import { gigabits, NONE, roundTrip } from "../format";
import { Empty, Section } from "../parts/bits";
import { useWidth } from "../parts/size";
import type { Cluster, Pair } from "../wire";
import { type Dot, type Edge, ringOf } from "./ring";

/** Pairs in the table, at most; beyond that only those of the ring. */
const MOST = 200;

export function Links({ view, links }: { view: Cluster; links: readonly Pair[] }) {
  const [place, width] = useWidth<HTMLDivElement>(720);
  const dots = Math.max(view.nodes.length, 1);
  const height = dots <= 2 ? 150 : dots <= 12 ? 300 : Math.min(640, width);
  const { dots: drawn, edges } = ringOf(view, links, width, height);
  const ring = edges.filter((edge) => edge.used);
  const note = ring.length ? `${view.backend} over ${view.link}` : "";
  return (
    <Section title="Links" note={note}>
      <div ref={place} class="ring">
        {drawn.length > 1 ? (
          <svg width={width} height={height} aria-hidden="true">
            {edges.map((edge) => (
              <Line key={`${edge.from.id} ${edge.to.id}`} edge={edge} told={drawn.length <= 12} />
            ))}
            {drawn.map((dot) => (
              <Spot key={dot.id} dot={dot} told={drawn.length <= 12} />
            ))}
          </svg>
        ) : (
          <Empty>One rank needs no link.</Empty>
        )}
      </div>
      {edges.length ? <Table edges={edges.length <= MOST ? edges : ring} /> : null}
    </Section>
  );
}

function Line({ edge, told }: { edge: Edge; told: boolean }) {
  const { from, to, used, error } = edge;
  const [x, y] = [(from.x + to.x) / 2, (from.y + to.y) / 2];
  const figures = [
    edge.roundTrip === null ? "" : roundTrip(edge.roundTrip),
    edge.gigabits === null ? "" : gigabits(edge.gigabits),
  ].filter(Boolean);
  const kind = error ? "bad" : used ? "used" : "spare";
  return (
    <g class={`edge ${kind} ${edge.link}`}>
      <line x1={from.x} y1={from.y} x2={to.x} y2={to.y} />
      {told && used ? (
        <text x={x} y={y - 6}>
          <tspan x={x}>{error ? "unreachable" : edge.link}</tspan>
          {figures.length ? (
            <tspan x={x} dy="22">
              {figures.join(" · ")}
            </tspan>
          ) : null}
        </text>
      ) : null}
    </g>
  );
}

function Spot({ dot, told }: { dot: Dot; told: boolean }) {
  return (
    <g class="spot">
      <title>{dot.name}</title>
      <circle cx={dot.x} cy={dot.y} r={told ? 18 : 5} />
      {told ? (
        <>
          <text class="ranks" x={dot.x} y={dot.y + 4}>
            {dot.ranks.length > 3 ? `${dot.ranks.length}×` : dot.ranks.join(",")}
          </text>
          <text x={dot.x} y={dot.y + 34}>
            {dot.name.length > 18 ? `${dot.name.slice(0, 17)}…` : dot.name}
          </text>
        </>
      ) : null}
    </g>
  );
}

function Table({ edges }: { edges: Edge[] }) {
  return (
    <div class="scroll tall" tabIndex={0} role="group" aria-label="Links">
      <table>
        <thead>
          <tr>
            <th scope="col">Between</th>
            <th scope="col">Kind</th>
            <th scope="col">Round trip</th>
            <th scope="col">Throughput</th>
            <th scope="col">Use</th>
          </tr>
        </thead>
        <tbody>
          {edges.map((edge) => (
            <tr key={`${edge.from.id} ${edge.to.id}`}>
              <th scope="row">
                {edge.from.name} – {edge.to.name}
              </th>
              <td>{edge.link}</td>
              <td class="num">{edge.roundTrip === null ? NONE : roundTrip(edge.roundTrip)}</td>
              <td class="num">{edge.gigabits === null ? NONE : gigabits(edge.gigabits)}</td>
              <td>{edge.error || (edge.used ? "ring" : "spare")}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
