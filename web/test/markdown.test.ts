import { describe, expect, test } from "vitest";
import { inline, parse, safeHref, split } from "../src/chat/markdown";

describe("blocks", () => {
  test("each kind is known", () => {
    const source = "# A *b*\n\ntext\nmore\n\n> quote\n\n- one\n- two\n\n3. three\n\n---\n\n```py\nx = 1\n```";
    expect(parse(source).map((block) => block.kind)).toEqual([
      "heading", "text", "quote", "list", "list", "rule", "code",
    ]);
  });

  test("a fence holds whatever is in it, and one that is open goes to the end", () => {
    expect(parse("```html\n<b>\n\n# no\n```")).toEqual([
      { kind: "code", language: "html", text: "<b>\n\n# no" },
    ]);
    expect(parse("````\n```\n````")).toEqual([{ kind: "code", language: "", text: "```" }]);
    expect(parse("~~~js\n1")).toEqual([{ kind: "code", language: "js", text: "1" }]);
  });

  test("lists within lists, and code within them", () => {
    const [list] = parse("- a\n  - b\n  - c\n- d\n\n  ```\n  x\n  ```");
    expect(list).toMatchObject({ kind: "list", start: null });
    if (list?.kind !== "list") throw new Error();
    expect(list.items[0]).toHaveLength(2);
    expect(list.items[0]?.[1]).toMatchObject({ kind: "list" });
    expect(list.items[1]?.[1]).toEqual({ kind: "code", language: "", text: "x" });
    expect(parse("7. seven\n8. eight")[0]).toMatchObject({ start: 7, items: [[{}], [{}]] });
  });

  test("tables have as many cells as their head", () => {
    const [table] = parse("| a | b |\n|---|:-:|\n| 1 | x \\| y |\n| 2 |");
    expect(table).toEqual({
      kind: "table",
      head: [["a"], ["b"]],
      rows: [[["1"], ["x | y"]], [["2"], []]],
    });
    expect(parse("a | b\nno divider")[0]?.kind).toBe("text");
  });

  test("nothing is deeper than it may be", () => {
    expect(() => parse(`${"> ".repeat(500)}x`)).not.toThrow();
    expect(() => parse(`${"- ".repeat(500)}x`)).not.toThrow();
    expect(() => parse("*".repeat(5000) + "_".repeat(5000))).not.toThrow();
  });
});

describe("marks", () => {
  test("are found", () => {
    expect(inline("a **b *c*** ~~d~~ `*e*`")).toEqual([
      "a ",
      { kind: "strong", of: ["b ", { kind: "em", of: ["c"] }] },
      " ",
      { kind: "del", of: ["d"] },
      " ",
      { kind: "code", text: "*e*" },
    ]);
  });

  test("are text where they mark nothing", () => {
    for (const text of ["2 * 3 * 4", "snake_case_name", "**open", "`open", "a * b", "[x](", "\\"]) {
      expect(inline(text)).toEqual([text]);
    }
    expect(inline("\\*no\\*")).toEqual(["*no*"]);
  });

  test("lead only to the web and to mail", () => {
    expect(safeHref("https://a.example/b?c")).toBe("https://a.example/b?c");
    for (const href of [
      "javascript:alert(1)", "JaVaScript:alert(1)", " javascript:alert(1)", "java\nscript:alert(1)",
      "data:text/html,x", "vbscript:x", "file:x", "/relative", "#here", "blob:x",
    ]) {
      expect(safeHref(href), href).toBe(null);
    }
    expect(inline("[x](javascript:alert(1))")).toEqual(["[x](javascript:alert(1))"]);
    expect(inline("see https://a.example/x.")).toEqual([
      "see ",
      { kind: "link", href: "https://a.example/x", of: ["https://a.example/x"] },
      ".",
    ]);
    expect(inline("[a **b**](https://a.example)")).toEqual([
      { kind: "link", href: "https://a.example/", of: ["a ", { kind: "strong", of: ["b"] }] },
    ]);
  });

  test("take no time to speak of, whatever comes", () => {
    const begun = performance.now();
    for (const mark of ["*a ", "**a ", "[", "[a](", "`a ", "_a ", "https://", "~~a "]) {
      parse(mark.repeat(20_000 / mark.length));
    }
    expect(performance.now() - begun).toBeLessThan(5000);
  });
});

test("HTML is text", () => {
  expect(parse("<script>alert(1)</script>")).toEqual([
    { kind: "text", of: ["<script>alert(1)</script>"] },
  ]);
});

describe("split", () => {
  test("what is drawn in parts is what is drawn as one", () => {
    for (const source of [
      "a\n\nb\n\n```\nx\n\ny\n```\n\nc",
      "- a\n\n- b\n\n  c\n\nd",
      "1. a\n\n   b\n2. c\n\n> q\n\n> r",
      "# h\ntext\n\n| a |\n|---|\n| b |\n\n---",
      "\n\n a\n \nb",
    ]) {
      expect(split(source).flatMap(parse), source).toEqual(parse(source));
    }
  });

  test("what grows changes its last part only", () => {
    const text = "one\n\n- a\n- b\n\n```\ncode\n\ncode\n```\n\nlast words";
    let before: string[] = [];
    for (let length = 1; length <= text.length; length++) {
      const parts = split(text.slice(0, length));
      expect(parts.slice(0, before.length - 1)).toEqual(before.slice(0, -1));
      before = parts;
    }
  });
});
