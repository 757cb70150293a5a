"""Somebody on the switch, who hears all that machines say to each other over Ethernet."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.netns.network import Network, enter

EVERYTHING, IPV4, TCP, OUTGOING = 0x0003, 0x0800, 6, 4
"""A bridge takes what comes from those who wait for one protocol alone."""
SYN, ACK = 0x02, 0x10


class Flow(NamedTuple):
    """One direction of a TCP connection."""

    source: tuple[str, int]
    target: tuple[str, int]


@dataclass
class Said:
    """What came in one direction, by its place in it; what is said twice counts once."""

    first: int
    """Sequence number of the byte at place 0."""
    pieces: dict[int, bytes] = field(default_factory=dict)

    @property
    def whole(self) -> bytes:
        """As far as it was heard without a gap."""
        heard = bytearray()
        for place, piece in sorted(self.pieces.items()):
            if place <= len(heard):
                heard[place:] = piece
        return bytes(heard)


class Eavesdropper:
    """Keeps what those said who opened a connection, since `listening` was entered."""

    def __init__(self) -> None:
        self._flows: dict[Flow, Said] = {}
        self._lock = threading.Lock()
        self.over = threading.Event()

    def heard(self) -> dict[Flow, bytes]:
        """By connection, what its client has said so far."""
        with self._lock:
            return {flow: said.whole for flow, said in self._flows.items()}

    def listen(self, switch: str, ready: threading.Event) -> None:
        """Take every packet that enters the switch, in a thread of its own."""
        enter(switch)
        with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(EVERYTHING)) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
            sock.settimeout(0.2)
            ready.set()
            while not self.over.is_set():
                with suppress(TimeoutError):
                    packet, (_, protocol, kind, *_) = sock.recvfrom(1 << 17)
                    if protocol == IPV4 and kind != OUTGOING:
                        self._take(packet)

    def _take(self, packet: bytes) -> None:
        header, length, protocol = (packet[0] & 15) * 4, int.from_bytes(packet[2:4]), packet[9]
        if protocol != TCP:
            return
        ports = struct.unpack("!HH", packet[header : header + 4])
        number = int.from_bytes(packet[header + 4 : header + 8])
        data, flags = header + (packet[header + 12] >> 4) * 4, packet[header + 13]
        ends = (socket.inet_ntoa(packet[place : place + 4]) for place in (12, 16))
        flow = Flow(*zip(ends, ports, strict=True))
        with self._lock:
            if flags & SYN and not flags & ACK:
                self._flows[flow] = Said(number + 1)
            elif (said := self._flows.get(flow)) is not None and length > data:
                said.pieces.setdefault((number - said.first) % (1 << 32), packet[data:length])


@contextmanager
def listening(network: Network) -> Iterator[Eavesdropper]:
    """Hears the network until it is left."""
    somebody, ready = Eavesdropper(), threading.Event()
    thread = threading.Thread(target=somebody.listen, args=(network.switch, ready), daemon=True)
    thread.start()
    try:
        assert ready.wait(5), "nobody can listen here"
        yield somebody
    finally:
        somebody.over.set()
        thread.join(5)
