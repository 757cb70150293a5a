"""One file per dialect: the shape of what clients send."""
