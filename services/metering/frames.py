"""What the service and its recording processes say to each other over a pair of sockets."""

import asyncio
import json
import struct
from dataclasses import asdict
from enum import IntEnum
from typing import Final, NamedTuple

from services.kit.auth import Identity

BODY_BYTES_MAX: Final = 16 * 1024 * 1024
"""The longest body: the largest message that a service takes, and then some."""
_HEAD: Final = struct.Struct(">IIB")
_WHO: Final = struct.Struct(">I")


class Kind(IntEnum):
    """What a frame is."""

    RECORD = 0
    """Asks to record a batch: who sends it, and a `BatchRecordUsageRequest`, as `pack` puts them."""
    METRICS = 1
    """Asks for the process's metrics, or is they."""
    RECORDED = 2
    """A `BatchRecordUsageResponse`."""
    REFUSED = 3
    """A `google.rpc.Status`: the whole batch is refused."""


class Frame(NamedTuple):
    """One message.

    Attributes:
        number: Of the question; its answer bears the same.
        kind: What it is.
        body: As its kind says.
    """

    number: int
    kind: Kind
    body: bytes


def pack(who: Identity, request: bytes) -> bytes:
    """The body of a question to record."""
    told = json.dumps(asdict(who) | {"roles": sorted(who.roles)}).encode()
    return _WHO.pack(len(told)) + told + request


def unpack(body: bytes) -> tuple[Identity, bytes]:
    """The inverse of `pack`."""
    (length,) = _WHO.unpack_from(body)
    end = _WHO.size + length
    fields = json.loads(body[_WHO.size : end])
    return Identity(**fields | {"roles": frozenset(fields["roles"])}), body[end:]


async def read(reader: asyncio.StreamReader) -> Frame | None:
    """The next frame; None when the other side has gone."""
    try:
        length, number, kind = _HEAD.unpack(await reader.readexactly(_HEAD.size))
        return Frame(number, Kind(kind), await reader.readexactly(length))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


async def write(writer: asyncio.StreamWriter, frame: Frame) -> None:
    """Sends a frame, and waits while the other side is behind.

    Raises:
        ConnectionError: The other side has gone.
    """
    if len(frame.body) > BODY_BYTES_MAX:
        raise ValueError(f"a frame has {len(frame.body)} bytes; the limit is {BODY_BYTES_MAX}")
    # uvloop would say it by a RuntimeError.
    if writer.is_closing():
        raise ConnectionResetError("the other side has gone")
    # In one piece: several callers write to one socket.
    writer.write(_HEAD.pack(len(frame.body), frame.number, frame.kind) + frame.body)
    await writer.drain()
