// Which group is looked at, on pages that show one.

import type { Cluster, Group } from "../wire";

export function nameOf({ model, replica }: { model: string; replica: number }): string {
  return `${replica} ${model}`;
}

/** The chosen group as long as it is there, else the one that the server tells of by itself, else
 * the first. None where that is the only one: then nothing has to be asked for by name. */
export function groupOf(view: Cluster, chosen: string): Group | null {
  const { groups, model, replica } = view;
  const own = groups.find((each) => nameOf(each) === nameOf({ model: model.id, replica }));
  if (groups.length === 1 && own) return null;
  return groups.find((each) => nameOf(each) === chosen) ?? own ?? groups[0] ?? null;
}

/** What names it in a query, after what is there; nothing for none. */
export function queryOf(group: Group | null): string {
  if (!group) return "";
  return `&model=${encodeURIComponent(group.model)}&replica=${group.replica}`;
}

/** As people choose it. */
export function labelOf(group: Group, groups: readonly Group[]): string {
  const several = groups.filter(({ model }) => model === group.model).length > 1;
  return several ? `${group.model}, replica ${group.replica}` : group.model;
}

/** Tokens per second of all groups. */
export function speedOf(view: Cluster): number {
  if (!view.groups.length) return view.decode_tokens_per_second;
  return view.groups.reduce((sum, each) => sum + each.decode_tokens_per_second, 0);
}
