import { expect, test } from "vitest";
import { newConversation } from "../src/chat/conversation";
import { loadAll, MOST, remove, save } from "../src/chat/storage";

/** A browser's storage with room for so many characters. */
class Room implements Storage {
  private entries = new Map<string, string>();
  constructor(private most = Infinity) {}
  get length() {
    return this.entries.size;
  }
  key(index: number) {
    return [...this.entries.keys()][index] ?? null;
  }
  getItem(name: string) {
    return this.entries.get(name) ?? null;
  }
  setItem(name: string, value: string) {
    const others = [...this.entries].filter(([key]) => key !== name);
    const used = others.reduce((sum, [, text]) => sum + text.length, 0);
    if (used + value.length > this.most) throw new DOMException("full", "QuotaExceededError");
    this.entries.set(name, value);
  }
  removeItem(name: string) {
    this.entries.delete(name);
  }
  clear() {
    this.entries.clear();
  }
}

const talk = (id: string, changed: number, text = "") => ({
  ...newConversation(id, changed),
  turns: text ? [{ role: "user" as const, content: text }] : [],
});

test("what is kept is found again, the newest first", () => {
  const room = new Room();
  for (const [id, changed] of [["a", 2], ["b", 3], ["c", 1]] as const) save(room, talk(id, changed, "x"));
  expect(loadAll(room)).toEqual([talk("b", 3, "x"), talk("a", 2, "x"), talk("c", 1, "x")]);
  remove(room, "b");
  expect(loadAll(room).map(({ id }) => id)).toEqual(["a", "c"]);
});

test("there are at most so many, and the oldest go", () => {
  const room = new Room();
  for (let n = 0; n < MOST + 5; n++) save(room, talk(`n${n}`, n));
  expect(loadAll(room)).toHaveLength(MOST);
  expect(loadAll(room).at(-1)?.id).toBe("n5");
});

test("room is made by forgetting the oldest, and there may be none", () => {
  const room = new Room(2000);
  for (let n = 0; n < 4; n++) expect(save(room, talk(`n${n}`, n, "x".repeat(300)))).toBe(true);
  expect(save(room, talk("large", 9, "x".repeat(1200)))).toBe(true);
  expect(loadAll(room)[0]?.id).toBe("large");
  expect(loadAll(room).length).toBeLessThan(4);
  expect(save(room, talk("larger", 10, "x".repeat(5000)))).toBe(false);
});

test("what can't be read is left out", () => {
  const room = new Room();
  room.setItem("tandem.chat.a", "{");
  room.setItem("tandem.chat.b", '{"id": 1}');
  room.setItem("tandem.chat.c", "null");
  room.setItem("other", '{"id": "x", "turns": []}');
  save(room, talk("d", 1));
  expect(loadAll(room)).toEqual([talk("d", 1)]);
});
