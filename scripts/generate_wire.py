"""Generate the Python code of the gRPC contract: proto/ -> cluster/wire/v1/.

`--check` changes nothing and fails when the committed code is not what the contract gives.
"""

from __future__ import annotations

import argparse
import filecmp
import os
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
TARGET = Path("cluster/wire/v1")


def generate(root: Path) -> None:
    """Write the generated modules and their type stubs below `root`."""
    # protoc finds protoc-gen-mypy beside the interpreter that runs this.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    sources = sorted(str(p.relative_to(ROOT / "proto")) for p in ROOT.glob("proto/**/*.proto"))
    options = ["python_out", "grpc_python_out", "mypy_out", "mypy_grpc_out"]
    arguments = ["protoc", f"-I{ROOT / 'proto'}", *(f"--{o}={root}" for o in options), *sources]
    if protoc.main(arguments) != 0:
        sys.exit("protoc failed; its message is above")


def stale(root: Path) -> list[str]:
    """Names of committed files that differ from those below `root`, or are missing."""
    fresh = {p.name for p in (root / TARGET).glob("*_pb2*")}
    committed = {p.name for p in (ROOT / TARGET).glob("*_pb2*")}
    both = sorted(fresh & committed)
    _, differ, odd = filecmp.cmpfiles(root / TARGET, ROOT / TARGET, both, shallow=False)
    return sorted({*differ, *odd, *(fresh ^ committed)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say whether it is current")
    if not parser.parse_args().check:
        generate(ROOT)
        return
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        if names := stale(Path(folder)):
            sys.exit(f"not current: {', '.join(names)}; run: python scripts/generate_wire.py")


if __name__ == "__main__":
    main()
