"""`python -m cluster.engine`: started by the node agent, never by a person."""

from __future__ import annotations

import time

_STARTED = time.monotonic()


def main() -> None:
    """Run the engine; does not return."""
    from cluster.engine import stdio

    # Before anything slow: MLX alone takes a while to import.
    stdio.die_with_parent()
    events = stdio.Events()

    import asyncio

    from cluster.engine.process import serve

    asyncio.run(serve(_STARTED, events))


if __name__ == "__main__":
    main()
