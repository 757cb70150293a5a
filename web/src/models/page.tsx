// What is loaded where; loading and unloading.

import { useState } from "preact/hooks";
import { postJson, said } from "../api";
import { bytes, count, duration, shareOf } from "../format";
import { Badge, Empty, Meter, type Tone } from "../parts/bits";
import { Icon } from "../parts/icon";
import { usePoll } from "../poll";
import type { Cluster, Model, ModelState, Models } from "../wire";
import { askModels, theOne } from "./models";
import { PlacementDialog } from "./placement";

const TONES: Record<ModelState, Tone> = { loaded: "ok", loading: "warn", unloaded: "calm", failed: "bad" };

export function ModelsPage({ view }: { view: Cluster | null }) {
  const { data, error, again } = usePoll<{ found: Models | null }>(
    async (signal) => ({ found: await askModels(signal) }),
    1500,
  );
  const [planned, setPlanned] = useState<string | null>(null);
  const [failed, setFailed] = useState("");
  const act = async (path: string, body: object) => {
    setFailed("");
    try {
      await postJson(path, body);
    } catch (thrown) {
      setFailed(said(thrown));
    }
    again();
  };
  const several = data?.found ?? null;
  const models = several?.models ?? (data && view ? [theOne(view)] : []);
  const machines = view ? [...view.members, ...view.nodes] : [];
  const names = new Map(machines.map((each) => [each.node_id, each.hostname]));
  return (
    <>
      <h1>Models</h1>
      {several ? (
        <Ask ask={setPlanned} keep={several.keep_alive_seconds} />
      ) : data ? (
        <p class="hint">This server serves one model; it can't load others.</p>
      ) : null}
      {failed || error ? (
        <p class="banner bad" role="alert">
          {failed || error}
        </p>
      ) : null}
      {!data ? <Empty>Waiting for the server.</Empty> : null}
      <ul class="models">
        {models.map((model) => (
          <ModelCard
            key={model.id}
            model={model}
            names={names}
            fixed={!several}
            plan={() => setPlanned(model.id)}
            unload={() => act("/models/unload", { model: model.id })}
            pin={(pin) => act("/models/load", { model: model.id, pin })}
          />
        ))}
      </ul>
      {planned !== null ? (
        <PlacementDialog
          model={planned}
          close={() => setPlanned(null)}
          load={(pin) => {
            setPlanned(null);
            void act("/models/load", { model: planned, pin });
          }}
        />
      ) : null}
    </>
  );
}

function Ask({ ask, keep }: { ask: (model: string) => void; keep: number | null }) {
  const [typed, setTyped] = useState("");
  const submit = (event: Event) => {
    event.preventDefault();
    if (typed.trim()) ask(typed.trim());
  };
  return (
    <form class="line" onSubmit={submit}>
      <label class="field grow">
        <span>Load another: a folder, or an id of the Hub</span>
        <input
          value={typed}
          onInput={(event) => setTyped(event.currentTarget.value)}
          spellcheck={false}
          autocapitalize="off"
          autocomplete="off"
        />
      </label>
      <button class="primary" disabled={!typed.trim()}>
        Preview
      </button>
      {keep === null ? null : <p class="hint">Idle models are unloaded after {duration(keep)}.</p>}
    </form>
  );
}

function ModelCard(props: {
  model: Model;
  names: Map<string, string>;
  fixed: boolean;
  plan: () => void;
  unload: () => void;
  pin: (pin: boolean) => void;
}) {
  const { model, names, fixed } = props;
  const share = shareOf(model.progress);
  const here = model.state === "loaded" || model.state === "loading";
  return (
    <li class="card model">
      <header>
        <h2>{model.id}</h2>
        <Badge tone={TONES[model.state] ?? "calm"}>{model.state}</Badge>
        {model.default ? <Badge tone="calm">default</Badge> : null}
        {model.pinned && !fixed ? <Badge tone="calm">pinned</Badge> : null}
        <span class="actions">
          {fixed ? null : here ? (
            <>
              <button
                type="button"
                onClick={() => props.pin(!model.pinned)}
                aria-label={`${model.pinned ? "Unpin" : "Pin"} ${model.id}`}
              >
                <Icon name="pin" />
                {model.pinned ? "Unpin" : "Pin"}
              </button>
              <button type="button" onClick={props.unload} aria-label={`Unload ${model.id}`}>
                Unload
              </button>
            </>
          ) : (
            <button type="button" onClick={props.plan} aria-label={`Load ${model.id}`}>
              Load…
            </button>
          )}
        </span>
      </header>
      <p class="facts">
        {model.context ? <span>context {count(model.context)}</span> : null}
        {model.weight_bytes ? <span>weights {bytes(model.weight_bytes)}</span> : null}
        <span>{model.requests === 1 ? "1 request" : `${count(model.requests)} requests`}</span>
        {model.idle_seconds > 1 ? <span>idle {duration(model.idle_seconds)}</span> : null}
      </p>
      {model.progress ? (
        <p class="progress">
          {share === null ? null : <Meter value={share} label={`Loading ${model.id}`} />}
          {model.progress}
        </p>
      ) : null}
      {model.error ? <p class="banner bad">{model.error}</p> : null}
      {model.replicas.map((replica) => (
        <div class="replica" key={replica.replica}>
          <p>
            {model.replicas.length > 1 ? <b>Replica {replica.replica} </b> : null}
            {replica.world === 1 ? "1 rank" : `${replica.world} ranks, ${replica.kind}`} · epoch{" "}
            {replica.epoch} · {replica.health}
          </p>
          <ul class="shards">
            {replica.ranks.map((rank) => (
              <li key={rank.rank}>
                <b>{rank.rank}</b>
                <span>{names.get(rank.node_id) ?? rank.node_id}</span>
                <span class="num">
                  {bytes(rank.weight_bytes)} weights, {bytes(rank.memory_bytes)} in use
                </span>
              </li>
            ))}
          </ul>
        </div>
      ))}
    </li>
  );
}
