"""HTTP/1.1 as uvicorn speaks it, with a time limit on a request's head: a silent connection holds nothing for long."""

import asyncio
from typing import Final

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_TIMEOUT_S: Final = 10.0
"""How long a client may take from connecting, or from the first byte of a further request, to the end of the head."""


class PatientProtocol(H11Protocol):
    """Closes a connection whose next request has not come in whole, up to its body, in time.

    The time between two requests is uvicorn's keep-alive limit; the body's is the application's.
    """

    head_timeout_s: float = HEAD_TIMEOUT_S
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begins to wait for the first request."""
        super().connection_made(transport)
        self._late = self.loop.call_later(self.head_timeout_s, transport.close)

    def data_received(self, data: bytes) -> None:
        """Takes bytes; while they make no whole head the time runs, from the first of them."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop()
        elif self._late is None:
            self._late = self.loop.call_later(self.head_timeout_s, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the time."""
        self._stop()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """A head that was waiting behind this one may be under way now; no old time runs on."""
        self._stop()
        super().on_response_complete()

    def _stop(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
