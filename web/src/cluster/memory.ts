// What a machine's memory is used for.

import type { Node, Rank } from "../wire";

export interface Memory {
  usable: number;
  weights: number;
  /** Held beyond the weights: caches, and what a step works with. */
  kv: number;
  /** Held by the engines of other groups. */
  others: number;
  free: number;
  ranks: Rank[];
}

/** `all` is held by the engines of all groups, these ranks and others. */
export function memoryOf(node: Node, ranks: readonly Rank[], all = 0): Memory {
  const here = ranks.filter((rank) => rank.node_id === node.node_id);
  const weights = sum(here.map((rank) => rank.weight_bytes));
  const held = sum(here.map((rank) => Math.max(rank.memory_bytes, rank.weight_bytes)));
  const others = Math.max(0, all - held);
  const usable = Math.max(node.usable_bytes, held + others);
  return { usable, weights, kv: held - weights, others, free: usable - held - others, ranks: here };
}

function sum(values: number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
