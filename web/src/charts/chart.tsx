// One chart: lines over time, with the same figures in words beneath it.

import { useState } from "preact/hooks";
import { NONE } from "../format";
import { useWidth } from "../parts/size";
import { ceiling, type Line, pathOf, told } from "./series";

const HEIGHT = 132;
const LEFT = 62;
const BELOW = 18;

export interface ChartProps {
  title: string;
  note?: string;
  /** On the server's clock. */
  times: readonly number[];
  now: number;
  span: number;
  lines: Line[];
  /** Longer silence than this is drawn as a gap. */
  gap: number;
  format: (value: number) => string;
  top?: number;
}

export function Chart(props: ChartProps) {
  const { title, note, times, now, span, lines, format, gap } = props;
  const [place, whole] = useWidth<HTMLDivElement>(480);
  const [pointed, setPointed] = useState<number | null>(null);
  const width = Math.max(40, whole - LEFT - 8);
  const from = now - span;
  const first = Math.max(0, times.findIndex((time) => time >= from));
  const seen = lines.map((line) => line.values.slice(first));
  const most = Math.max(0, ...seen.map((values) => told(values).most ?? 0));
  const top = props.top ?? ceiling(most);
  const box = { from, to: now, top, width, height: HEIGHT };
  const point = (event: PointerEvent) => {
    const at = from + ((event.offsetX - LEFT) / width) * span;
    let best = -1;
    times.forEach((time, index) => {
      if (best < 0 || Math.abs(time - at) < Math.abs(times[best]! - at)) best = index;
    });
    setPointed(best < 0 || times[best]! < from ? null : best);
  };
  return (
    <figure class="chart">
      <figcaption>
        <b>{title}</b>
        {note ? <span>{note}</span> : null}
      </figcaption>
      <div ref={place} class="plot">
        <svg
          width={whole}
          height={HEIGHT + BELOW + 6}
          aria-hidden="true"
          onPointerMove={point}
          onPointerLeave={() => setPointed(null)}
        >
          {[0, 0.5, 1].map((share) => (
            <g key={share} class="grid">
              <line x1={LEFT} x2={LEFT + width} y1={6 + HEIGHT * share} y2={6 + HEIGHT * share} />
              <text x={LEFT - 6} y={10 + HEIGHT * share}>
                {format(top * (1 - share))}
              </text>
            </g>
          ))}
          {[0, 0.5, 1].map((share) => (
            <text
              key={share}
              class={`tick at${share * 2}`}
              x={LEFT + width * share}
              y={HEIGHT + BELOW + 2}
            >
              {share === 1 ? "now" : `−${ago(span * (1 - share))}`}
            </text>
          ))}
          <g transform={`translate(${LEFT} 6)`}>
            {lines.map((line) => (
              <path
                key={line.name}
                class={`line ${line.weight}`}
                d={pathOf(times, line.values, box, gap)}
              />
            ))}
            {pointed !== null ? (
              <line
                class="cross"
                x1={((times[pointed]! - from) / span) * width}
                x2={((times[pointed]! - from) / span) * width}
                y1={0}
                y2={HEIGHT}
              />
            ) : null}
          </g>
        </svg>
      </div>
      <ul class="said">
        {lines.map((line) => {
          const about = told(line.values.slice(first));
          const at = pointed === null ? about.now : (line.values[pointed] ?? null);
          const show = (value: number | null) => (value === null ? NONE : format(value));
          return (
            <li key={line.name}>
              <span class={`stroke ${line.weight}`} aria-hidden="true" />
              {line.name} <b>{show(at)}</b>
              <small>
                {pointed === null ? "now" : `${ago(now - times[pointed]!)} ago`} · median{" "}
                {show(about.median)} · most {show(about.most)}
              </small>
            </li>
          );
        })}
      </ul>
    </figure>
  );
}

function ago(seconds: number): string {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  const minutes = seconds / 60;
  return `${Number.isInteger(minutes) || minutes >= 10 ? Math.round(minutes) : minutes.toFixed(1)} min`;
}
