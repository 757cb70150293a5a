"""Replays one seed: python -m tests.simulation SEED [--trace]."""

from __future__ import annotations

import argparse

from tests.simulation.checks import Violated
from tests.simulation.cluster import Cluster


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("seed", type=int)
    parser.add_argument("--trace", action="store_true", help="print all that happens")
    options = parser.parse_args()
    cluster = Cluster(options.seed)
    failure = None
    try:
        cluster.run()
    except Violated as error:
        failure = error
    if options.trace:
        print("\n".join(cluster.log))
    print(f"seed {options.seed}: {failure or 'all invariants hold'}")
    return 1 if failure else 0


if __name__ == "__main__":
    raise SystemExit(main())
