// How a conversation is to be answered.

import { useState } from "preact/hooks";
import { Dialog } from "../parts/dialog";
import { type Parameters, USUAL } from "./conversation";

const NUMBERS = [
  ["temperature", "Temperature", 0, 2, 0.1],
  ["top_p", "Top p", 0, 1, 0.05],
  ["max_tokens", "Most tokens", 1, 1_000_000, 1],
  ["seed", "Seed", 0, 9_007_199_254_740_991, 1],
] as const;

export function ParametersDialog(props: {
  parameters: Parameters;
  save: (parameters: Parameters) => void;
  close: () => void;
}) {
  const [asked, setAsked] = useState(props.parameters);
  const set = (fields: Partial<Parameters>) => setAsked({ ...asked, ...fields });
  const wrong = toolsError(asked.tools);
  const submit = (event: Event) => {
    event.preventDefault();
    if (wrong) return;
    props.save(asked);
    props.close();
  };
  return (
    <Dialog title="Parameters" close={props.close}>
      <form class="stack" onSubmit={submit}>
        <label class="field">
          System prompt
          <textarea
            rows={3}
            value={asked.system}
            onInput={(event) => set({ system: event.currentTarget.value })}
          />
        </label>
        <div class="pair">
          {NUMBERS.map(([name, label, min, max, step]) => (
            <label class="field" key={name}>
              {label}
              <input
                type="number"
                min={min}
                max={max}
                step={step}
                placeholder="the model's own"
                value={asked[name] ?? ""}
                onInput={(event) => {
                  const { value, valueAsNumber } = event.currentTarget;
                  set({ [name]: value === "" || Number.isNaN(valueAsNumber) ? null : valueAsNumber });
                }}
              />
            </label>
          ))}
        </div>
        <label class="field">
          Reasoning
          <select
            value={String(asked.thinking)}
            onChange={(event) => {
              const { value } = event.currentTarget;
              set({ thinking: value === "null" ? null : value === "true" });
            }}
          >
            <option value="null">as the model likes</option>
            <option value="true">on</option>
            <option value="false">off</option>
          </select>
        </label>
        <label class="field">
          Tools, as JSON
          <textarea
            rows={4}
            class="mono"
            spellcheck={false}
            value={asked.tools}
            placeholder={'[{"type": "function", "function": {"name": "weather"}}]'}
            aria-invalid={Boolean(wrong)}
            aria-describedby={wrong ? "tools-wrong" : undefined}
            onInput={(event) => set({ tools: event.currentTarget.value })}
          />
        </label>
        {wrong ? (
          <p class="banner bad" id="tools-wrong">
            {wrong}
          </p>
        ) : null}
        <div class="actions">
          <button type="button" onClick={() => setAsked(USUAL)}>
            Reset
          </button>
          <button class="primary">Use these</button>
        </div>
      </form>
    </Dialog>
  );
}

function toolsError(text: string): string {
  if (!text.trim()) return "";
  try {
    return Array.isArray(JSON.parse(text)) ? "" : "Tools must be a list.";
  } catch (error) {
    return `Tools are no JSON: ${String(error).replace(/^SyntaxError: /, "")}`;
  }
}
