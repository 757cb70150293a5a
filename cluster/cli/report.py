def report() -> None:
    """Collect what a bug report needs, without secrets, in one file."""
