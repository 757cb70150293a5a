// Where a model would go and what that would take, before anything is loaded.

import { useEffect, useState } from "preact/hooks";
import { getJson, said } from "../api";
import { bytes, NONE, rate } from "../format";
import { Badge, Bar, Empty } from "../parts/bits";
import { Dialog } from "../parts/dialog";
import type { Choice, Placement } from "../wire";

export function PlacementDialog(props: {
  model: string;
  close: () => void;
  load: (pin: boolean) => void;
}) {
  const { model } = props;
  const [found, setFound] = useState<Placement | null>(null);
  const [error, setError] = useState("");
  const [pin, setPin] = useState(false);
  useEffect(() => {
    const asking = new AbortController();
    getJson<Placement>(`/models/placement?model=${encodeURIComponent(model)}`, asking.signal).then(
      setFound,
      (thrown) => asking.signal.aborted || setError(said(thrown)),
    );
    return () => asking.abort();
  }, [model]);
  return (
    <Dialog title={`Load ${model}`} close={props.close}>
      <div class="stack" aria-live="polite">
        {error ? <p class="banner bad">{error}</p> : null}
        {!found && !error ? <Empty>Looking where it fits…</Empty> : null}
        {found && !found.fits ? <p class="banner bad">{found.refusal}</p> : null}
        {found?.choices.map((choice, index) => <Option key={index} choice={choice} />)}
      </div>
      <label class="check">
        <input
          type="checkbox"
          checked={pin}
          onChange={(event) => setPin(event.currentTarget.checked)}
        />
        Pin it: it is not unloaded when idle, nor for another
      </label>
      <div class="actions">
        <button type="button" onClick={props.close}>
          Not now
        </button>
        <button
          type="button"
          class="primary"
          disabled={!found?.fits}
          onClick={() => props.load(pin)}
        >
          Load
        </button>
      </div>
    </Dialog>
  );
}

function Option({ choice }: { choice: Choice }) {
  const ranks = choice.world === 1 ? "1 rank" : `${choice.world} ranks, ${choice.kind}`;
  const speed = (value: number | null) => (value === null ? NONE : rate(value));
  return (
    <section class={choice.chosen ? "option chosen" : "option"}>
      <header>
        <h3>{ranks}</h3>
        {choice.chosen ? <Badge tone="ok">chosen</Badge> : null}
        {choice.fits ? null : <Badge tone="bad">does not fit</Badge>}
      </header>
      {choice.fits ? (
        <p class="facts">
          <span>decode {speed(choice.predicted_decode)} tok/s</span>
          <span>prefill {speed(choice.predicted_prefill)} tok/s</span>
          <span>predicted</span>
        </p>
      ) : null}
      {choice.reason ? <p class="hint">{choice.reason}</p> : null}
      <ul class="needs">
        {choice.nodes.map((node) => {
          const needed = node.bytes_per_rank * node.ranks;
          const over = needed > node.usable_bytes;
          return (
            <li key={node.node_id}>
              <span>
                {node.hostname}
                {node.ranks > 1 ? ` × ${node.ranks}` : ""}
              </span>
              <span class="num">
                {bytes(needed)} of {bytes(node.usable_bytes)}
              </span>
              <Bar
                whole={Math.max(needed, node.usable_bytes)}
                parts={[{ kind: over ? "over" : "weights", name: "", size: needed, told: "" }]}
              />
            </li>
          );
        })}
      </ul>
    </section>
  );
}
