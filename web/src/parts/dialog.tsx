// A modal dialog: the browser's own, which keeps the keyboard inside and closes on Escape.

import type { ComponentChildren } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { Icon } from "./icon";

export function Dialog(props: {
  title: string;
  close?: () => void;
  children: ComponentChildren;
}) {
  const ref = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    const dialog = ref.current;
    const before = document.activeElement;
    dialog?.showModal();
    return () => {
      dialog?.close();
      if (before instanceof HTMLElement) before.focus();
    };
  }, []);
  const cancel = (event: Event) => {
    event.preventDefault();
    props.close?.();
  };
  return (
    <dialog ref={ref} aria-labelledby="dialog-title" onCancel={cancel}>
      <header>
        <h2 id="dialog-title">{props.title}</h2>
        {props.close ? (
          <button type="button" class="quiet" aria-label="Close" onClick={props.close}>
            <Icon name="close" />
          </button>
        ) : null}
      </header>
      {props.children}
    </dialog>
  );
}
