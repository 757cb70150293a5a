"""The agent of one machine: reports it, and starts, watches and kills its engines."""
