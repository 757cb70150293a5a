"""A load generator for OpenAI-compatible servers: what to ask, asking it, and what came of it."""
