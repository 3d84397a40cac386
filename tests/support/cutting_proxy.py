"""A TCP proxy in front of PostgreSQL that cuts a connection at a chosen step of a transaction."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit, urlunsplit

_COMMIT = b"COMMIT;"
_BEGIN = b"BEGIN;"
_PREPARED = re.compile(rb"(__asyncpg_\w+__)\x00([^\x00]*)")


@dataclass
class CuttingProxy:
    """Forwards bytes both ways until it is told to cut.

    Attributes:
        dsn: The database's address through the proxy.
        cut_before_statement: Cut instead of forwarding the n-th message after BEGIN; 0 is BEGIN itself.
        cut_before_commit: Cut instead of forwarding COMMIT.
        cut_after_commit: Forward COMMIT, and cut instead of passing its answer on.
        only_with: Only transactions in which a statement with this text is executed; empty: all.
        on_cut: Called when it cuts, before anything else happens.
        cuts: How often it has cut.
    """

    dsn: str
    cut_before_statement: int | None = None
    cut_before_commit: bool = False
    cut_after_commit: bool = False
    only_with: bytes = b""
    on_cut: Callable[[], object] | None = None
    cuts: int = 0
    _serving: set[asyncio.Task[None]] = field(default_factory=set)

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, port: int) -> None:
        """Takes a connection."""
        task = asyncio.create_task(self._serve(reader, writer, host, port))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def close(self) -> None:
        """Ends every connection, and returns once its sockets are closed."""
        serving = list(self._serving)
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, port: int) -> None:
        up_reader, up_writer = await asyncio.open_connection(host, port)
        hold = asyncio.Event()
        down = asyncio.create_task(self._down(up_reader, writer, hold))
        try:
            await self._up(reader, up_writer, up_reader, hold, down)
        except (OSError, EOFError):
            pass
        finally:
            down.cancel()
            await asyncio.gather(down, return_exceptions=True)
            for one in (writer, up_writer):
                one.close()
            for one in (writer, up_writer):
                with contextlib.suppress(OSError):
                    await one.wait_closed()

    async def _up(
        self,
        reader: asyncio.StreamReader,
        up_writer: asyncio.StreamWriter,
        up_reader: asyncio.StreamReader,
        hold: asyncio.Event,
        down: asyncio.Task[None],
    ) -> None:
        since_begin: int | None = None
        wanted = not self.only_with
        prepared: dict[bytes, bytes] = {}
        while chunk := await reader.read(1 << 20):
            if _BEGIN in chunk:
                since_begin, wanted = 0, not self.only_with
            elif since_begin is not None:
                since_begin += 1
            if self.cut_before_statement is not None and since_begin == self.cut_before_statement:
                self.cut_before_statement = None
                self._cut()
                return
            for name, text in _PREPARED.findall(chunk):
                # Parse comes first, and nothing after it says the text again.
                prepared.setdefault(name, text)
            wanted = wanted or any(self.only_with in text for name, text in prepared.items() if name in chunk)
            if _COMMIT in chunk and wanted and self.cut_before_commit:
                self.cut_before_commit = False
                self._cut()
                return
            if _COMMIT in chunk and wanted and self.cut_after_commit:
                self.cut_after_commit = False
                hold.set()
                # From here on the answers are read here.
                await down
                up_writer.write(chunk)
                await up_writer.drain()
                await self._committed(up_reader)
                self._cut()
                return
            up_writer.write(chunk)
            await up_writer.drain()

    def _cut(self) -> None:
        self.cuts += 1
        if self.on_cut is not None:
            self.on_cut()

    async def _committed(self, up_reader: asyncio.StreamReader) -> None:
        answer = b""
        while b"COMMIT" not in answer:
            answer += await up_reader.read(1 << 16)

    async def _down(self, up_reader: asyncio.StreamReader, writer: asyncio.StreamWriter, hold: asyncio.Event) -> None:
        holding = asyncio.create_task(hold.wait())
        try:
            while True:
                reading = asyncio.create_task(up_reader.read(1 << 20))
                await asyncio.wait({reading, holding}, return_when=asyncio.FIRST_COMPLETED)
                if hold.is_set():
                    reading.cancel()
                    await asyncio.gather(reading, return_exceptions=True)
                    return
                chunk = reading.result()
                if not chunk:
                    writer.close()
                    return
                writer.write(chunk)
                await writer.drain()
        finally:
            holding.cancel()


@contextlib.asynccontextmanager
async def cutting_proxy(dsn: str) -> AsyncIterator[CuttingProxy]:
    """A proxy to the database of this address."""
    parts = urlsplit(dsn)
    host, port = parts.hostname or "127.0.0.1", parts.port or 5432
    proxy = CuttingProxy("")
    server = await asyncio.start_server(lambda r, w: proxy.accept(r, w, host, port), "127.0.0.1", 0)
    proxy.dsn = urlunsplit(
        parts._replace(netloc=f"{parts.netloc.rsplit('@', 1)[0]}@127.0.0.1:{server.sockets[0].getsockname()[1]}")
    )
    try:
        yield proxy
    finally:
        server.close()
        await server.wait_closed()
        await proxy.close()
        await server.wait_closed()
