"""POSTs to webhooks, signed as Standard Webhooks has it."""

import asyncio
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Final, Self

import httpcore
from standardwebhooks.webhooks import Webhook

from workflows.notify.connecting import NotPublicError, PublicBackend, Resolve
from workflows.notify.retry_after import wait_s

BODY_BYTES_MAX: Final = 1024
"""How much of an answer is read; the connection is closed then."""
_CONNECTIONS_MAX: Final = 200
_IDLE_S: Final = 30.0
_GONE: Final = 410
_RETRY_AFTER: Final = b"retry-after"
_USER_AGENT: Final = b"pursestrings"


@dataclass(frozen=True, slots=True)
class Posted:
    """What became of a POST.

    Attributes:
        is_taken: The receiver answered 2xx.
        is_gone: It answered 410: it wants nothing any more.
        error: What went wrong, in words of ours; nothing that the receiver wrote.
        retry_after_s: How long it asks to be left alone, in seconds; 0: it does not say.
    """

    is_taken: bool = False
    is_gone: bool = False
    error: str = ""
    retry_after_s: int = 0


class Poster:
    """Sends to webhooks over connections that are kept for a while.

    Args:
        timeout_s: How long a POST may take, from resolving the name to the end of the answer, in seconds.
        loopback: Whether this machine may be called.
        resolve: For tests.
        ssl_context: For tests; without, the system's roots.
    """

    def __init__(
        self,
        *,
        timeout_s: float,
        loopback: bool,
        resolve: Resolve | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self.timeout_s = timeout_s
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=ssl_context or ssl.create_default_context(),
            max_connections=_CONNECTIONS_MAX,
            max_keepalive_connections=_CONNECTIONS_MAX,
            keepalive_expiry=_IDLE_S,
            network_backend=PublicBackend(loopback=loopback, resolve=resolve),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._pool.aclose()

    async def post(self, url: str, secrets: Sequence[str], message_id: str, body: str) -> Posted:
        """Sends a message. Only 2xx within the time is success; no redirect is followed."""
        headers = [
            (b"content-type", b"application/json"),
            (b"user-agent", _USER_AGENT),
            *signed(secrets, message_id, datetime.now(UTC), body),
        ]
        try:
            async with asyncio.timeout(self.timeout_s):
                status, asked = await self._status(url, headers, body.encode())
        except TimeoutError:
            return Posted(error=f"no answer within {self.timeout_s:g} s")
        except NotPublicError as error:
            return Posted(error=str(error))
        except (httpcore.ConnectError, OSError) as error:
            return Posted(error=f"no connection: {_words(error)}")
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, ValueError) as error:
            return Posted(error=f"the connection broke: {_words(error)}")
        return _judged(status, wait_s(status, asked, datetime.now(UTC)))

    async def _status(self, url: str, headers: list[tuple[bytes, bytes]], body: bytes) -> tuple[int, bytes]:
        async with self._pool.stream("POST", url.encode("ascii"), headers=headers, content=body) as response:
            size = 0
            async for part in response.aiter_stream():
                size += len(part)
                if size >= BODY_BYTES_MAX:
                    break
            asked = next((value for name, value in response.headers if name.lower() == _RETRY_AFTER), b"")
            return response.status, asked


def signed(secrets: Sequence[str], message_id: str, now: datetime, body: str) -> list[tuple[bytes, bytes]]:
    """The headers of Standard Webhooks: one signature a secret."""
    signatures = " ".join(Webhook(secret).sign(message_id, now, body) for secret in secrets)
    return [
        (b"webhook-id", message_id.encode()),
        (b"webhook-timestamp", str(int(now.timestamp())).encode()),
        (b"webhook-signature", signatures.encode()),
    ]


def _judged(status: int, retry_after_s: int) -> Posted:
    if status // 100 == 2:
        return Posted(is_taken=True)
    if status == _GONE:
        return Posted(is_gone=True, error="it answered 410: it wants nothing any more")
    if status // 100 == 3:
        return Posted(error=f"it answered {status}; redirects are not followed")
    if retry_after_s:
        return Posted(error=f"it answered {status} and asks to wait {retry_after_s} s", retry_after_s=retry_after_s)
    return Posted(error=f"it answered {status}")


def _words(error: Exception) -> str:
    """The error without what a receiver may have written into it."""
    kind = type(error).__name__
    return f"{kind} ({error.strerror})" if isinstance(error, OSError) and error.strerror else kind
