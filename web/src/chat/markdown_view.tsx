// Markdown's tree as elements. Only these: nothing a model writes becomes markup by itself.

import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";
import { Icon } from "../parts/icon";
import { memo } from "../parts/memo";
import { highlight } from "./highlight";
import { type Block, type Inline, parse, split } from "./markdown";

export function Markdown({ text }: { text: string }) {
  return (
    <div class="prose">
      {split(text).map((source, index) => (
        <Source key={index} source={source} />
      ))}
    </div>
  );
}

const Source = memo(({ source }: { source: string }) => <Blocks blocks={parse(source)} />);

function Blocks({ blocks }: { blocks: Block[] }) {
  return (
    <>
      {blocks.map((block, index) => (
        <One key={index} block={block} />
      ))}
    </>
  );
}

function One({ block }: { block: Block }) {
  switch (block.kind) {
    case "text":
      return <p>{drawn(block.of)}</p>;
    case "heading": {
      // Below the page's own headings.
      const Tag = block.level === 1 ? "h3" : block.level === 2 ? "h4" : "h5";
      return <Tag>{drawn(block.of)}</Tag>;
    }
    case "code":
      return <Code language={block.language} text={block.text} />;
    case "quote":
      return (
        <blockquote>
          <Blocks blocks={block.of} />
        </blockquote>
      );
    case "list": {
      const items = block.items.map((item, index) => (
        <li key={index}>
          {item.length === 1 && item[0]?.kind === "text" ? drawn(item[0].of) : <Blocks blocks={item} />}
        </li>
      ));
      return block.start === null ? <ul>{items}</ul> : <ol start={block.start}>{items}</ol>;
    }
    case "table":
      return (
        <div class="scroll" tabIndex={0} role="group" aria-label="Table">
          <table>
            <thead>
              <tr>
                {block.head.map((cell, index) => (
                  <th key={index} scope="col">
                    {drawn(cell)}
                  </th>
                ))}
              </tr>
            </thead>
            <tbody>
              {block.rows.map((row, index) => (
                <tr key={index}>
                  {row.map((cell, place) => (
                    <td key={place}>{drawn(cell)}</td>
                  ))}
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      );
    case "rule":
      return <hr />;
  }
}

function drawn(inlines: Inline[]): ComponentChildren {
  return inlines.map((each, index) => {
    if (typeof each === "string") return each;
    switch (each.kind) {
      case "br":
        return <br key={index} />;
      case "code":
        return <code key={index}>{each.text}</code>;
      case "link":
        return (
          <a key={index} href={each.href} target="_blank" rel="noopener noreferrer nofollow">
            {drawn(each.of)}
          </a>
        );
      default: {
        const Tag = each.kind;
        return <Tag key={index}>{drawn(each.of)}</Tag>;
      }
    }
  });
}

function Code({ language, text }: { language: string; text: string }) {
  return (
    <div class="code">
      <header>
        <span>{language || "text"}</span>
        <Copy text={text} what="code" />
      </header>
      <pre tabIndex={0}>
        <code>
          {highlight(text, language).map((piece, index) =>
            piece.kind ? (
              <span key={index} class={`t-${piece.kind}`}>
                {piece.text}
              </span>
            ) : (
              piece.text
            ),
          )}
        </code>
      </pre>
    </div>
  );
}

export function Copy({ text, what }: { text: string; what: string }) {
  const [done, setDone] = useState("");
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      setDone("copied");
    } catch {
      setDone("not possible"); // over http, beyond this machine
    }
    setTimeout(() => setDone(""), 1500);
  };
  return (
    <button type="button" class="quiet small" onClick={copy} aria-label={`Copy ${what}`}>
      <Icon name="copy" />
      <span role="status">{done}</span>
    </button>
  );
}
