// Talking to the model.

import { useEffect, useRef, useState } from "preact/hooks";
import { getJson } from "../api";
import { Icon } from "../parts/icon";
import { usePoll } from "../poll";
import { useValue } from "../state";
import type { Cluster } from "../wire";
import * as chats from "./chats";
import { Composer } from "./composer";
import { type Conversation, openCalls } from "./conversation";
import { ParametersDialog } from "./parameters";
import { Turns } from "./turns";

export function ChatPage({ view }: { view: Cluster | null }) {
  const all = useValue(chats.conversations);
  const chosen = useValue(chats.current);
  const trouble = useValue(chats.trouble);
  const models = useModels();
  const [listed, setListed] = useState(false);
  const [settings, setSettings] = useState(false);
  useEffect(() => {
    if (!chats.current.value) chats.open(chats.conversations.value[0]?.id ?? chats.create());
    chats.resumeAll();
  }, []);
  const conversation = all.find((each) => each.id === chosen) ?? all[0];
  if (!conversation) {
    return (
      <button type="button" class="primary" onClick={() => chats.create()}>
        New conversation
      </button>
    );
  }
  const model = conversation.model || view?.model.id || "";
  const choices = models.length ? models : model ? [model] : [];
  return (
    <div class={listed ? "chat listed" : "chat"}>
      <aside id="conversations" aria-label="Conversations">
        <button type="button" class="new" onClick={() => (chats.create(), setListed(false))}>
          <Icon name="plus" />
          New conversation
        </button>
        <ul>
          {all.map((each) => (
            <Item
              key={each.id}
              conversation={each}
              current={each.id === conversation.id}
              open={() => (chats.open(each.id), setListed(false))}
            />
          ))}
        </ul>
      </aside>
      <section class="talk" aria-label={conversation.title}>
        <header>
          <button
            type="button"
            class="quiet toggle"
            aria-expanded={listed}
            aria-controls="conversations"
            aria-label="Conversations"
            onClick={() => setListed(!listed)}
          >
            <Icon name="menu" />
          </button>
          <h1>{conversation.title}</h1>
          <select
            aria-label="Model"
            value={conversation.model || choices[0]}
            onChange={(event) => chats.change(conversation.id, { model: event.currentTarget.value })}
          >
            {choices.map((name) => (
              <option key={name} value={name}>
                {name}
              </option>
            ))}
          </select>
          <button
            type="button"
            class="quiet"
            aria-label="Parameters"
            title="Parameters"
            onClick={() => setSettings(true)}
          >
            <Icon name="sliders" />
          </button>
        </header>
        {trouble ? (
          <p class="banner warn" role="alert">
            {trouble}
          </p>
        ) : null}
        <Talk key={conversation.id} conversation={conversation} />
      </section>
      {settings ? (
        <ParametersDialog
          parameters={conversation.parameters}
          save={(parameters) => chats.change(conversation.id, { parameters })}
          close={() => setSettings(false)}
        />
      ) : null}
    </div>
  );
}

function Talk({ conversation }: { conversation: Conversation }) {
  const growing = chats.isGrowing(conversation);
  const waiting = openCalls(conversation).length > 0;
  const end = useStick(conversation);
  return (
    <>
      <div class="turns" ref={end} tabIndex={0} role="group" aria-label="Conversation">
        <Turns conversation={conversation} />
      </div>
      <Composer
        growing={growing}
        waiting={waiting}
        say={(text) => chats.say(conversation.id, text)}
        stop={() => void chats.halt(conversation.id)}
      />
    </>
  );
}

/** Stay at the end of what grows, unless the reader has gone elsewhere. */
function useStick(conversation: Conversation) {
  const ref = useRef<HTMLDivElement>(null);
  const stuck = useRef(true);
  useEffect(() => {
    const element = ref.current;
    if (!element) return undefined;
    const look = () => {
      stuck.current = element.scrollHeight - element.scrollTop - element.clientHeight < 60;
    };
    element.addEventListener("scroll", look, { passive: true });
    return () => element.removeEventListener("scroll", look);
  }, []);
  const { length } = conversation.turns;
  useEffect(() => {
    stuck.current = true;
  }, [length]);
  useEffect(() => {
    const element = ref.current;
    if (element && stuck.current) element.scrollTop = element.scrollHeight;
  }, [conversation]);
  return ref;
}

function useModels(): string[] {
  const { data } = usePoll(async (signal) => {
    const found = await getJson<{ data: { id: string }[] }>("/v1/models", signal);
    return found.data.map(({ id }) => id);
  }, 10_000);
  return data ?? [];
}

function Item(props: { conversation: Conversation; current: boolean; open: () => void }) {
  const { conversation, current } = props;
  return (
    <li>
      <button
        type="button"
        class="open"
        aria-current={current ? "true" : undefined}
        onClick={props.open}
      >
        <span>{conversation.title}</span>
        {chats.isGrowing(conversation) ? <span class="lamp ok" title="answering" /> : null}
      </button>
      <button
        type="button"
        class="quiet"
        aria-label={`Delete ${conversation.title}`}
        title="Delete"
        onClick={() => chats.discard(conversation.id)}
      >
        <Icon name="close" />
      </button>
    </li>
  );
}
