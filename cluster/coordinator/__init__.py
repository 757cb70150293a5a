"""Wires the pure parts to I/O: channels, the journal of live requests, epochs, members."""
