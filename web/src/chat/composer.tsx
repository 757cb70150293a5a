// Where one types.

import { useEffect, useRef, useState } from "preact/hooks";
import { Icon } from "../parts/icon";

export function Composer(props: {
  growing: boolean;
  waiting: boolean;
  say: (text: string) => void;
  stop: () => void;
}) {
  const { growing, waiting } = props;
  const [text, setText] = useState("");
  const area = useRef<HTMLTextAreaElement>(null);
  useEffect(() => {
    const element = area.current;
    if (!element) return;
    element.style.height = "auto";
    element.style.height = `${Math.min(220, element.scrollHeight + 2)}px`;
  }, [text]);
  const send = () => {
    if (!text.trim() || growing) return;
    props.say(text);
    setText("");
  };
  const onKey = (event: KeyboardEvent) => {
    // While a word is being composed (Japanese, say), Enter belongs to that.
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      send();
    } else if (event.key === "Escape" && growing) {
      props.stop();
    }
  };
  return (
    <form class="composer" onSubmit={(event) => (event.preventDefault(), send())}>
      <textarea
        ref={area}
        rows={1}
        value={text}
        aria-label="Message"
        placeholder={waiting ? "The model waits for a result, above" : "Message"}
        onInput={(event) => setText(event.currentTarget.value)}
        onKeyDown={onKey}
      />
      {growing ? (
        <button type="button" class="round" aria-label="Stop" title="Stop (Escape)" onClick={props.stop}>
          <Icon name="stop" />
        </button>
      ) : (
        <button class="round primary" aria-label="Send" title="Send (Enter)" disabled={!text.trim()}>
          <Icon name="send" />
        </button>
      )}
    </form>
  );
}
