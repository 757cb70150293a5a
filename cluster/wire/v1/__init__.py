"""Generated from proto/cluster/wire/v1 by scripts/generate_wire.py; not edited by hand."""
