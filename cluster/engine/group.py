"""The mlx.distributed group of an epoch; it lives exactly as long as its process."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import mlx.core as mx

from cluster.core.cluster import LaunchSpec
from cluster.core.errors import BadConfiguration, LaunchFailed

Group = mx.distributed.Group


def form_group(spec: LaunchSpec) -> Group | None:
    """Join the group of `spec.plan`; None for a world of one.

    Blocks, holding the GIL, until every rank has come: the agent owns the time-out, and may
    have to kill. Call it once per process: a second call would get the same group, even dead.
    Raises BadConfiguration when the plan makes no sense, and LaunchFailed when the backend is
    not in this build of MLX, can't reach the others, or forms a group of another size.
    """
    plan = spec.plan
    if plan.world == 1:
        return None
    if not 0 <= plan.rank < plan.world or len(spec.ring) != plan.world:
        raise BadConfiguration(
            f"rank {plan.rank} of {plan.world} with {len(spec.ring)} data-plane addresses"
        )
    try:
        with _environment(spec):
            group = mx.distributed.init(strict=True, backend=plan.backend)
    except (RuntimeError, ValueError) as error:
        raise LaunchFailed(f"rank {plan.rank} can't form the {plan.backend} group: {error}") from (
            error
        )
    if (group.rank(), group.size()) != (plan.rank, plan.world):
        raise LaunchFailed(
            f"the {plan.backend} group has rank {group.rank()} of {group.size()}, "
            f"the plan says {plan.rank} of {plan.world}"
        )
    return group


@contextmanager
def _environment(spec: LaunchSpec) -> Iterator[None]:
    """Set the variables that MLX reads in `init`, and remove the files they name after it."""
    files: list[str] = []
    os.environ["MLX_RANK"] = str(spec.plan.rank)
    try:
        match spec.plan.backend:
            case "ring":
                # Several addresses of one rank would be parallel links; we have one each.
                files.append(_json_file([[address] for address in spec.ring]))
                os.environ["MLX_HOSTFILE"] = files[0]
            case "jaccl":
                files.append(_jaccl(spec))
            case "nccl":
                _nccl(spec)
            case other:
                raise BadConfiguration(f"no backend {other!r} for a group of several ranks")
        yield
    finally:
        for name in files:
            with suppress(OSError):
                os.unlink(name)


def _jaccl(spec: LaunchSpec) -> str:
    """RDMA over Thunderbolt 5, a full mesh. Not run on hardware yet.

    MLX reads the N x N matrix of device names as JSON, with null on the diagonal; rank 0's
    address coordinates.
    """
    if len(spec.rdma) != spec.plan.world:
        raise BadConfiguration(f"jaccl with RDMA devices of {len(spec.rdma)} ranks")
    name = _json_file([[device or None for device in row] for row in spec.rdma])
    os.environ["MLX_IBV_DEVICES"] = name
    os.environ["MLX_JACCL_COORDINATOR"] = spec.ring[0]
    return name


def _nccl(spec: LaunchSpec) -> None:
    """CUDA: rank 0's data-plane address is where the ranks meet. Not run on hardware yet."""
    host, _, port = spec.ring[0].rpartition(":")
    os.environ["NCCL_HOST_IP"] = host
    os.environ["NCCL_PORT"] = port
    os.environ["MLX_WORLD_SIZE"] = str(spec.plan.world)


def _json_file(value: object) -> str:
    """Write `value` to a private temporary file; returns its path."""
    handle, name = tempfile.mkstemp(prefix="tandem-", suffix=".json")
    with os.fdopen(handle, "w") as file:
        json.dump(value, file)
    return name
