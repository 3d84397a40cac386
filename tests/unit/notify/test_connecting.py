"""How hosts of webhooks are resolved."""

import asyncio
import socket
import threading
from typing import Any

import httpcore
import pytest

from workflows.notify.connecting import NotPublicError, PublicBackend


async def test_names_whose_servers_never_answer_keep_no_other_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def look_up(host: str, *_: Any, **__: Any) -> list[Any]:
        if host.startswith("slow"):
            release.wait(30)
            raise OSError("no answer")
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("10.0.0.1", 443))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    backend = PublicBackend(loopback=False)
    slow = [asyncio.create_task(backend.connect_tcp(f"slow{n}.example.com", 443)) for n in range(50)]
    try:
        await asyncio.sleep(0)
        async with asyncio.timeout(10):
            with pytest.raises(NotPublicError):
                await backend.connect_tcp("hooks.example.com", 443)
    finally:
        release.set()
    assert {type(one) for one in await asyncio.gather(*slow, return_exceptions=True)} == {httpcore.ConnectError}
