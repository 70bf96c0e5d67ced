"""The emulator's process: moves packets between the TUN devices of a star as `paths` decides.

`python -m deserve_testnet.wan.emulator '{"members": 5, "latency_ms": 50, ...}'` prints one JSON line when the star is
up and runs until SIGTERM or SIGINT, then removes the namespaces. It forwards IPv4 within the subnet and nothing else.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import sys
import time
from types import FrameType

from deserve_testnet.errors import TestnetError
from deserve_testnet.wan.paths import Access, PathDelay, Paths, PathShape
from deserve_testnet.wan.star import HOST_OCTET, Star
from deserve_testnet.wan.tun import OFFLOAD_HEADER_BYTES

__all__ = ["main"]

_READ_BYTES = 65_600 + OFFLOAD_HEADER_BYTES
_READS_PER_WAKE = 64
_IDLE_S = 0.5


def main(arguments: str) -> int:
    options = json.loads(arguments)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    access = {int(member): Access(**own) for member, own in options["access"].items()}
    delays = {(source, target): PathDelay(**own) for source, target, own in options["delays"]}
    # Super-packets would wait for each other on a narrow uplink, so offloading is for the unlimited case.
    offload = not options["mbit"] and not any(own.uplink_mbit or own.downlink_mbit for own in access.values())
    shape = PathShape(
        latency_s=options["latency_ms"] / 1e3,
        jitter_s=options["jitter_ms"] / 1e3,
        mbit=options["mbit"],
        seed=options["seed"],
    )
    try:
        star = Star.create(options["members"], offload=offload)
    except TestnetError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return error.exit_code
    try:
        ready = {
            "namespaces": [star.namespace(member) for member in range(star.members)],
            "addresses": [star.address(member) for member in range(star.members)],
        }
        print(json.dumps(ready), flush=True)
        paths = Paths(star.members + 1, shape, near={star.members}, access=access, delays=delays)
        _forward(star, paths, OFFLOAD_HEADER_BYTES if offload else 0)
    finally:
        star.remove()
    return 0


def _stop(number: int, frame: FrameType | None) -> None:
    raise SystemExit(0)


def _forward(star: Star, paths: Paths, header: int) -> None:
    gc.disable()  # a collection's pause would be seen as jitter; nothing here makes cycles
    members = {descriptor: member for member, descriptor in enumerate(star.devices)}
    subnet = bytes(int(part) for part in star.address(0).split(".")[:3])
    poller = select.epoll()
    for descriptor in star.devices:
        poller.register(descriptor, select.EPOLLIN)
    while True:
        arrived, upcoming = paths.arrivals(time.monotonic())
        for target, packet in arrived:
            # A full device queue drops the packet, as a router would.
            with contextlib.suppress(OSError):
                os.write(star.devices[target], packet)
        wait = _IDLE_S if upcoming is None else min(_IDLE_S, upcoming - time.monotonic())
        if wait > 0:
            # epoll's own timeout counts in milliseconds; select on its descriptor in microseconds.
            select.select([poller], [], [], wait)
        for descriptor, _ in poller.poll(0):
            _read(descriptor, members[descriptor], paths, subnet, header)


def _read(descriptor: int, source: int, paths: Paths, subnet: bytes, header: int) -> None:
    machine = paths.members - 1
    for _ in range(_READS_PER_WAKE):
        try:
            packet = os.read(descriptor, _READ_BYTES)
        except BlockingIOError:
            return
        if packet[header] >> 4 != 4 or packet[header + 16 : header + 19] != subnet:
            continue
        octet = packet[header + 19]
        target = machine if octet == HOST_OCTET else octet - 1
        if 0 <= target <= machine and (target < machine or octet == HOST_OCTET):
            paths.send(source, target, packet, len(packet) - header, time.monotonic())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
