// What the server answers, as far as the page reads it. Names as in /openapi.json.

export type Phase = "queued" | "prefill" | "decode" | "draining";

export interface Node {
  node_id: string;
  hostname: string;
  chip: string;
  cores: number;
  memory_bytes: number;
  usable_bytes: number;
  system: string;
  blas: { name: string; fast: boolean; advice: string };
  addresses: { interface: string; ip: string; kind: string }[];
}

export interface Rank {
  rank: number;
  node_id: string;
  endpoint: string;
  pid: number;
  weight_bytes: number;
  memory_bytes: number;
  peak_bytes: number;
  last_seq: number;
  read_bytes_per_second: number | null;
  slow: boolean;
}

export interface Member {
  node_id: string;
  hostname: string;
  presence: string;
  draining: boolean;
  ranks: number;
  /** By the engines of all groups. */
  held_bytes: number;
}

export interface Group {
  model: string;
  replica: number;
  epoch: number;
  world: number;
  health: string;
  decode_tokens_per_second: number;
}

export interface Epoch {
  number: number;
  world: number;
  seconds: number;
  reason: string;
  recovery_seconds: number | null;
}

export interface Pair {
  here: string;
  there: string;
  link: string;
  round_trip_us: number | null;
  gigabits: number | null;
  error: string;
}

export interface Served {
  id: string;
  context: number;
  demo: boolean;
  rank_bytes: number;
  draft: string;
}

export interface Cluster {
  model: Served;
  health: { ok: boolean; reason: string; recovering: boolean };
  epoch: number;
  world: number;
  backend: string;
  link: string;
  nodes: Node[];
  ranks: Rank[];
  counters: { channels: number; slots: number; parked: number; journal: number };
  decode_tokens_per_second: number;
  prefill_tokens_per_second: number;
  queue_limit: number;
  steps_sent: number;
  uptime_seconds: number;
  members: Member[];
  history: Epoch[];
  links: Pair[];
  replica: number;
  groups: Group[];
}

export interface LiveRequest {
  id: string;
  dialect: string;
  key: string;
  phase: Phase;
  prompt_tokens: number;
  prefilled: number;
  generated: number;
  cached_tokens: number;
  tokens_per_second: number;
  age_seconds: number;
}

export interface LiveRequests {
  total: number;
  offset: number;
  all_visible: boolean;
  phases: Record<Phase, number>;
  requests: LiveRequest[];
}

export interface History {
  every_seconds: number;
  now: number;
  number: number[];
  at: number[];
  epoch: number[];
  decode_tokens_per_second: number[];
  prefill_tokens_per_second: number[];
  queued: number[];
  running: number[];
  first_token_seconds: ([number, number] | null)[];
  inter_token_seconds: ([number, number] | null)[];
  cached_share: (number | null)[];
  step_seconds: (number | null)[][];
  read_bytes_per_second: (number | null)[][];
}

export type ModelState = "loaded" | "loading" | "unloaded" | "failed";

export interface ModelRank {
  rank: number;
  node_id: string;
  weight_bytes: number;
  memory_bytes: number;
}

export interface Replica {
  replica: number;
  epoch: number;
  world: number;
  kind: string;
  health: string;
  ranks: ModelRank[];
}

export interface Model {
  id: string;
  state: ModelState;
  pinned: boolean;
  default: boolean;
  context: number;
  weight_bytes: number;
  requests: number;
  idle_seconds: number;
  progress: string;
  error: string;
  replicas: Replica[];
}

export interface Models {
  models: Model[];
  keep_alive_seconds: number | null;
}

export interface Choice {
  world: number;
  kind: string;
  fits: boolean;
  reason: string;
  chosen: boolean;
  predicted_decode: number | null;
  predicted_prefill: number | null;
  nodes: {
    node_id: string;
    hostname: string;
    ranks: number;
    bytes_per_rank: number;
    usable_bytes: number;
  }[];
}

export interface Placement {
  model: string;
  fits: boolean;
  refusal: string;
  choices: Choice[];
}
