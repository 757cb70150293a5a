"""Build the dashboard: web/ -> api/static, which is committed.

    .venv/bin/python scripts/build_web.py            types, unit tests, build
    .venv/bin/python scripts/build_web.py --check    the same, and fail if what is committed differs

It needs node and npm; nothing else of Tandem does. `api/static/sources.sha256` says of which
sources the page was built, so that a test without node can tell when it is old.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WEB = ROOT / "web"
BUILT = ROOT / "api" / "static"
DIGEST = "sources.sha256"
INPUTS = ("index.html", "package.json", "package-lock.json", "tsconfig.json", "vite.config.ts")


def sources_digest() -> str:
    """Of all that the page is built from, in hex."""
    files = [WEB / name for name in INPUTS] + sorted((WEB / "src").rglob("*.*"))
    digest = hashlib.sha256()
    for path in files:
        content = path.read_bytes()
        digest.update(f"{path.relative_to(WEB).as_posix()} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def build(into: Path) -> None:
    """Check the types, run the unit tests, and build."""
    lock, installed = WEB / "package-lock.json", WEB / "node_modules" / ".package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
        _npm("ci", "--no-audit", "--no-fund")
    _npm("exec", "--", "tsc", "--noEmit")
    _npm("exec", "--", "vitest", "run")
    _npm("exec", "--", "vite", "build", "--outDir", str(into), "--emptyOutDir")
    (into / DIGEST).write_text(sources_digest() + "\n")


def differences(one: Path, other: Path) -> list[str]:
    """Files that are not the same in both folders."""
    names = {
        path.relative_to(folder).as_posix()
        for folder in (one, other)
        for path in folder.rglob("*")
        if path.is_file()
    }
    return sorted(name for name in names if _content(one / name) != _content(other / name))


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def _npm(*arguments: str) -> None:
    command = ["npm", "--silent", *arguments]
    done = subprocess.run(command, cwd=WEB, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description="Build the dashboard.")
    parser.add_argument("--check", action="store_true", help="fail if it is not current")
    check = parser.parse_args().check
    if shutil.which("npm") is None:
        sys.exit("npm is not installed (Debian: nodejs npm)")
    if not check:
        build(BUILT)
        return
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder))
        wrong = differences(Path(folder), BUILT)
    if wrong:
        sys.exit(f"not current: {', '.join(wrong)}; run scripts/build_web.py and commit it")


if __name__ == "__main__":
    main()
