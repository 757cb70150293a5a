// One live request.

import { count, duration, NONE, percent, rate } from "../format";
import { Badge, Meter, type Tone } from "../parts/bits";
import { Icon } from "../parts/icon";
import { memo } from "../parts/memo";
import type { LiveRequest, Phase } from "../wire";

const TONES: Record<Phase, Tone> = { queued: "warn", prefill: "calm", decode: "ok", draining: "calm" };

interface Shown {
  request: LiveRequest;
  index: number;
  top: number;
  cancel: (id: string) => void;
}

export const Row = memo(
  ({ request, index, top, cancel }: Shown) => {
    const { id, prompt_tokens: prompt, prefilled, phase } = request;
    return (
      <div
        class="row"
        role="row"
        aria-rowindex={index + 2}
        style={{ transform: `translateY(${top}px)` }}
      >
        <span role="cell" class="who">
          {request.dialect}
          <small title={id}>{short(id)}</small>
        </span>
        <span role="cell" class="key">
          {request.key || NONE}
        </span>
        <span role="cell" class="phase">
          <Badge tone={TONES[phase]}>{phase}</Badge>
        </span>
        <span role="cell" class="prompt">
          {phase === "prefill" ? (
            <Meter value={prompt ? prefilled / prompt : 0} label={`Prefill of ${short(id)}`} />
          ) : null}
          <span>
            {phase === "prefill" ? `${count(prefilled)} / ${count(prompt)}` : count(prompt)}
            <span class="unit"> prompt</span>
          </span>
        </span>
        <span role="cell" class="num cached">
          {prompt ? percent(request.cached_tokens / prompt) : NONE}
        </span>
        <span role="cell" class="num made">
          {count(request.generated)}
        </span>
        <span role="cell" class="num speed">
          {request.tokens_per_second ? rate(request.tokens_per_second) : NONE}
        </span>
        <span role="cell" class="num age">
          {duration(request.age_seconds)}
        </span>
        <span role="cell" class="end">
          <button
            type="button"
            class="quiet"
            aria-label={`Cancel ${request.dialect} ${short(id)}`}
            title="Cancel"
            onClick={() => cancel(id)}
          >
            <Icon name="close" />
          </button>
        </span>
      </div>
    );
  },
  (one, other) =>
    one.index === other.index &&
    one.top === other.top &&
    (Object.keys(other.request) as (keyof LiveRequest)[]).every(
      (name) => one.request[name] === other.request[name],
    ),
);

function short(id: string): string {
  const [prefix = "", rest = ""] = id.split(/[-_](.*)/s);
  return rest.length > 8 ? `${prefix}-${rest.slice(0, 8)}…` : id;
}
