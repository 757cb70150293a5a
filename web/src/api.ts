// Requests to the server that served the page, with the API key where one is needed.

import { State } from "./state";

const KEY = "tandem.key";

export class ApiError extends Error {
  constructor(
    readonly status: number,
    message: string,
    readonly code: string | null = null,
  ) {
    super(message);
  }
}

/** The key; kept for this tab, or for this browser where the user wants that. */
export const apiKey = new State<string>(
  sessionStorage.getItem(KEY) ?? localStorage.getItem(KEY) ?? "",
);

/** Why a key is asked for; empty while none is. */
export const keyWanted = new State<string>("");

export function setKey(key: string, remember: boolean): void {
  forgetKey();
  (remember ? localStorage : sessionStorage).setItem(KEY, key);
  apiKey.set(key);
  keyWanted.set("");
}

export function forgetKey(): void {
  sessionStorage.removeItem(KEY);
  localStorage.removeItem(KEY);
  apiKey.set("");
}

/** Raises ApiError for any answer that is none of 2xx, and TypeError when nobody answers. */
export async function call(path: string, init: RequestInit = {}): Promise<Response> {
  const headers = new Headers(init.headers);
  const sent = apiKey.value;
  if (sent) headers.set("authorization", `Bearer ${sent}`);
  const answer = await fetch(path, { ...init, headers, cache: "no-store" });
  if (answer.ok) return answer;
  const { message, code } = await reason(answer);
  if (answer.status === 401 && apiKey.value === sent) {
    keyWanted.set(sent ? message : "This server asks for an API key.");
  }
  throw new ApiError(answer.status, message, code);
}

async function reason(answer: Response): Promise<{ message: string; code: string | null }> {
  const status = `${answer.status} ${answer.statusText}`.trim();
  try {
    const { error } = (await answer.json()) as { error?: { message?: string; code?: string } };
    return { message: error?.message ?? status, code: error?.code ?? null };
  } catch {
    return { message: status, code: null };
  }
}

export async function getJson<T>(path: string, signal?: AbortSignal): Promise<T> {
  return (await (await call(path, signal ? { signal } : {})).json()) as T;
}

export async function postJson<T>(path: string, body: unknown): Promise<T> {
  const headers = { "content-type": "application/json" };
  const answer = await call(path, { method: "POST", headers, body: JSON.stringify(body) });
  return (await answer.json()) as T;
}

export function said(error: unknown): string {
  if (error instanceof ApiError) return error.message;
  return error instanceof TypeError ? "the server does not answer" : String(error);
}
