"""Refuses what leaves this machine; tests, and imports above all, need no network.

Python's own sockets are watched; what a library in C++ opens is not seen.
"""

import ipaddress
import socket
import sys
from typing import Any

# What an audit hook hears of addresses that somebody wants to reach, and where the address is.
PLACES = {
    "socket.connect": 1,
    "socket.sendto": 1,
    "socket.sendmsg": 1,
    "socket.getaddrinfo": 0,
    "socket.gethostbyname": 0,
}


def stay_offline() -> None:
    """From now on, to the end of the process, only this machine can be reached."""
    sys.addaudithook(_refuse)


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event not in PLACES:
        return
    host = arguments[PLACES[event]]
    if PLACES[event]:
        if arguments[0].family not in (socket.AF_INET, socket.AF_INET6) or host is None:
            return
        host = host[0]
    if not _is_here(host):
        # No OSError, for which a program has a mirror or a line.
        raise AssertionError(f"{event}: {host!r} is not on this machine; tests run offline")


def _is_here(host: str | bytes | None) -> bool:
    name = host.decode() if isinstance(host, bytes) else host
    if name in (None, "", "localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
