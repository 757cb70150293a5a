// Conversations in this browser, one entry each. What can't be read is left out; when the browser
// has no room left, the oldest go.

import type { Conversation } from "./conversation";
import { USUAL } from "./conversation";
import { NO_ANSWER } from "./answer";

const PREFIX = "tandem.chat.";
export const MOST = 50;

export function loadAll(storage: Storage): Conversation[] {
  const found: Conversation[] = [];
  for (let index = 0; index < storage.length; index++) {
    const name = storage.key(index);
    const read = name?.startsWith(PREFIX) ? parse(storage.getItem(name)) : null;
    if (read) found.push(read);
  }
  return found.sort((a, b) => b.changed - a.changed);
}

/** False when there is no room even without the others that are idle. */
export function save(storage: Storage, conversation: Conversation): boolean {
  const text = JSON.stringify(conversation);
  const others = loadAll(storage).filter(({ id }) => id !== conversation.id);
  for (const old of others.slice(MOST - 1)) remove(storage, old.id);
  const left = others.slice(0, MOST - 1);
  for (;;) {
    try {
      storage.setItem(PREFIX + conversation.id, text);
      return true;
    } catch {
      const oldest = left.pop();
      if (!oldest) return false;
      remove(storage, oldest.id);
    }
  }
}

export function remove(storage: Storage, id: string): void {
  storage.removeItem(PREFIX + id);
}

function parse(text: string | null): Conversation | null {
  try {
    const read = JSON.parse(text ?? "") as Partial<Conversation>;
    if (typeof read.id !== "string" || !Array.isArray(read.turns)) return null;
    const turns = read.turns.map((turn) =>
      turn.role === "assistant" ? { ...turn, answer: { ...NO_ANSWER, ...turn.answer } } : turn,
    );
    return {
      id: read.id,
      title: String(read.title ?? ""),
      model: String(read.model ?? ""),
      changed: Number(read.changed) || 0,
      parameters: { ...USUAL, ...read.parameters },
      turns,
    };
  } catch {
    return null;
  }
}
