// Machines, links, ranks, and the epochs so far.

import { count, duration, rate } from "../format";
import { getJson } from "../api";
import { Empty, Section, Tile } from "../parts/bits";
import { usePoll } from "../poll";
import type { Cluster, Epoch } from "../wire";
import { Links } from "./links";
import { Nodes } from "./nodes";
import { Ranks } from "./ranks";

/** `query` names the group. */
export function ClusterPage({ view, query }: { view: Cluster | null; query: string }) {
  // Links change with the group, and grow with its square.
  const about = view ? `${view.epoch} ${view.members.length} ${query}` : "";
  const linked = usePoll(
    async (signal) => (await getJson<Cluster>(`/cluster?without=requests${query}`, signal)).links,
    30_000,
    about,
  );
  if (!view) return <Empty>Waiting for the server.</Empty>;
  const { counters } = view;
  const ranks = view.world === 1 ? "1 rank" : `${view.world} ranks`;
  return (
    <>
      <h1>{view.model.id}</h1>
      <p class="sub">
        {view.model.demo ? "Demo model · " : ""}
        context {count(view.model.context)} tokens
        {view.model.draft ? ` · drafts by ${view.model.draft}` : ""}
      </p>
      <dl class="tiles">
        <Tile name="Decode" value={rate(view.decode_tokens_per_second)} note="tok/s" />
        <Tile name="Prefill" value={rate(view.prefill_tokens_per_second)} note="tok/s" />
        <Tile name="Live requests" value={count(counters.journal)} note={`${counters.slots} in slots`} />
        <Tile name="Kept prefixes" value={count(counters.parked)} />
        <Tile name="Group" value={ranks} note={view.world > 1 ? `${view.backend} over ${view.link}` : ""} />
        <Tile name="Epoch" value={String(view.epoch || "–")} note={`up ${duration(view.uptime_seconds)}`} />
      </dl>
      <Nodes view={view} />
      <Links view={view} links={linked.data ?? []} />
      <Ranks view={view} />
      <Epochs view={view} />
    </>
  );
}

function Epochs({ view }: { view: Cluster }) {
  const past = [...view.history].reverse();
  const note = view.epoch ? `epoch ${view.epoch} runs` : "no epoch runs";
  return (
    <Section title="Epochs" note={note}>
      {past.length ? (
        <div class="scroll" tabIndex={0} role="group" aria-label="Epochs that are over">
          <table>
            <thead>
              <tr>
                <th scope="col">Epoch</th>
                <th scope="col">Ranks</th>
                <th scope="col">Ran</th>
                <th scope="col">Recovery</th>
                <th scope="col">What ended it</th>
              </tr>
            </thead>
            <tbody>
              {past.map((epoch) => (
                <Row key={epoch.number} epoch={epoch} />
              ))}
            </tbody>
          </table>
        </div>
      ) : (
        <Empty>Nothing has failed since the server started.</Empty>
      )}
    </Section>
  );
}

function Row({ epoch }: { epoch: Epoch }) {
  const recovery = epoch.recovery_seconds === null ? "under way" : duration(epoch.recovery_seconds);
  return (
    <tr>
      <th scope="row">{epoch.number}</th>
      <td>{epoch.world}</td>
      <td class="num">{duration(epoch.seconds)}</td>
      <td class="num">{recovery}</td>
      <td class="wide">{epoch.reason}</td>
    </tr>
  );
}
