"""The authority of a cluster, in a folder of the coordinator's machine.

    authority.json    its key and certificate: whoever has the key is the cluster
    tokens.json       digests of join tokens
    nodes.json        machines that have a certificate, revoked ones among them
    coordinator.json  identity of the coordinator
    local.json        identity of the node agent on the coordinator's machine

`tandem token` and `tandem node` change them beside a running coordinator, which takes up changes
within a second.
"""

from __future__ import annotations

import logging
import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict

from cluster.core.errors import BadConfiguration, NotAuthorized
from cluster.trust import certificate, files, node, token
from cluster.trust.certificate import Name, Role
from cluster.trust.identity import Draft, Identity, read_identity
from cluster.trust.node import NodeEntry, Nodes
from cluster.trust.token import JoinToken, TokenEntry, Tokens

log = logging.getLogger("tandem.trust")

LOOK_SECONDS = 1.0
"""How old what a running coordinator knows of revoked machines may be."""

AUTHORITY_FILE = "authority.json"
COORDINATOR_FILE, LOCAL_FILE = "coordinator.json", "local.json"


class _Keeper(BaseModel):
    """The content of authority.json, in PEM."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    certificate: str


@dataclass(frozen=True, slots=True)
class Issued:
    """What a machine gets, in PEM."""

    node: str
    certificate: str
    authority: str


class Authority:
    """Issues certificates, and knows to whom it did. All methods read or write files; those that
    change one wait for others who do."""

    def __init__(self, folder: Path, keeper: _Keeper, wall: Callable[[], float]) -> None:
        """See `open`."""
        self.folder = folder
        self._key = certificate.load_key(keeper.key)
        self.certificate = certificate.load(keeper.certificate)
        self.cluster = certificate.cluster_of(self.certificate)
        self._wall = wall
        self._looked = 0.0
        self._seen: files.Stamp = None
        self._listed: tuple[NodeEntry, ...] = ()

    @classmethod
    def open(cls, folder: Path, wall: Callable[[], float] = time.time) -> Self:
        """The authority in `folder`; made at the first time. Raises BadConfiguration."""
        folder = folder.expanduser().absolute()
        path = folder / AUTHORITY_FILE
        with files.locked(folder):
            keeper = files.read(path, _Keeper, "authority file")
            if keeper is None:
                key = certificate.make_key()
                made = certificate.make_authority(secrets.token_hex(8), key, wall())
                keeper = _Keeper(key=certificate.key_pem(key), certificate=certificate.pem(made))
                files.replace(path, keeper, "authority file")
        return cls(folder, keeper, wall)

    # Join tokens

    def create_token(self, seconds: float, *, reusable: bool = False) -> JoinToken:
        """A token that is good for `seconds` from now. Raises BadConfiguration when there are too
        many."""
        now = self._wall()
        made = JoinToken.make(certificate.fingerprint(self.certificate))
        entry = TokenEntry(
            id=made.id,
            sha256=made.digest,
            created=int(now),
            expires=int(now + seconds),
            reusable=reusable,
        )
        with files.locked(self.folder):
            entries = token.keep(self.tokens(), now)
            if len(entries) >= token.MOST_TOKENS:
                raise BadConfiguration(
                    f"there are {len(entries)} join tokens: revoke some with `tandem token revoke`"
                )
            self._keep_tokens((*entries, entry))
        return made

    def tokens(self) -> tuple[TokenEntry, ...]:
        """Every token that is kept, ended ones among them."""
        found = files.read(self.folder / "tokens.json", Tokens, "file of join tokens")
        return found.tokens if found is not None else ()

    def revoke_token(self, token_id: str) -> None:
        """Forget a token. Raises BadConfiguration when there is none of that id."""
        with files.locked(self.folder):
            entries = self.tokens()
            left = tuple(entry for entry in entries if entry.id != token_id)
            if len(left) == len(entries):
                raise BadConfiguration(f"there is no join token {token_id}")
            self._keep_tokens(left)

    def _keep_tokens(self, entries: tuple[TokenEntry, ...]) -> None:
        path = self.folder / "tokens.json"
        files.replace(path, Tokens(tokens=entries), "file of join tokens")

    # Machines

    def enroll(self, text: str, request: bytes, hostname: str) -> Issued:
        """A certificate for a new machine that shows a join token. Its id is ours to choose; of
        what it asks for only the public key counts (`request`: DER). A token for one machine is
        used up by this, once, however many come at a time. Raises NotAuthorized."""
        now = self._wall()
        key = certificate.requested_key(request)
        try:
            shown = JoinToken.parse(text)
        except BadConfiguration as error:
            raise NotAuthorized("what was shown is no join token") from error
        with files.locked(self.folder):
            kept = token.keep(self.tokens(), now)
            entry = token.judge(kept, shown, now)
            if len(self._live(now)) >= node.MOST_NODES:
                raise NotAuthorized(f"the cluster has {node.MOST_NODES} machines already")
            used = entry.model_copy(update={"used": int(now)})
            self._keep_tokens(tuple(used if other is entry else other for other in kept))
            name = Name(self.cluster, Role.NODE, node.new_id(hostname))
            return self._issue(name, key, now)

    def renew(self, node_id: str, request: bytes) -> Issued:
        """Another certificate for a machine that has shown its present one (`request`: DER).
        Raises NotAuthorized."""
        now = self._wall()
        key = certificate.requested_key(request)
        with files.locked(self.folder):
            if trouble := node.trouble(self.nodes(), node_id):
                raise NotAuthorized(trouble)
            return self._issue(Name(self.cluster, Role.NODE, node_id), key, now)

    def nodes(self) -> tuple[NodeEntry, ...]:
        """Every machine whose certificate may be valid still, revoked ones among them."""
        found = files.read(self.folder / "nodes.json", Nodes, "file of machines")
        return found.nodes if found is not None else ()

    def revoke_node(self, node_id: str) -> None:
        """Refuse a machine from now on. Raises BadConfiguration when there is none of that id."""
        now = int(self._wall())
        with files.locked(self.folder):
            entries = self.nodes()
            if all(entry.id != node_id for entry in entries):
                raise BadConfiguration(
                    f"there is no machine {node_id} in this cluster; see `tandem node list`"
                )
            self._keep_nodes(
                tuple(
                    entry.model_copy(update={"revoked": now}) if entry.id == node_id else entry
                    for entry in entries
                )
            )

    def trouble(self, node_id: str) -> str:
        """Why a machine is to be refused; empty when it is not. Cheap enough for each call, and
        at most LOOK_SECONDS old."""
        return node.trouble(self._recent(), node_id)

    def is_revoked(self, node_id: str) -> bool:
        """True when the machine may no longer take part."""
        return bool(self.trouble(node_id))

    def revoked(self) -> frozenset[str]:
        """Ids of the machines that were revoked and whose certificate may be valid still. As
        cheap, and as old, as `trouble`."""
        return frozenset(entry.id for entry in self._recent() if entry.revoked is not None)

    def _recent(self) -> tuple[NodeEntry, ...]:
        now = self._wall()
        if not 0 <= now - self._looked < LOOK_SECONDS:
            self._look(now)
        return self._listed

    def _look(self, now: float) -> None:
        self._looked = now
        seen = files.stamp(self.folder / "nodes.json")
        if seen is not None and seen == self._seen:
            return
        self._seen = seen
        try:
            self._listed = self.nodes()
        except BadConfiguration as error:
            log.error("the list of machines stays as it was: %s", error)

    def _live(self, now: float) -> tuple[NodeEntry, ...]:
        return node.keep(self.nodes(), now)

    def _issue(self, name: Name, key: certificate.PublicKey, now: float) -> Issued:
        """Sign, and list the machine; within the lock."""
        leaf = certificate.issue(name, key, self.certificate, self._key, now)
        expires = int(certificate.expires(leaf))
        entries = {entry.id: entry for entry in self._live(now)}
        before = entries.get(name.id) or NodeEntry(id=name.id, joined=int(now), expires=expires)
        entries[name.id] = before.model_copy(update={"expires": expires})
        self._keep_nodes(tuple(entries.values()))
        return Issued(name.id, certificate.pem(leaf), certificate.pem(self.certificate))

    def _keep_nodes(self, entries: tuple[NodeEntry, ...]) -> None:
        files.replace(self.folder / "nodes.json", Nodes(nodes=entries), "file of machines")
        self._looked = 0.0  # a change of our own counts at once

    # This machine

    def renew_own(self) -> None:
        """See that the coordinator and the agent beside it have certificates of this authority
        with half of their life before them at least."""
        with files.locked(self.folder):
            self._own(COORDINATOR_FILE, Role.COORDINATOR)
            self._own(LOCAL_FILE, Role.NODE)

    def _own(self, file: str, role: Role) -> None:
        now = self._wall()
        path = self.folder / file
        kept = read_identity(path)
        authority = certificate.pem(self.certificate)
        usable = kept is not None and kept.authority == authority
        listed = (
            usable
            and kept is not None
            and (role is Role.COORDINATOR or not node.trouble(self.nodes(), kept.name.id))
        )
        if kept is not None and listed and now < kept.renew_at:
            return
        draft = Draft()
        key = certificate.requested_key(draft.request)
        known = kept.name.id if kept is not None and listed else node.new_id(socket.gethostname())
        name = Name(self.cluster, role, known)
        if role is Role.NODE:
            issued = self._issue(name, key, now).certificate
        else:
            issued = certificate.pem(certificate.issue(name, key, self.certificate, self._key, now))
        identity: Identity = draft.finish(issued, authority, coordinator="", token="")
        files.replace(path, identity, "identity file")
