"""Probes of links <-> their messages."""

from __future__ import annotations

from cluster.core.link import Door, Listening, ProbeOrder, ProbeResult
from cluster.wire.v1 import node_pb2


def listening_to_wire(listening: Listening) -> node_pb2.Listening:
    """An agent's listeners, as a message."""
    doors = [node_pb2.Door(host=d.host, port=d.port, error=d.error) for d in listening.doors]
    return node_pb2.Listening(doors=doors, token=listening.token)


def listening_from_wire(message: node_pb2.Listening) -> Listening:
    """An agent's listeners."""
    doors = tuple(Door(d.host, d.port, d.error) for d in message.doors)
    return Listening(doors, message.token)


def probe_to_wire(order: ProbeOrder) -> node_pb2.ProbeRequest:
    """What an agent is to measure, as a message."""
    return node_pb2.ProbeRequest(
        host=order.host,
        port=order.port,
        token=order.token,
        source=order.source,
        messages=order.messages,
        seconds=order.seconds,
    )


def probe_from_wire(message: node_pb2.ProbeRequest) -> ProbeOrder:
    """What an agent is to measure."""
    return ProbeOrder(
        host=message.host,
        port=message.port,
        token=message.token,
        source=message.source,
        messages=message.messages,
        seconds=message.seconds,
    )


def probed_to_wire(result: ProbeResult) -> node_pb2.ProbeReply:
    """What an agent found, as a message."""
    return node_pb2.ProbeReply(
        error=result.error,
        source=result.source,
        round_trip=result.round_trip,
        bytes_per_second=result.bytes_per_second,
    )


def probed_from_wire(message: node_pb2.ProbeReply) -> ProbeResult:
    """What an agent found."""
    return ProbeResult(
        error=message.error,
        source=message.source,
        round_trip=message.round_trip,
        bytes_per_second=message.bytes_per_second,
    )
