// One card for each machine.

import { memo } from "../parts/memo";
import { bytes } from "../format";
import { Badge, Bar, Empty, Legend, type Part, Section, type Tone } from "../parts/bits";
import type { Cluster, Member, Node } from "../wire";
import { type Memory, memoryOf } from "./memory";

export function Nodes({ view }: { view: Cluster }) {
  const members = new Map(view.members.map((member) => [member.node_id, member]));
  const used = new Set(view.nodes.map((node) => node.node_id));
  const others = view.members.filter((member) => !used.has(member.node_id));
  const many = view.nodes.length > 12;
  return (
    <Section title="Machines" note={String(view.nodes.length + others.length)}>
      {view.nodes.length + others.length === 0 ? <Empty>None has been gathered yet.</Empty> : null}
      <ul class={many ? "cards small" : "cards"}>
        {view.nodes.map((node) => (
          <NodeCard
            key={node.node_id}
            node={node}
            member={members.get(node.node_id)}
            memory={memoryOf(node, view.ranks, members.get(node.node_id)?.held_bytes)}
          />
        ))}
        {others.map((member) => (
          <li key={member.node_id} class="card unused">
            <h3>{member.hostname}</h3>
            <p>
              <Presence member={member} /> not used by this epoch
              {member.held_bytes ? `; other groups hold ${bytes(member.held_bytes)}` : ""}
            </p>
          </li>
        ))}
      </ul>
    </Section>
  );
}

interface Card {
  node: Node;
  member: Member | undefined;
  memory: Memory;
}

const NodeCard = memo(({ node, member, memory }: Card) => {
  const parts = partsOf(memory);
  const ranks = memory.ranks.map((rank) => rank.rank).join(", ");
  return (
    <li class="card">
      <h3 title={node.hostname}>{node.hostname}</h3>
      <p class="chip">
        {node.chip || node.system} · {node.cores} cores · {bytes(node.memory_bytes)}
      </p>
      <p class="marks">
        {member ? <Presence member={member} /> : null}
        <Badge tone="calm">{memory.ranks.length === 1 ? `rank ${ranks}` : `ranks ${ranks}`}</Badge>
        <Badge tone={node.blas.fast ? "calm" : "warn"}>{node.blas.name}</Badge>
      </p>
      <Bar parts={parts} whole={memory.usable} />
      <Legend parts={parts} />
    </li>
  );
}, same);

/** What is drawn of both is the same: most seconds nothing of a machine changes. */
function same(one: Card, other: Card): boolean {
  return (
    one.node.hostname === other.node.hostname &&
    one.member?.presence === other.member?.presence &&
    one.member?.draining === other.member?.draining &&
    one.memory.usable === other.memory.usable &&
    one.memory.kv === other.memory.kv &&
    one.memory.others === other.memory.others &&
    one.memory.weights === other.memory.weights &&
    one.memory.ranks.length === other.memory.ranks.length &&
    one.memory.ranks.every((rank, index) => rank.rank === other.memory.ranks[index]?.rank)
  );
}

function partsOf(memory: Memory): Part[] {
  const part = (kind: Part["kind"], name: string, size: number): Part => ({
    kind,
    name,
    size,
    told: bytes(size),
  });
  return [
    part("weights", "weights", memory.weights),
    part("kv", "KV and work", memory.kv),
    ...(memory.others ? [part("others", "other groups", memory.others)] : []),
    part("free", "free", memory.free),
  ];
}

function Presence({ member }: { member: Member }) {
  const tones: Record<string, Tone> = { alive: "ok", suspect: "warn", dead: "bad" };
  return (
    <>
      <Badge tone={tones[member.presence] ?? "calm"}>{member.presence}</Badge>
      {member.draining ? (
        <Badge tone="warn">{member.ranks ? "draining" : "safe to unplug"}</Badge>
      ) : null}
    </>
  );
}
