// Server-sent events, piece by piece (https://html.spec.whatwg.org/multipage/server-sent-events.html).

export interface SseEvent {
  /** "data", or "comment" for what readers may skip: here it tells of progress. */
  kind: "data" | "comment";
  text: string;
  /** The offset just behind the event, where the server tells it; else null. */
  id: number | null;
}

export class SseReader {
  private rest = "";
  private data: string[] = [];
  private id: number | null = null;

  /** The events that are whole now. */
  push(text: string): SseEvent[] {
    const events: SseEvent[] = [];
    const lines = (this.rest + text).split("\n");
    this.rest = lines.pop() ?? "";
    for (const raw of lines) this.line(raw.endsWith("\r") ? raw.slice(0, -1) : raw, events);
    return events;
  }

  private comment: string | null = null;

  private line(line: string, events: SseEvent[]): void {
    if (line === "") {
      if (this.data.length) events.push({ kind: "data", text: this.data.join("\n"), id: this.id });
      else if (this.comment !== null) events.push({ kind: "comment", text: this.comment, id: this.id });
      [this.data, this.id, this.comment] = [[], null, null];
      return;
    }
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "data") this.data.push(value);
    else if (name === "id" && /^\d+$/.test(value)) this.id = Number(value);
    else if (name === "") this.comment = value;
  }
}
