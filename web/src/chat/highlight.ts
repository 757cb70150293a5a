// Colours for code: strings, comments, numbers and the words that most languages share. A guess
// by form, the same for all languages but for what begins a comment.

export interface Piece {
  kind: "" | "comment" | "string" | "number" | "word";
  text: string;
}

const HASH = new Set(["python", "py", "sh", "bash", "shell", "zsh", "yaml", "yml", "toml", "ruby", "rb", "r", "make", "makefile", "dockerfile", "perl"]);
const DASH = new Set(["sql", "lua", "haskell", "hs"]);
const WORDS =
  /^(?:abstract|and|as|async|await|begin|bool|break|case|catch|char|class|const|continue|def|default|defer|del|delete|do|done|elif|else|end|enum|esac|except|export|extends|extern|false|fi|final|finally|float|fn|for|from|func|function|go|if|impl|implements|import|in|int|interface|is|lambda|let|long|loop|match|mod|module|mut|namespace|new|nil|none|not|null|or|package|pass|private|protected|protocol|pub|public|raise|return|select|self|static|string|struct|super|switch|then|this|throw|trait|true|try|type|typedef|undefined|union|unless|unsigned|until|use|using|var|void|when|where|while|with|yield|None|True|False|SELECT|FROM|WHERE|INSERT|UPDATE|DELETE|CREATE|TABLE|JOIN|ORDER|GROUP|BY|AND|OR|NOT|NULL|INTO|VALUES|SET)$/;

/** Longer code is left as it is. */
const LONGEST = 20_000;

export function highlight(code: string, language: string): Piece[] {
  if (!language || language === "text" || language === "txt" || code.length > LONGEST) {
    return [{ kind: "", text: code }];
  }
  const comment = HASH.has(language) ? "#.*" : DASH.has(language) ? "--.*" : "\\/\\/.*|\\/\\*[^]*?(?:\\*\\/|$)";
  const tokens = new RegExp(
    `(?<comment>${comment})|(?<string>"(?:[^"\\\\\\n]|\\\\.)*"?|'(?:[^'\\\\\\n]|\\\\.)*'?|\`(?:[^\`\\\\]|\\\\.)*\`?)|(?<number>\\b\\d[\\w.]*)|(?<word>[A-Za-z_]\\w*)`,
    "g",
  );
  const pieces: Piece[] = [];
  const put = (kind: Piece["kind"], text: string) => {
    const last = pieces.at(-1);
    if (last?.kind === kind) last.text += text;
    else if (text) pieces.push({ kind, text });
  };
  let at = 0;
  for (const found of code.matchAll(tokens)) {
    put("", code.slice(at, found.index));
    const { comment: told, string, number, word } = found.groups ?? {};
    const kind = told ? "comment" : string ? "string" : number ? "number" : word && WORDS.test(word) ? "word" : "";
    put(kind, found[0]);
    at = found.index + found[0].length;
  }
  put("", code.slice(at));
  return pieces;
}
