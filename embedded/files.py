"""Files of a data directory: private, written whole or not at all, and a lock against a second user."""

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

PRIVATE_FILE = 0o600
PRIVATE_DIRECTORY = 0o700


class DataDirectoryBusyError(Exception):
    """Another process uses this data directory; the text names it."""


def write_private(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Replace a file atomically, readable by its owner alone from its first byte on.

    `durable` also waits for the disk, for what cannot be made again.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def make_private_directory(path: Path) -> None:
    """Create a directory that its owner alone can enter, and its parents; leave an existing one as it is."""
    if not path.is_dir():
        path.mkdir(mode=PRIVATE_DIRECTORY, parents=True, exist_ok=True)


def generated_secret(path: Path, *, prefix: str = "") -> str:
    """The secret kept in `path`; on first use 256 random bits in URL-safe letters, after `prefix`."""
    with contextlib.suppress(FileNotFoundError):
        return path.read_text().strip()
    secret = prefix + secrets.token_urlsafe(32)
    write_private(path, secret.encode() + b"\n")
    return secret


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock file `path`; raises DataDirectoryBusyError when another process holds it.

    The kernel lets go of the lock when its holder dies, so a lock file on disk alone never blocks a start.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, PRIVATE_FILE)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            raise DataDirectoryBusyError(
                f"{path.parent} is in use by another process, pid {pid}. "
                "Stop that one, or choose another data directory."
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)
