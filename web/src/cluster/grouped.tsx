// A page of one group, below the choice of it where there are several.

import type { ComponentChildren } from "preact";
import { getJson } from "../api";
import { usePoll } from "../poll";
import { State, useValue } from "../state";
import type { Cluster, Group } from "../wire";
import { groupOf, labelOf, nameOf, queryOf } from "./group";

const chosen = new State("");

interface Props {
  view: Cluster | null;
  /** The view is of the group; the query, which asks for it, follows others. */
  page: (view: Cluster | null, query: string) => ComponentChildren;
}

export function Grouped({ view, page }: Props) {
  const picked = useValue(chosen);
  const group = view && groupOf(view, picked);
  const query = queryOf(group);
  const { data } = usePoll<Cluster | null>(
    async (signal) =>
      query ? getJson<Cluster>(`/cluster?without=requests,links${query}`, signal) : null,
    1000,
    query,
  );
  return (
    <>
      {view && group && view.groups.length > 1 ? <Choice group={group} groups={view.groups} /> : null}
      {page(query ? data : view, query)}
    </>
  );
}

function Choice({ group, groups }: { group: Group; groups: readonly Group[] }) {
  return (
    <label class="field beside">
      <span>Group</span>
      <select value={nameOf(group)} onChange={(event) => chosen.set(event.currentTarget.value)}>
        {groups.map((each) => (
          <option key={nameOf(each)} value={nameOf(each)}>
            {labelOf(each, groups)}
          </option>
        ))}
      </select>
    </label>
  );
}
