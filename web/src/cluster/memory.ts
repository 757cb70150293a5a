// What a machine's memory is used for.

import type { Cluster, Node, Rank } from "../wire";

export interface Memory {
  usable: number;
  weights: number;
  /** Held beyond the weights: caches, and what a step works with. */
  kv: number;
  free: number;
  ranks: Rank[];
}

export function memoryOf(node: Node, ranks: readonly Rank[]): Memory {
  const here = ranks.filter((rank) => rank.node_id === node.node_id);
  const weights = sum(here.map((rank) => rank.weight_bytes));
  const held = sum(here.map((rank) => Math.max(rank.memory_bytes, rank.weight_bytes)));
  const usable = Math.max(node.usable_bytes, held);
  return { usable, weights, kv: held - weights, free: usable - held, ranks: here };
}

export function totalMemory(view: Cluster): Omit<Memory, "ranks"> {
  const each = view.nodes.map((node) => memoryOf(node, view.ranks));
  return {
    usable: sum(each.map((one) => one.usable)),
    weights: sum(each.map((one) => one.weights)),
    kv: sum(each.map((one) => one.kv)),
    free: sum(each.map((one) => one.free)),
  };
}

function sum(values: number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
