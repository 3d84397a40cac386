"""Connections to webhooks: to public addresses alone, decided on the address that is connected to."""

import asyncio
import functools
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import httpcore

from services.kit.public_address import Address, is_public_address, is_this_machine

_ADDRESSES_TRIED_MAX: Final = 3
# Threads of their own: a name whose server never answers keeps one for longer than anybody waits for it.
_LOOKUPS: Final = ThreadPoolExecutor(128, thread_name_prefix="resolve")

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Gives the addresses of a host; raises OSError."""


class NotPublicError(httpcore.ConnectError):
    """The host is at an address that is not of the public internet."""


class PublicBackend(httpcore.AsyncNetworkBackend):
    """Resolves a name once, judges every address, and connects to one that it judged.

    So a second answer of the name's server cannot lead elsewhere. TLS still asks for the host by its name.

    Args:
        loopback: Whether this machine may be called, by its own name or address only.
        resolve: For tests.
    """

    def __init__(self, *, loopback: bool, resolve: Resolve | None = None) -> None:
        self._loopback = loopback
        self._resolve = resolve or _resolve
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the interface of httpcore
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connects to the first address that answers, of those that may be called.

        Raises:
            NotPublicError: One of the host's addresses is not public.
            httpcore.ConnectError: The host has no address, or none answers.
        """
        failure: Exception | None = None
        for address in (await self._judged(host, port))[:_ADDRESSES_TRIED_MAX]:
            try:
                return await self._inner.connect_tcp(str(address), port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        assert failure is not None, "there is at least one address"
        raise failure

    async def connect_unix_socket(self, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        """Never: webhooks are on other machines."""
        raise NotPublicError("a socket file is no webhook")

    async def sleep(self, seconds: float) -> None:
        """Rests."""
        await asyncio.sleep(seconds)

    async def _judged(self, host: str, port: int) -> list[Address]:
        try:
            found = [ipaddress.ip_address(text) for text in await self._resolve(host, port)]
        except (OSError, ValueError):
            raise httpcore.ConnectError("the host's name does not resolve") from None
        if not found:
            raise httpcore.ConnectError("the host's name has no address")
        if self._loopback and is_this_machine(host) and all(address.is_loopback for address in found):
            return found
        # One private address among public ones is refused too: which is tried first is for others to decide.
        if not all(is_public_address(address) for address in found):
            raise NotPublicError("the host is at an address that is not public")
        return found


async def _resolve(host: str, port: int) -> list[str]:
    lookup = functools.partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    found = await asyncio.get_running_loop().run_in_executor(_LOOKUPS, lookup)
    return [str(address[0]) for *_, address in found]
