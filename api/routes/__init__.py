"""One file per dialect: what is served where, and the I/O of it."""
