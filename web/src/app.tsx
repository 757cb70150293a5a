// The frame around all pages: navigation, the state of the server, the key.

import { useEffect, useRef, useState } from "preact/hooks";
import { apiKey, forgetKey, getJson, keyWanted } from "./api";
import { ChartsPage } from "./charts/page";
import { ChatPage } from "./chat/page";
import { speedOf } from "./cluster/group";
import { Grouped } from "./cluster/grouped";
import { ClusterPage } from "./cluster/page";
import { rate } from "./format";
import { KeyDialog } from "./key";
import { ModelsPage } from "./models/page";
import { Icon, type IconName } from "./parts/icon";
import { type Polled, usePoll } from "./poll";
import { RequestsPage } from "./requests/page";
import { useValue } from "./state";
import type { Cluster } from "./wire";

const PAGES = [
  ["cluster", "Cluster"],
  ["requests", "Requests"],
  ["charts", "Charts"],
  ["models", "Models"],
  ["chat", "Chat"],
] as const satisfies readonly (readonly [IconName, string])[];

type Place = (typeof PAGES)[number][0];

export function App() {
  const place = usePlace();
  const wanted = useValue(keyWanted);
  const cluster = usePoll(
    (signal) => getJson<Cluster>("/cluster?without=requests,links", signal),
    1000,
  );
  const main = useFocusOn(place);
  const title = PAGES.find(([name]) => name === place)?.[1] ?? "";
  useEffect(() => {
    document.title = `${title} · Tandem`;
  }, [title]);
  return (
    <>
      <a class="skip" href="#main" onClick={(event) => (event.preventDefault(), main.current?.focus())}>
        Skip to the content
      </a>
      <header class="top">
        <span class="brand">
          <Mark />
          Tandem
        </span>
        <Status cluster={cluster} />
      </header>
      <nav class="nav" aria-label="Pages">
        {PAGES.map(([name, label]) => (
          <a key={name} href={`#/${name}`} aria-current={name === place ? "page" : undefined}>
            <Icon name={name} />
            <span>{label}</span>
          </a>
        ))}
        <KeyNote />
      </nav>
      <main id="main" class={`page-${place}`} ref={main} tabIndex={-1} aria-label={title}>
        <Trouble cluster={cluster} />
        <Page place={place} cluster={cluster} />
      </main>
      {wanted ? <KeyDialog key={wanted} why={wanted} /> : null}
    </>
  );
}

function Page({ place, cluster }: { place: Place; cluster: Polled<Cluster> }) {
  switch (place) {
    case "cluster":
      return (
        <Grouped
          view={cluster.data}
          page={(view, query) => <ClusterPage view={view} query={query} />}
        />
      );
    case "requests":
      return <RequestsPage />;
    case "charts":
      return <Grouped view={cluster.data} page={(view, query) => <ChartsPage view={view} query={query} />} />;
    case "models":
      return <ModelsPage view={cluster.data} />;
    case "chat":
      return <ChatPage view={cluster.data} />;
  }
}

function usePlace(): Place {
  const read = (): Place => {
    const name = location.hash.replace(/^#\/?/, "").split("/")[0];
    return PAGES.find(([known]) => known === name)?.[0] ?? "cluster";
  };
  const [place, setPlace] = useState<Place>(read);
  useEffect(() => {
    const look = () => setPlace(read());
    addEventListener("hashchange", look);
    return () => removeEventListener("hashchange", look);
  }, []);
  return place;
}

/** Someone who goes to another page with the keyboard goes on from its beginning. */
function useFocusOn(place: Place) {
  const main = useRef<HTMLElement>(null);
  const first = useRef(true);
  useEffect(() => {
    if (first.current) first.current = false;
    else main.current?.focus({ preventScroll: true });
    scrollTo(0, 0);
  }, [place]);
  return main;
}

function Status({ cluster: { data, error } }: { cluster: Polled<Cluster> }) {
  const state = error || !data ? "bad" : data.health.ok ? "ok" : data.health.recovering ? "warn" : "bad";
  const text = error ? "no answer" : !data ? "connecting" : data.health.reason;
  return (
    <div class="status">
      <span class={`lamp ${state}`} aria-hidden="true" />
      <span class="what" role="status">
        {text}
      </span>
      {data && !error ? (
        <span class="speed">{rate(speedOf(data))} tok/s</span>
      ) : null}
    </div>
  );
}

function Trouble({ cluster: { data, error } }: { cluster: Polled<Cluster> }) {
  if (error) {
    const known = data ? " What is shown was true before." : "";
    return <p class="banner bad" role="alert">{`No answer from the server: ${error}.${known}`}</p>;
  }
  if (data && !data.health.ok) {
    const going = data.health.recovering ? " Requests wait, and go on." : "";
    return <p class="banner warn" role="alert">{`Not serving: ${data.health.reason}.${going}`}</p>;
  }
  return null;
}

function KeyNote() {
  const key = useValue(apiKey);
  if (!key) return null;
  return (
    <button type="button" class="quiet keynote" onClick={forgetKey} title="Forget the API key">
      <Icon name="key" />
      <span>Forget key</span>
    </button>
  );
}

function Mark() {
  return (
    <svg class="mark" viewBox="0 0 28 18" aria-hidden="true">
      <circle cx="8" cy="9" r="6.5" />
      <circle cx="20" cy="9" r="6.5" />
      <path d="M8 9h12" />
    </svg>
  );
}
