// Which models there are. A server that serves one only says so through its cluster.

import { ApiError, getJson } from "../api";
import type { Cluster, Model, Models } from "../wire";

/** None where the server can't load and unload. */
export async function askModels(signal: AbortSignal): Promise<Models | null> {
  try {
    const found = await getJson<Partial<Models>>("/models", signal);
    // Where there is one model only, this path lists it as OpenAI has it.
    return Array.isArray(found.models)
      ? { models: found.models, keep_alive_seconds: found.keep_alive_seconds ?? null }
      : null;
  } catch (error) {
    if (error instanceof ApiError && error.status === 404) return null;
    throw error;
  }
}

/** The one that is served, in the same terms. */
export function theOne(view: Cluster): Model {
  return {
    id: view.model.id,
    state: view.epoch ? "loaded" : "loading",
    pinned: true,
    default: true,
    context: view.model.context,
    weight_bytes: view.ranks.reduce((sum, rank) => sum + rank.weight_bytes, 0),
    requests: view.counters.journal,
    idle_seconds: 0,
    progress: view.epoch ? "" : view.health.reason,
    error: "",
    replicas: view.epoch
      ? [
          {
            replica: 0,
            epoch: view.epoch,
            world: view.world,
            kind: view.world > 1 ? view.backend : "single",
            health: view.health.reason,
            ranks: view.ranks,
          },
        ]
      : [],
  };
}
