// The engines, one line each.

import { bytes, count, NONE, reading } from "../format";
import { Badge, Empty, Section } from "../parts/bits";
import type { Cluster } from "../wire";

export function Ranks({ view }: { view: Cluster }) {
  const names = new Map(view.nodes.map((node) => [node.node_id, node.hostname]));
  const planned = view.model.rank_bytes ? `at most ${bytes(view.model.rank_bytes)} planned on each` : "";
  return (
    <Section title="Ranks" note={planned}>
      {view.ranks.length ? (
        <div class="scroll tall" tabIndex={0} role="group" aria-label="Ranks of this epoch">
          <table>
            <thead>
              <tr>
                <th scope="col">Rank</th>
                <th scope="col">Machine</th>
                <th scope="col">Shard</th>
                <th scope="col">Memory</th>
                <th scope="col">Peak</th>
                <th scope="col">Reads</th>
                <th scope="col">Last step</th>
                <th scope="col">Process</th>
              </tr>
            </thead>
            <tbody>
              {view.ranks.map((rank) => (
                <tr key={rank.rank}>
                  <th scope="row">{rank.rank}</th>
                  <td>{names.get(rank.node_id) ?? rank.node_id}</td>
                  <td class="num">{bytes(rank.weight_bytes)}</td>
                  <td class="num">{bytes(rank.memory_bytes)}</td>
                  <td class="num">{bytes(rank.peak_bytes)}</td>
                  <td class="num">
                    {rank.slow ? <Badge tone="warn">slow</Badge> : null}{" "}
                    {rank.read_bytes_per_second === null ? NONE : reading(rank.read_bytes_per_second)}
                  </td>
                  <td class="num">{count(rank.last_seq)}</td>
                  <td class="num">{rank.pid}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      ) : (
        <Empty>No engine runs.</Empty>
      )}
    </Section>
  );
}
