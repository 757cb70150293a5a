// Markdown as a tree: what models write of CommonMark and GitHub's tables, and no HTML at all.
// Nothing here makes markup: what is no Markdown stays text.

export type Inline =
  | string
  | { kind: "code"; text: string }
  | { kind: "strong" | "em" | "del"; of: Inline[] }
  | { kind: "link"; href: string; of: Inline[] }
  | { kind: "br" };

export type Block =
  | { kind: "text"; of: Inline[] }
  | { kind: "heading"; level: number; of: Inline[] }
  | { kind: "code"; language: string; text: string }
  | { kind: "quote"; of: Block[] }
  | { kind: "list"; start: number | null; items: Block[][] }
  | { kind: "table"; head: Inline[][]; rows: Inline[][][] }
  | { kind: "rule" };

/** Quotes within lists within quotes, at most. */
const DEEPEST = 8;

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([\w+#.-]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*\s*$/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])( {1,4}|$)/;
const DIVIDER = /^ {0,3}\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;

/** The source of each top-level block: one that is unchanged need not be drawn again. */
export function split(text: string): string[] {
  const blocks: string[] = [];
  let current: string[] = [];
  let fence = "";
  for (const line of text.split("\n")) {
    const empty = line.trim() === "";
    const before = current.at(-1);
    if (!fence && !empty && before?.trim() === "" && !goesOn(current[0]!, line)) {
      blocks.push(current.join("\n").trimEnd());
      current = [];
    }
    if (fence) fence = closes(line, fence) ? "" : fence;
    else fence = FENCE.exec(line)?.[1] ?? "";
    if (!empty || current.length) current.push(line);
  }
  if (current.length) blocks.push(current.join("\n"));
  return blocks;
}

/** A list goes on after an empty line. */
function goesOn(first: string, line: string): boolean {
  return ITEM.test(first) && (/^\s/.test(line) || ITEM.test(line));
}

export function parse(text: string): Block[] {
  return blocksOf(text.split("\n"), 0);
}

function blocksOf(lines: string[], depth: number): Block[] {
  const blocks: Block[] = [];
  let at = 0;
  while (at < lines.length) {
    const line = lines[at]!;
    if (!line.trim()) {
      at += 1;
      continue;
    }
    const [block, next] = blockAt(lines, at, depth);
    blocks.push(block);
    at = next;
  }
  return blocks;
}

function blockAt(lines: string[], at: number, depth: number): [Block, number] {
  const line = lines[at]!;
  const fence = FENCE.exec(line);
  if (fence) return fenced(lines, at, fence);
  const heading = HEADING.exec(line);
  if (heading) {
    return [{ kind: "heading", level: heading[1]!.length, of: inline(heading[2]!) }, at + 1];
  }
  if (RULE.test(line)) return [{ kind: "rule" }, at + 1];
  if (depth < DEEPEST && QUOTE.test(line)) return quoted(lines, at, depth);
  if (depth < DEEPEST && ITEM.test(line)) return listed(lines, at, depth);
  if (line.includes("|") && DIVIDER.test(lines[at + 1] ?? "") && lines[at + 1]!.includes("-")) {
    const found = table(lines, at);
    if (found) return found;
  }
  return paragraph(lines, at, depth);
}

function closes(line: string, fence: string): boolean {
  const text = line.trim();
  return text.length >= fence.length && text === fence[0]!.repeat(text.length);
}

function fenced(lines: string[], at: number, fence: RegExpExecArray): [Block, number] {
  const text: string[] = [];
  let next = at + 1;
  while (next < lines.length && !closes(lines[next]!, fence[1]!)) text.push(lines[next++]!);
  return [{ kind: "code", language: fence[2]!.toLowerCase(), text: text.join("\n") }, next + 1];
}

function quoted(lines: string[], at: number, depth: number): [Block, number] {
  const inside: string[] = [];
  let next = at;
  while (next < lines.length && QUOTE.test(lines[next]!)) inside.push(lines[next++]!.replace(QUOTE, ""));
  return [{ kind: "quote", of: blocksOf(inside, depth + 1) }, next];
}

function listed(lines: string[], at: number, depth: number): [Block, number] {
  const first = ITEM.exec(lines[at]!)!;
  const ordered = /\d/.test(first[2]!);
  const items: Block[][] = [];
  let next = at;
  while (next < lines.length) {
    const found = ITEM.exec(lines[next]!);
    if (!found || /\d/.test(found[2]!) !== ordered || RULE.test(lines[next]!)) break;
    const indent = found[0].length || found[1]!.length + found[2]!.length + 1;
    const inside = [lines[next]!.slice(found[0].length)];
    next += 1;
    while (next < lines.length && belongs(lines, next, indent)) {
      inside.push(lines[next]!.slice(Math.min(indent, leading(lines[next]!))));
      next += 1;
    }
    items.push(blocksOf(inside, depth + 1));
    while (next < lines.length && !lines[next]!.trim() && ITEM.test(lines[next + 1] ?? "")) next += 1;
  }
  return [{ kind: "list", start: ordered ? parseInt(first[2]!, 10) : null, items }, next];
}

/** Whether a line goes on with the item before it. */
function belongs(lines: string[], at: number, indent: number): boolean {
  const line = lines[at]!;
  if (!line.trim()) {
    const after = lines[at + 1];
    return after !== undefined && after.trim() !== "" && leading(after) >= Math.min(indent, 2);
  }
  if (leading(line) >= Math.min(indent, 2)) return true;
  const before = lines[at - 1]!;
  return before.trim() !== "" && !ITEM.test(line) && !starts(line);
}

function leading(line: string): number {
  return line.length - line.trimStart().length;
}

function starts(line: string): boolean {
  return FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line);
}

function table(lines: string[], at: number): [Block, number] | null {
  const head = cells(lines[at]!);
  if (cells(lines[at + 1]!).length !== head.length) return null;
  const rows: Inline[][][] = [];
  let next = at + 2;
  while (next < lines.length && lines[next]!.trim() && lines[next]!.includes("|")) {
    const row = cells(lines[next]!).slice(0, head.length);
    while (row.length < head.length) row.push("");
    rows.push(row.map(inline));
    next += 1;
  }
  return [{ kind: "table", head: head.map(inline), rows }, next];
}

function cells(line: string): string[] {
  const bare = line.trim().replace(/^\|/, "").replace(/(?<!\\)\|$/, "");
  return bare.split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
}

function paragraph(lines: string[], at: number, depth: number): [Block, number] {
  const inside = [lines[at]!];
  let next = at + 1;
  while (next < lines.length && lines[next]!.trim() && !starts(lines[next]!)) {
    if (depth < DEEPEST && ITEM.test(lines[next]!)) break;
    inside.push(lines[next++]!);
  }
  return [{ kind: "text", of: inline(inside.map((line) => line.trimStart()).join("\n")) }, next];
}

const SPECIAL = /[\\`*_~[\n]|https?:\/\//g;
const PAIRS = [
  ["**", "strong"],
  ["__", "strong"],
  ["~~", "del"],
  ["*", "em"],
  ["_", "em"],
] as const;

/** Marks within a paragraph. Each mark is looked for once, so it takes no longer than the text is
 * long, times how deep marks are nested. */
export function inline(text: string, depth = 0): Inline[] {
  const made: Inline[] = [];
  const missing = new Set<string>();
  let plain = "";
  let at = 0;
  const flush = () => {
    if (plain) made.push(plain);
    plain = "";
  };
  while (at < text.length) {
    SPECIAL.lastIndex = at;
    const found = SPECIAL.exec(text);
    if (!found) break;
    plain += text.slice(at, found.index);
    at = found.index;
    const mark = depth < DEEPEST ? markAt(text, at, depth, missing) : null;
    if (mark) {
      flush();
      made.push(mark.node);
      at = mark.end;
    } else if (text[at] === "\\" && /[!-/:-@[-`{-~]/.test(text[at + 1] ?? "")) {
      plain += text[at + 1];
      at += 2;
    } else {
      plain += text[at];
      at += 1;
    }
  }
  plain += text.slice(at);
  flush();
  return made;
}

type Mark = { node: Inline; end: number } | null;

function markAt(text: string, at: number, depth: number, missing: Set<string>): Mark {
  switch (text[at]) {
    case "\n":
      return { node: { kind: "br" }, end: at + 1 };
    case "`":
      return codeAt(text, at, missing);
    case "[":
      return linkAt(text, at, depth);
    case "h":
      return addressAt(text, at);
    default:
      return emphasisAt(text, at, depth, missing);
  }
}

function codeAt(text: string, at: number, missing: Set<string>): Mark {
  const ticks = /^`+/.exec(text.slice(at, at + 32))![0];
  if (missing.has(ticks)) return null;
  const end = text.indexOf(ticks, at + ticks.length);
  if (end < 0) {
    missing.add(ticks);
    return null;
  }
  const inside = text.slice(at + ticks.length, end).replaceAll("\n", " ");
  return { node: { kind: "code", text: inside.trim() || inside }, end: end + ticks.length };
}

function linkAt(text: string, at: number, depth: number): Mark {
  const found = /^\[([^[\]]{0,1000})\]\(\s*<?([^\s()<>]{1,2000}(?:\([^\s()]{0,200}\)[^\s()<>]{0,500})?)>?(?:\s+"[^"]{0,300}")?\s*\)/.exec(
    text.slice(at, at + 4000),
  );
  const href = found && safeHref(found[2]!);
  if (!found || !href) return null;
  return { node: { kind: "link", href, of: inline(found[1]!, depth + 1) }, end: at + found[0].length };
}

function addressAt(text: string, at: number): Mark {
  if (/\w/.test(text[at - 1] ?? "")) return null;
  const found = /^https?:\/\/[^\s<>"'`]{1,2000}/.exec(text.slice(at, at + 2010));
  const bare = found?.[0].replace(/[).,;:!?*_~\]]+$/, "");
  const href = bare && safeHref(bare);
  if (!bare || !href) return null;
  return { node: { kind: "link", href, of: [bare] }, end: at + bare.length };
}

function emphasisAt(text: string, at: number, depth: number, missing: Set<string>): Mark {
  for (const [mark, kind] of PAIRS) {
    if (!text.startsWith(mark, at) || missing.has(mark)) continue;
    const begin = at + mark.length;
    // Within a word, an underscore is part of it.
    if (mark[0] === "_" && /\w/.test(text[at - 1] ?? "")) continue;
    if (/\s/.test(text[begin] ?? " ")) continue;
    const end = closing(text, begin, mark);
    if (end < 0) {
      missing.add(mark);
      continue;
    }
    return { node: { kind, of: inline(text.slice(begin, end), depth + 1) }, end: end + mark.length };
  }
  return null;
}

function closing(text: string, from: number, mark: string): number {
  let at = from + 1;
  while ((at = text.indexOf(mark, at)) >= 0) {
    // Of three stars the last two are it, the first ends what is within.
    if (mark.length === 2 && text[at + 2] === mark[0]) at += 1;
    const double = mark.length === 1 && (text[at + 1] === mark || text[at - 1] === mark);
    const inWord = mark[0] === "_" && /\w/.test(text[at + mark.length] ?? "");
    if (!double && !inWord && !/\s/.test(text[at - 1]!) && text[at - 1] !== "\\") return at;
    at += 1;
  }
  return -1;
}

/** An address that may be followed: of the web, or of mail. Null for all others, scripts among
 * them. */
export function safeHref(href: string): string | null {
  try {
    const url = new URL(href);
    return ["http:", "https:", "mailto:"].includes(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}
