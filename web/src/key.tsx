// Asks for an API key once the server has asked for one.

import { useState } from "preact/hooks";
import { setKey } from "./api";
import { Dialog } from "./parts/dialog";

export function KeyDialog({ why }: { why: string }) {
  const [key, setTyped] = useState("");
  const [remember, setRemember] = useState(false);
  const submit = (event: Event) => {
    event.preventDefault();
    if (key.trim()) setKey(key.trim(), remember);
  };
  return (
    <Dialog title="API key">
      <form onSubmit={submit} class="stack">
        <p>{why}</p>
        <p class="hint">
          <code>tandem key add NAME</code> makes one on the server's machine; with{" "}
          <code>--operator</code> it sees the requests of all keys.
        </p>
        <label class="field">
          Key
          <input
            type="password"
            autocomplete="off"
            value={key}
            onInput={(event) => setTyped(event.currentTarget.value)}
            required
            autofocus
          />
        </label>
        <label class="check">
          <input
            type="checkbox"
            checked={remember}
            onChange={(event) => setRemember(event.currentTarget.checked)}
          />
          Keep it in this browser
        </label>
        <div class="actions">
          <button class="primary">Use this key</button>
        </div>
      </form>
    </Dialog>
  );
}
