"""What the options of `tandem serve` about access mean together."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.core.errors import BadConfiguration

if TYPE_CHECKING:
    from api.access import AccessPolicy


class CacheScope(StrEnum):
    """The choices of --cache-scope."""

    KEY = "key"
    SHARED = "shared"


def access_policy(
    host: str,
    *,
    key_file: Path | None,
    require_key: bool,
    allow_hosts: Sequence[str],
    origins: Sequence[str],
    cache_scope: CacheScope,
) -> AccessPolicy:
    """Who may use a server that listens at `host`.

    Keys are needed beyond loopback, and where they are asked for. Raises BadConfiguration when
    they are needed and there is none, or the key file or an origin is of no use.
    """
    # Imported here so that `tandem serve --help` answers at once.
    from api.access import AccessPolicy, check_origins, own_names
    from api.keys import KeyRing, key_path
    from cluster.core.clock import SystemClock
    from cluster.wire.security import is_loopback, is_wildcard

    keys = None
    if require_key or not is_loopback(host):
        keys = KeyRing(key_path(key_file), SystemClock())
        if not len(keys):
            who = "clients" if require_key else f"{host} is not loopback, so clients"
            raise BadConfiguration(
                f"{who} need an API key, and there is none in {keys.path}: make one with "
                "`tandem key add NAME`"
            )
    names = allow_hosts if is_wildcard(host) else [*allow_hosts, host]
    return AccessPolicy(
        keys=keys,
        hosts=own_names(*names),
        origins=check_origins(origins, keys=keys is not None),
        shared_cache=cache_scope is CacheScope.SHARED,
    )
