"""A whole cluster in one thread: virtual time, one source of chance, and faults at any moment."""
