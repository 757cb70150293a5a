"""Pure decisions: which step comes next. No I/O, no waiting; time comes in as an argument."""
