// Small things that several pages are made of.

import type { ComponentChildren } from "preact";

export type Tone = "ok" | "warn" | "bad" | "calm";

export function Badge({ tone, children }: { tone: Tone; children: ComponentChildren }) {
  return <span class={`badge ${tone}`}>{children}</span>;
}

export function Tile({ name, value, note }: { name: string; value: string; note?: string }) {
  return (
    <div class="tile">
      <dt>{name}</dt>
      <dd>
        {value}
        {note ? <small>{note}</small> : null}
      </dd>
    </div>
  );
}

export interface Part {
  name: string;
  /** Its colour's class. */
  kind: "weights" | "kv" | "others" | "free" | "over";
  size: number;
  told: string;
}

/** Parts of a whole. What it shows is said beside it, so it is none of a screen reader's business. */
export function Bar({ parts, whole }: { parts: Part[]; whole: number }) {
  return (
    <div class="bar" aria-hidden="true">
      {parts.map((part) => (
        <span
          key={part.kind}
          class={part.kind}
          style={{ width: `${whole > 0 ? (100 * part.size) / whole : 0}%` }}
        />
      ))}
    </div>
  );
}

export function Legend({ parts }: { parts: Part[] }) {
  return (
    <ul class="legend">
      {parts.map((part) => (
        <li key={part.kind}>
          <span class={`dot ${part.kind}`} aria-hidden="true" />
          {part.name} <b>{part.told}</b>
        </li>
      ))}
    </ul>
  );
}

export function Meter({ value, label }: { value: number; label: string }) {
  const share = Math.min(1, Math.max(0, value));
  return (
    <span
      class="meter"
      role="progressbar"
      aria-label={label}
      aria-valuemin={0}
      aria-valuemax={100}
      aria-valuenow={Math.round(100 * share)}
    >
      <span style={{ width: `${100 * share}%` }} />
    </span>
  );
}

export function Section(props: {
  title: string;
  note?: ComponentChildren;
  children: ComponentChildren;
}) {
  const id = `s-${props.title.toLowerCase().replace(/\W+/g, "-")}`;
  return (
    <section class="section" aria-labelledby={id}>
      <header>
        <h2 id={id}>{props.title}</h2>
        {props.note ? <div class="note">{props.note}</div> : null}
      </header>
      {props.children}
    </section>
  );
}

export function Empty({ children }: { children: ComponentChildren }) {
  return <p class="empty">{children}</p>;
}
