"""What goes between the service and its recording processes comes out as it went in."""

import asyncio
import socket

import pytest

from services.kit.auth import Identity
from services.metering import frames
from services.metering.frames import BODY_BYTES_MAX, Frame, Kind

WHO = Identity("orgs/acmé", frozenset({"agent", "operator"}), "t1", 1_800_000_000, "ann")


def test_who_asks_comes_with_the_request() -> None:
    assert frames.unpack(frames.pack(WHO, b"\x00request")) == (WHO, b"\x00request")


async def test_frames_come_whole_and_in_order_until_the_other_side_goes() -> None:
    ours, theirs = socket.socketpair()
    reader, other = await asyncio.open_connection(sock=theirs)
    _, writer = await asyncio.open_connection(sock=ours)
    sent = [Frame(0, Kind.RECORD, b""), Frame(2**32 - 1, Kind.REFUSED, bytes(100_000)), Frame(1, Kind.METRICS, b"x")]
    for frame in sent:
        await frames.write(writer, frame)
    with pytest.raises(ValueError, match="the limit is"):
        await frames.write(writer, Frame(3, Kind.RECORD, bytes(BODY_BYTES_MAX + 1)))
    writer.close()

    assert [await frames.read(reader) for _ in range(4)] == [*sent, None]
    other.close()
