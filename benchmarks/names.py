"""What the contestants are called."""

TANDEM, PEER, RAW = "Tandem", "mlx_lm.server", "raw loop"
