"""Print the Homebrew formula of a release: deploy/homebrew/tandem.rb for one source distribution.

    python scripts/homebrew_formula.py dist/tandem-VERSION.tar.gz https://HOST/tandem-VERSION.tar.gz

Homebrew reads the version in the file's name. Everything else of a release is in the source
distribution itself: the lock with the digest of each package, and the manual page.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

TEMPLATE = Path(__file__).resolve().parent.parent / "deploy" / "homebrew" / "tandem.rb"


def formula(template: str, sdist: bytes, url: str) -> str:
    """The template with the address of a source distribution, and its digest."""
    digest = hashlib.sha256(sdist).hexdigest()
    _, class_ = template.split("\n", 1)  # without the line that says it is a template
    return class_.replace("@URL@", url).replace("@SHA256@", digest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("sdist", type=Path, help="the source distribution")
    parser.add_argument("url", help="where Homebrew will find it; ends in the name of the file")
    given = parser.parse_args()
    if not given.url.endswith(f"/{given.sdist.name}"):
        parser.error(f"the address has to end in {given.sdist.name}: the version is read there")
    print(formula(TEMPLATE.read_text(), given.sdist.read_bytes(), given.url), end="")


if __name__ == "__main__":
    main()
