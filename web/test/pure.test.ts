import { describe, expect, test } from "vitest";
import { ceiling, medianOf, merged, pathOf, perByte, straggler, told } from "../src/charts/series";
import { highlight } from "../src/chat/highlight";
import { groupOf, labelOf, nameOf, queryOf, speedOf } from "../src/cluster/group";
import { memoryOf } from "../src/cluster/memory";
import { ringOf } from "../src/cluster/ring";
import { brief, bytes, duration, gigabits, rate, reading, roundTrip, shareOf } from "../src/format";
import { rangeOf } from "../src/parts/window";
import type { Cluster, Group, History, Node, Pair, Rank } from "../src/wire";

describe("numbers", () => {
  test("for people", () => {
    expect([bytes(0), bytes(1536), bytes(40 * 2 ** 30)]).toEqual(["0 B", "1.5 KiB", "40 GiB"]);
    expect([duration(1.25), duration(59.6), duration(3725), duration(90_000)]).toEqual([
      "1.3 s", "1 min", "1 h 2 min", "1 d 1 h",
    ]);
    expect([brief(0), brief(0.0042), brief(0.25), brief(2)]).toEqual(["0", "4.20 ms", "250 ms", "2.00 s"]);
    expect([rate(0), rate(12.34), rate(1234.5)]).toEqual(["0", "12.3", "1,235"]);
    expect([roundTrip(9.2), roundTrip(1500), gigabits(38.2), gigabits(0.4)]).toEqual([
      "9.2 µs", "1.5 ms", "38 Gb/s", "400 Mb/s",
    ]);
    expect([reading(0), reading(3.4e8), reading(41.23e9), reading(4.57e11)]).toEqual([
      "0", "340 MB/s", "41.2 GB/s", "457 GB/s",
    ]);
    expect([shareOf("fetching 42 %"), shareOf("12.5% of it"), shareOf("warm-up")]).toEqual([0.42, 0.125, null]);
  });
});

function history(numbers: number[], now: number): History {
  const each = <T,>(value: T) => numbers.map(() => value);
  return {
    every_seconds: 5, now, number: numbers, at: numbers.map((n) => n * 5), epoch: each(1),
    decode_tokens_per_second: numbers, prefill_tokens_per_second: each(0), queued: each(0),
    running: each(0), first_token_seconds: each(null), inter_token_seconds: each(null),
    cached_share: each(null), step_seconds: each([]), read_bytes_per_second: each([]),
  };
}

describe("the last hour", () => {
  test("grows by what is new, and holds an hour", () => {
    const first = history([1, 2, 3], 15);
    expect(merged(null, first)).toBe(first);
    expect(merged(first, history([4, 5], 25))).toEqual(history([1, 2, 3, 4, 5], 25));
    expect(merged(first, history([3, 4], 20))).toEqual(history([1, 2, 3, 4], 20));
    expect(merged(first, history([], 17))).toEqual({ ...first, now: 17 });
    const full = merged(history(Array.from({ length: 720 }, (_, n) => n + 1), 3600), history([721], 3605));
    expect([full.number.length, full.number[0], full.at[0]]).toEqual([720, 2, 10]);
  });

  test("begins again with a server that was started anew", () => {
    expect(merged(history([1, 2, 3], 15), history([1], 5))).toEqual(history([1], 5));
  });

  test("is drawn with gaps, and the largest of what falls together", () => {
    const box = { from: 0, to: 100, top: 10, width: 100, height: 50 };
    expect(pathOf([0, 50, 100], [0, 10, 5], box, 60)).toBe("M0.0 50.0L50.0 0.0L100.0 25.0");
    expect(pathOf([0, 50, 100], [0, null, 5], box, 60)).toBe("M0.0 50.0M100.0 25.0");
    expect(pathOf([10, 10.5, 11], [1, 9, 2], box, 60)).toBe("M11.0 5.0");
    expect(pathOf([-5], [1], box, 60)).toBe("");
  });

  test("in words", () => {
    expect(told([3, null, 1, 2])).toEqual({ now: 2, median: 2, most: 3 });
    expect(told([null])).toEqual({ now: null, median: null, most: null });
    expect(medianOf([4, 1, 3, 2])).toBe(2);
    expect([ceiling(0), ceiling(0.13), ceiling(7), ceiling(439)]).toEqual([1, expect.closeTo(0.15), 8, 500]);
  });

  test("tells the straggler from the others", () => {
    const found = straggler([[1, 3, 1], [1, 3, null]]);
    expect(found).toEqual({ rank: 1, factor: 3 });
    expect(straggler([[1]])).toBe(null);
    expect(straggler([[null, null]])).toBe(null);
    expect(straggler([[1, null]])).toBe(null);
    // One that was disturbed now and then is none.
    expect(straggler([[1, 2], [1, 2], [90, 2], [1, 2]])).toEqual({ rank: 1, factor: 2 });
  });

  test("tells the one that is slow by itself from the fastest", () => {
    const speeds = [[8, 4, 4, 2], [null, null, null, null], [8, 4, 4, 2]];
    expect(perByte([[4, null, 0]])).toEqual([[0.25, null, null]]);
    expect(straggler(perByte(speeds), "fastest")).toEqual({ rank: 3, factor: 4 });
    expect(straggler(perByte(speeds))).toEqual({ rank: 3, factor: 2 });
  });
});

describe("machines", () => {
  const node = (id: string): Node => ({
    node_id: id, hostname: id, chip: "", cores: 1, memory_bytes: 0, usable_bytes: 100, system: "",
    blas: { name: "", fast: true, advice: "" }, addresses: [],
  });
  const rank = (number: number, on: string, weights = 10, memory = 30): Rank => ({
    rank: number, node_id: on, endpoint: "", pid: 0, weight_bytes: weights, memory_bytes: memory,
    peak_bytes: 0, last_seq: 0, read_bytes_per_second: null, slow: false,
  });
  const view = (nodes: Node[], ranks: Rank[]) => ({ nodes, ranks, link: "ethernet" }) as Cluster;

  test("have weights, caches and what is free", () => {
    const memory = memoryOf(node("a"), [rank(0, "a"), rank(1, "b"), rank(2, "a", 10, 5)]);
    expect(memory).toMatchObject({ usable: 100, weights: 20, kv: 20, free: 60 });
    expect(memoryOf(node("a"), [rank(0, "a", 10, 130)])).toMatchObject({ usable: 130, free: 0 });
  });

  test("have what other groups hold", () => {
    const ranks = [rank(0, "a"), rank(1, "b")];
    expect(memoryOf(node("a"), ranks, 70)).toMatchObject({ kv: 20, others: 40, free: 30 });
    expect(memoryOf(node("a"), ranks, 30)).toMatchObject({ others: 0, free: 70 });
    expect(memoryOf(node("a"), ranks)).toMatchObject({ others: 0, free: 70 });
    expect(memoryOf(node("a"), ranks, 120)).toMatchObject({ usable: 120, others: 90, free: 0 });
  });

  test("form a ring in the order of their ranks, with the worse of two directions", () => {
    const names = ["a", "b", "c"];
    const links: Pair[] = [
      { here: "a", there: "b", link: "wifi", round_trip_us: 5, gigabits: 2, error: "" },
      { here: "b", there: "a", link: "wifi", round_trip_us: 9, gigabits: 1, error: "" },
    ];
    const ranks = [rank(2, "a"), rank(0, "c"), rank(1, "b")];
    const { dots, edges } = ringOf(view(names.map(node), ranks), links, 400, 300);
    expect(dots.map(({ name }) => name)).toEqual(["c", "b", "a"]);
    expect(edges.map(({ used }) => used)).toEqual([true, true, true]);
    const edge = edges.find(({ from, to }) => from.name === "b" && to.name === "a");
    expect(edge).toMatchObject({ link: "wifi", roundTrip: 9, gigabits: 1 });
    expect(dots.every(({ x, y }) => x >= 0 && x <= 400 && y >= 0 && y <= 300)).toBe(true);
  });

  test("ranks of one machine are shown as such", () => {
    const { dots, edges } = ringOf(view([node("a")], [rank(0, "a"), rank(1, "a")]), [], 400, 150);
    expect(dots.map(({ name }) => name)).toEqual(["rank 0", "rank 1"]);
    expect(edges).toMatchObject([{ used: true, link: "ethernet" }]);
    expect(ringOf(view([], []), [], 400, 150)).toEqual({ dots: [], edges: [] });
  });
});

describe("groups", () => {
  const group = (model: string, replica = 0): Group => ({
    model, replica, epoch: 1, world: 1, health: "serving", decode_tokens_per_second: 10,
  });
  const view = (groups: Group[]) =>
    ({ model: { id: "a" }, replica: 0, groups, decode_tokens_per_second: 7 }) as Cluster;
  const [first, second, other] = [group("a"), group("a", 1), group("o/b&c")];

  test("are asked for by name where there is a choice", () => {
    expect(groupOf(view([]), "")).toBe(null);
    expect(groupOf(view([first]), nameOf(other))).toBe(null);
    expect(groupOf(view([first, second]), "")).toBe(first);
    expect(groupOf(view([first, second, other]), nameOf(other))).toBe(other);
    expect(groupOf(view([first, second]), nameOf(other))).toBe(first);
    expect(groupOf(view([other]), "")).toBe(other);
    expect([queryOf(null), queryOf(other)]).toEqual(["", "&model=o%2Fb%26c&replica=0"]);
  });

  test("have names, and a speed together", () => {
    const groups = [first, second, other];
    expect(groups.map((each) => labelOf(each, groups))).toEqual(["a, replica 0", "a, replica 1", "o/b&c"]);
    expect([speedOf(view([])), speedOf(view(groups))]).toEqual([7, 30]);
  });
});

describe("rows in sight", () => {
  test("are few, and never beyond the list", () => {
    expect(rangeOf(0, 480, 48, 5000)).toEqual({ first: 0, end: 20 });
    expect(rangeOf(48 * 2500, 480, 48, 5000)).toEqual({ first: 2490, end: 2520 });
    expect(rangeOf(48 * 4990, 480, 48, 5000)).toEqual({ first: 4980, end: 5000 });
    expect(rangeOf(1e9, 480, 48, 10)).toEqual({ first: 9, end: 10 });
    expect(rangeOf(0, 480, 48, 0)).toEqual({ first: 0, end: 0 });
  });
});

test("colours change nothing of the code", () => {
  for (const [code, language] of [
    ["x = 'a' # b\nfor i in 1:", "python"], ["// c\nconst s = `x`; /* open", "ts"], ["<b>", "html"], ["a", ""],
  ] as const) {
    expect(highlight(code, language).map(({ text }) => text).join("")).toBe(code);
  }
  expect(highlight("return 1 # x", "py").map(({ kind }) => kind)).toEqual(["word", "", "number", "", "comment"]);
});
