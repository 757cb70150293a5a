"""A model folder on disk: where it is, what it says of itself, what identifies it."""
