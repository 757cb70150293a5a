// Which machines are next to each other, and where they are drawn.

import type { Cluster, Pair } from "../wire";

export interface Dot {
  id: string;
  name: string;
  ranks: number[];
  x: number;
  y: number;
}

export interface Edge {
  from: Dot;
  to: Dot;
  /** Part of the ring that the ranks form. */
  used: boolean;
  link: string;
  roundTrip: number | null;
  gigabits: number | null;
  error: string;
}

export interface Ring {
  dots: Dot[];
  edges: Edge[];
}

/** Machines in the order of their ranks, or the ranks where there is one machine only. */
export function ringOf(view: Cluster, links: readonly Pair[], width: number, height: number): Ring {
  const dots = place(members(view), width, height);
  const edges: Edge[] = [];
  const worst = byPair(links);
  const crowded = dots.length > 12;
  for (let i = 0; i < dots.length; i++) {
    for (let j = i + 1; j < dots.length; j++) {
      const [from, to] = [dots[i]!, dots[j]!];
      const used = j === i + 1 || (i === 0 && j === dots.length - 1);
      const pair = worst.get(pairKey(from.name, to.name));
      if (!used && (!pair || crowded)) continue;
      edges.push({
        from,
        to,
        used,
        link: pair?.link ?? (used ? view.link : "other"),
        roundTrip: pair?.round_trip_us ?? null,
        gigabits: pair?.gigabits ?? null,
        error: pair?.error ?? "",
      });
    }
  }
  return { dots, edges };
}

function members(view: Cluster): Omit<Dot, "x" | "y">[] {
  const ranks = [...view.ranks].sort((a, b) => a.rank - b.rank);
  const nodes = new Map(view.nodes.map((node) => [node.node_id, node.hostname]));
  if (nodes.size < 2) {
    return ranks.map(({ rank }) => ({ id: `rank ${rank}`, name: `rank ${rank}`, ranks: [rank] }));
  }
  const found = new Map<string, Omit<Dot, "x" | "y">>();
  for (const { node_id, rank } of ranks) {
    const known = found.get(node_id);
    if (known) known.ranks.push(rank);
    else found.set(node_id, { id: node_id, name: nodes.get(node_id) ?? node_id, ranks: [rank] });
  }
  return [...found.values()];
}

function place(dots: Omit<Dot, "x" | "y">[], width: number, height: number): Dot[] {
  const [middle, centre] = [width / 2, height / 2];
  const rx = Math.min(320, Math.max(20, middle - 70));
  const ry = Math.max(20, centre - 40);
  return dots.map((dot, index) => {
    // Two lie side by side; more begin at the top.
    const turn = dots.length === 2 ? Math.PI + index * Math.PI : (index / dots.length) * 2 * Math.PI - Math.PI / 2;
    const alone = dots.length === 1;
    return {
      ...dot,
      x: alone ? middle : middle + rx * Math.cos(turn),
      y: alone ? centre : centre + ry * Math.sin(turn),
    };
  });
}

/** The worse of the two directions of each pair. */
function byPair(links: readonly Pair[]): Map<string, Pair> {
  const found = new Map<string, Pair>();
  for (const pair of links) {
    const key = pairKey(pair.here, pair.there);
    const known = found.get(key);
    found.set(key, known ? worse(known, pair) : pair);
  }
  return found;
}

function worse(one: Pair, other: Pair): Pair {
  if (one.error || other.error) return one.error ? one : other;
  return {
    ...one,
    round_trip_us: Math.max(one.round_trip_us ?? 0, other.round_trip_us ?? 0) || null,
    gigabits: least(one.gigabits, other.gigabits),
  };
}

function least(one: number | null, other: number | null): number | null {
  if (one === null || other === null) return one ?? other;
  return Math.min(one, other);
}

function pairKey(one: string, other: string): string {
  return one < other ? `${one}\n${other}` : `${other}\n${one}`;
}
