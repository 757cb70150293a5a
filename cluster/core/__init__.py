"""The nouns: plain values without I/O, imported by every other package."""
