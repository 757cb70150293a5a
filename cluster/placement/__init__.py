"""Pure: which machines hold which part of a model, and whether it fits."""
