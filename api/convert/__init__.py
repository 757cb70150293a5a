"""One file per dialect: pure conversion to and from the core request."""
