// All conversations, and the answers that grow in them, whatever page is shown.

import { said } from "../api";
import { State } from "../state";
import { type Answer, failed, isOver, NO_ANSWER } from "./answer";
import {
  bodyOf,
  type Conversation,
  lastAnswer,
  newConversation,
  type Parameters,
  titleOf,
  type Turn,
} from "./conversation";
import * as storage from "./storage";
import { begin, resume, stop } from "./stream";

/** Milliseconds between two times that a growing answer is drawn and kept. */
const DRAWN = 50;
const KEPT = 500;

/** The newest first. */
export const conversations = new State<Conversation[]>(storage.loadAll(localStorage));
export const current = new State<string>("");
/** What went wrong with keeping them; empty for nothing. */
export const trouble = new State<string>("");

const growing = new Map<string, AbortController>();
const grown = new Map<string, Answer>();

function find(id: string): Conversation | undefined {
  return conversations.value.find((each) => each.id === id);
}

function put(changed: Conversation, keep = true): void {
  const others = conversations.value.filter(({ id }) => id !== changed.id);
  const all = [changed, ...others].sort((a, b) => b.changed - a.changed);
  conversations.set(all.slice(0, storage.MOST));
  if (keep) store(changed);
}

function store(conversation: Conversation): void {
  const kept = storage.save(localStorage, conversation);
  trouble.set(kept ? "" : "This browser has no room left: the conversation is lost with the page.");
}

export function open(id: string): void {
  current.set(id);
}

export function create(): string {
  const made = newConversation(unique(), Date.now(), find(current.value));
  put(made, false);
  current.set(made.id);
  return made.id;
}

export function discard(id: string): void {
  void halt(id);
  storage.remove(localStorage, id);
  conversations.set(conversations.value.filter((each) => each.id !== id));
  if (current.value === id) current.set("");
}

export function change(id: string, fields: { model?: string; parameters?: Parameters }): void {
  const conversation = find(id);
  if (conversation) put({ ...conversation, ...fields }, conversation.turns.length > 0);
}

/** Say something, and have it answered. */
export function say(id: string, text: string): void {
  const conversation = find(id);
  if (!conversation || growing.has(id)) return;
  const first = !conversation.turns.length;
  const turns: Turn[] = [...conversation.turns, { role: "user", content: text }];
  answer({ ...conversation, title: first ? titleOf(text) : conversation.title, turns });
}

/** Tell what calls have come to, and have the model go on. */
export function tell(id: string, results: { call: string; name: string; content: string }[]): void {
  const conversation = find(id);
  if (!conversation || growing.has(id)) return;
  const told = results.map((result): Turn => ({ role: "tool", ...result }));
  answer({ ...conversation, turns: [...conversation.turns, ...told] });
}

/** The last answer once more. */
export function again(id: string): void {
  const conversation = find(id);
  if (!conversation || growing.has(id)) return;
  const turns = lastAnswer(conversation) ? conversation.turns.slice(0, -1) : conversation.turns;
  if (turns.length) answer({ ...conversation, turns });
}

function answer(asked: Conversation): void {
  const stream = `dashboard-${unique()}`;
  const turn: Turn = { role: "assistant", answer: NO_ANSWER, stream, model: asked.model, seconds: 0 };
  const begun = { ...asked, changed: Date.now(), turns: [...asked.turns, turn] };
  let body: Record<string, unknown>;
  try {
    body = bodyOf(asked);
  } catch (error) {
    put({ ...begun, turns: [...asked.turns, { ...turn, answer: failed(NO_ANSWER, `tools: ${said(error)}`) }] });
    return;
  }
  put(begun);
  void follow(asked.id, (to) => begin(stream, body, to, NO_ANSWER));
}

/** Stop the answer that grows; what there is of it stays. */
export async function halt(id: string): Promise<void> {
  const conversation = find(id);
  const turn = conversation && lastAnswer(conversation);
  if (!turn || !growing.has(id)) return;
  growing.get(id)?.abort();
  try {
    await stop(turn.stream);
  } catch (error) {
    trouble.set(`The answer could not be stopped: ${said(error)}`);
  }
}

/** Go on with all answers that were growing when the page was left. */
export function resumeAll(): void {
  for (const conversation of conversations.value) {
    const turn = lastAnswer(conversation);
    if (!turn || isOver(turn.answer) || growing.has(conversation.id)) continue;
    void follow(conversation.id, (to) => resume(turn.stream, turn.answer, to));
  }
}

async function follow(
  id: string,
  work: (to: { grow: (answer: Answer) => void; signal: AbortSignal }) => Promise<void>,
): Promise<void> {
  const mine = new AbortController();
  growing.set(id, mine);
  const started = performance.now();
  let drawing: number | undefined;
  let kept = started;
  const draw = () => {
    drawing = undefined;
    const now = performance.now();
    const keep = now - kept > KEPT;
    if (keep) kept = now;
    replace(id, grown.get(id), (now - started) / 1000, keep);
  };
  const grow = (answer: Answer) => {
    grown.set(id, answer);
    drawing ??= window.setTimeout(draw, DRAWN);
  };
  try {
    await work({ grow, signal: mine.signal });
  } finally {
    clearTimeout(drawing);
    growing.delete(id);
    const last = grown.get(id);
    grown.delete(id);
    const turn = find(id) && lastAnswer(find(id)!);
    const known = last ?? turn?.answer ?? NO_ANSWER;
    const over = isOver(known) ? known : { ...known, finish: "stopped", progress: "" };
    replace(id, over, (performance.now() - started) / 1000, true);
  }
}

function replace(id: string, answer: Answer | undefined, seconds: number, keep: boolean): void {
  const conversation = find(id);
  const turn = conversation && lastAnswer(conversation);
  if (!turn || !answer) return;
  const turns = [...conversation.turns.slice(0, -1), { ...turn, answer, seconds }];
  put({ ...conversation, turns }, keep);
}

/** Someone who leaves finds it again as it was. */
function keepGrowing(): void {
  for (const [id, answer] of grown) {
    const conversation = find(id);
    const turn = conversation && lastAnswer(conversation);
    if (turn) store({ ...conversation, turns: [...conversation.turns.slice(0, -1), { ...turn, answer }] });
  }
}

export function isGrowing(conversation: Conversation): boolean {
  const turn = lastAnswer(conversation);
  return turn !== null && !isOver(turn.answer);
}

function unique(): string {
  const random = crypto.getRandomValues(new Uint8Array(12));
  return Array.from(random, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

addEventListener("pagehide", keepGrowing);
