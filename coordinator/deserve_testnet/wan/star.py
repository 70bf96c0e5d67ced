"""The namespaces of one emulated internet: how they are named, made and removed, also after a crash.

Star k has the subnet 198.18.k.0/24 (RFC 2544, set apart for such tests), namespaces dsv{k}-0, dsv{k}-1, ... with the
addresses .1, .2, ..., and the device `dsv{k}` with .254 through which the machine itself looks in. That device exists
exactly as long as the emulator's process, so its name is the lock on k, and namespaces whose device is gone are the
remains of a crash.
"""

from __future__ import annotations

import errno
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from deserve_testnet.errors import Unavailable
from deserve_testnet.wan.tun import open_tun

__all__ = ["HOST_OCTET", "MAX_MEMBERS", "Star"]

HOST_OCTET = 254
MAX_MEMBERS = 200
_MAX_STARS = 32
_SOCKET_BUFFER_BYTES = 32 << 20
_LEAST_RTO = "1s"
_NAMESPACE = re.compile(r"dsv(\d+)-\d+")


@dataclass(frozen=True)
class Star:
    """`devices[i]` is the descriptor of member i's TUN device, the last one the machine's own."""

    number: int
    members: int
    devices: tuple[int, ...]

    def address(self, member: int) -> str:
        """IPv4 address of a member; index `members` is the machine itself."""
        return f"198.18.{self.number}.{HOST_OCTET if member == self.members else member + 1}"

    def namespace(self, member: int) -> str:
        return f"dsv{self.number}-{member}"

    @classmethod
    def create(cls, members: int, *, offload: bool) -> Self:
        """Namespaces and devices for `members` members, all up. Raises Unavailable."""
        remove_remains()
        number, own_device = _claim(offload)
        star = cls(number, members, ())
        try:
            devices = tuple(star._make_member(member, offload) for member in range(members))
            _run("ip", "addr", "add", f"{star.address(members)}/24", "dev", f"dsv{number}")
            _run("ip", "link", "set", f"dsv{number}", "txqueuelen", "4000", "up")
        except BaseException:
            star.remove()
            raise
        return cls(number, members, (*devices, own_device))

    def remove(self) -> None:
        for name in _namespaces():
            if name.startswith(f"dsv{self.number}-"):
                _delete(name)

    def _make_member(self, member: int, offload: bool) -> int:
        namespace, device = self.namespace(member), f"dsv{self.number}t{member}"
        descriptor = open_tun(device, offload=offload)
        _run("ip", "netns", "add", namespace)
        _run("ip", "link", "set", device, "netns", namespace)
        _run("ip", "-n", namespace, "link", "set", "lo", "up")
        _run("ip", "-n", namespace, "addr", "add", f"{self.address(member)}/24", "dev", device)
        _run("ip", "-n", namespace, "link", "set", device, "txqueuelen", "4000", "up")
        # TCP takes what is acknowledged 0.2 s later than usual for lost, and waits for a round trip. Where the line is
        # as steady as this one, only a busy machine is so late.
        route = ("route", "replace", f"198.18.{self.number}.0/24", "dev", device, "src", self.address(member))
        _run("ip", "-n", namespace, *route, "rto_min", _LEAST_RTO)
        # The kernel's default send buffer holds less than one bandwidth-delay product of a fast long path.
        for name, initial in (("tcp_wmem", 65536), ("tcp_rmem", 131072)):
            setting = f"net.ipv4.{name}=4096 {initial} {_SOCKET_BUFFER_BYTES}"
            _run("ip", "netns", "exec", namespace, "sysctl", "-qw", setting)
        return descriptor


def remove_remains() -> None:
    """Delete namespaces of emulators that died without cleaning up."""
    for name in _namespaces():
        match = _NAMESPACE.fullmatch(name)
        if match and not Path(f"/sys/class/net/dsv{match[1]}").exists():
            _delete(name)


def _claim(offload: bool) -> tuple[int, int]:
    for number in range(_MAX_STARS):
        try:
            return number, open_tun(f"dsv{number}", offload=offload)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise Unavailable(f"--wan netns: cannot open a TUN device: {os.strerror(error.errno or 0)}") from error
    raise Unavailable(f"--wan netns: {_MAX_STARS} emulated networks are running on this machine already")


def _namespaces() -> list[str]:
    folder = Path("/run/netns")
    return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []


def _delete(namespace: str) -> None:
    subprocess.run(["ip", "netns", "del", namespace], check=False, stderr=subprocess.DEVNULL)


def _run(*command: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        raise Unavailable(f"--wan netns: `{' '.join(command)}` failed: {error.stderr.strip()}") from error
