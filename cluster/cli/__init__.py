"""The `tandem` command: one file per verb."""
