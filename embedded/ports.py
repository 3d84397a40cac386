"""TCP ports of the loopback address: which are free, and who holds one that is not."""

import contextlib
import socket
from collections.abc import Iterable
from pathlib import Path

from embedded import process

LOOPBACK = "127.0.0.1"
_LISTEN = "0A"  # the state's code in /proc/net/tcp


class PortTakenError(Exception):
    """A port that a child should bind is held by another process; the text says which and what to do."""


def free_ports(count: int) -> list[int]:
    """`count` different ports that nobody holds now; another process may take one before it is used."""
    with contextlib.ExitStack() as stack:
        # All open at once, else the kernel may hand the same one out twice.
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind((LOOPBACK, 0))
        return [sock.getsockname()[1] for sock in sockets]


def is_free(port: int) -> bool:
    """Whether `port` of the loopback address can be bound now."""
    with socket.socket() as sock:
        # As servers do: a connection in TIME_WAIT does not hold a port.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def require_free(wanted: Iterable[tuple[str, int]]) -> None:
    """Check (purpose, port) pairs; raises PortTakenError that lists every taken port with its holder."""
    taken = []
    for purpose, port in wanted:
        if not is_free(port):
            pid = holder(port)
            who = process.describe(pid) if pid is not None else "a process of another user"
            taken.append(f"port {port} for {purpose} is held by {who}")
    if taken:
        raise PortTakenError(
            "; ".join(taken) + ". End that process, or choose free ports (--free-ports, free_ports=True)."
        )


def holder(port: int) -> int | None:
    """The pid that listens on `port`, or None where nobody does or this user may not see who."""
    inodes = _listening_inodes(port)
    for entry in Path("/proc").iterdir():
        if not inodes or not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            for descriptor in (entry / "fd").iterdir():
                with contextlib.suppress(OSError):
                    if str(descriptor.readlink()) in inodes:
                        return int(entry.name)
    return None


def _listening_inodes(port: int) -> set[str]:
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                    found.add(f"socket:[{fields[9]}]")
    return found
