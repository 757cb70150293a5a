"""What a machine shows of itself: its key, its certificate, and the authority of its cluster.

All in one file, which is replaced as a whole, so that key and certificate always match. The key
is made on the machine and never leaves it.
"""

from __future__ import annotations

import logging
from functools import cached_property
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from cluster.core.errors import BadConfiguration, TandemError
from cluster.trust import certificate, files
from cluster.trust.certificate import Name

log = logging.getLogger("tandem.trust")

DEFAULT_FOLDER = Path("~/.config/tandem/trust")
NODE_FILE = "node.json"


class Identity(BaseModel):
    """The content of an identity file, all text in PEM."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    certificate: str
    authority: str
    coordinator: str = ""
    """Its "host:port", where the certificate was got; empty for the coordinator's own."""
    token: str = ""
    """Id of the token that it was got for."""

    def __repr__(self) -> str:
        return f"Identity({self.name.uri})"

    @cached_property
    def name(self) -> Name:
        """Whom it stands for."""
        return certificate.name_of(certificate.load(self.certificate))

    @cached_property
    def expires(self) -> float:
        """Unix time at which the certificate ends."""
        return certificate.expires(certificate.load(self.certificate))

    @property
    def renew_at(self) -> float:
        """Unix time from which on another is to be asked for: half of its life."""
        return self.expires - certificate.LEAF_DAYS * 86400 / 2


class Draft:
    """A new key whose certificate is still to be had."""

    def __init__(self) -> None:
        self._key = certificate.make_key()
        self.request = certificate.make_request(self._key)
        """A signing request, DER."""

    def finish(self, issued: str, authority: str, coordinator: str, token: str) -> Identity:
        """The identity, from what the coordinator has answered. Raises NotAuthorized when that is
        for another key, or not of `authority`."""
        leaf = certificate.load(issued)
        certificate.check_issued(leaf, certificate.load(authority), self._key)
        return Identity(
            key=certificate.key_pem(self._key),
            certificate=issued,
            authority=authority,
            coordinator=coordinator,
            token=token,
        )


def read_identity(path: Path) -> Identity | None:
    """The identity in a file; None when there is none. Raises BadConfiguration."""
    identity = files.read(path, Identity, "identity file")
    if identity is not None:
        key = certificate.load_key(identity.key)
        try:
            leaf = certificate.load(identity.certificate)
            certificate.check_issued(leaf, certificate.load(identity.authority), key)
        except TandemError as error:
            raise BadConfiguration(f"{path} is no identity file: {error}") from error
    return identity


def write_identity(path: Path, identity: Identity) -> None:
    """Keep an identity, in place of the one before. Raises BadConfiguration."""
    with files.locked(path.parent):
        files.replace(path, identity, "identity file")


class IdentityFile:
    """An identity file, followed: a renewed certificate is taken up at the next look."""

    def __init__(self, path: Path) -> None:
        """Raises BadConfiguration when there is no identity in the file."""
        self.path = path
        self._seen = files.stamp(path)
        identity = read_identity(path)
        if identity is None:
            raise BadConfiguration(f"there is no identity file {path}")
        self._identity = identity

    def current(self) -> Identity:
        """The newest identity. A file that has become unreadable changes nothing."""
        seen = files.stamp(self.path)
        if seen != self._seen:
            self._seen = seen  # before reading: what changes meanwhile is seen the next time
            try:
                self._identity = read_identity(self.path) or self._identity
            except BadConfiguration as error:
                log.error("the certificate stays as it was: %s", error)
        return self._identity
