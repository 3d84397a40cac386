"""Command line and wiring of the Stripe twin."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from embedded.stripe_twin import admin, web
from embedded.stripe_twin.app import Twin, create_app
from embedded.stripe_twin.clock import Clock
from embedded.stripe_twin.store import Endpoint, StateError, Store
from embedded.stripe_twin.timers import Timers
from embedded.stripe_twin.webhooks import Courier, http_client

# The endpoint of the command line keeps its id over restarts, so what it is still owed follows it.
COMMAND_LINE_ENDPOINT = "we_commandline"
SECRET_VARIABLE = "PURSE_STRIPE_WEBHOOK_SECRET"  # noqa: S105 - the variable's name
LEVEL_VARIABLE = "PURSE_LOG_LEVEL"
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
MAX_CONCURRENT_REQUESTS = 1_000
SHUTDOWN_S = 3


class TwinProtocol(H11Protocol):
    """uvicorn's protocol, made known to the application so that a fault can hang up without an answer."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, {**app_state, "connection": self}, _loop)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked; exits with 2 and a message when it is wrong."""
    parser = argparse.ArgumentParser(prog="python -m embedded.stripe_twin", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=int, default=7408, help="port to listen on; 0 takes a free one (default 7408)")
    parser.add_argument("--data", type=Path, required=True, help="folder for the state, made when missing")
    parser.add_argument("--webhook-url", help="where to send events")
    parser.add_argument(
        "--webhook-secret",
        default=os.environ.get(SECRET_VARIABLE),
        help=f"what to sign events with, whsec_…; default: ${SECRET_VARIABLE}",
    )
    given = parser.parse_args(argv)
    if given.webhook_url:
        if not (given.webhook_secret or "").startswith("whsec_"):
            parser.error(f"--webhook-url needs --webhook-secret (or ${SECRET_VARIABLE}), starting with whsec_")
        try:
            admin.check_url(given.webhook_url)
        except ValueError as error:
            parser.error(f"--webhook-url: {error}")
    if not 0 <= given.port <= 65535:
        parser.error("--port must be from 0 to 65535")
    return given


async def serve(given: argparse.Namespace) -> None:
    """Serve until SIGINT or SIGTERM. Says `listening on URL` on standard output when it does."""
    listener = listen(given.host, given.port)
    store = Store(given.data)
    clock = Clock(store.clock_offset_s())
    client = http_client()
    courier = Courier(store, clock, client, Timers(store, clock).fire)
    if given.webhook_url:
        with store.transaction():
            store.put_endpoint(Endpoint(COMMAND_LINE_ENDPOINT, given.webhook_url, given.webhook_secret))
    twin = Twin(store, clock, courier.wake)

    @asynccontextmanager
    async def background() -> AsyncIterator[None]:
        async with client, courier.running():
            yield

    config = uvicorn.Config(
        create_app(twin, [*admin.routes(twin), *web.routes(twin)], background),
        http=TwinProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        limit_concurrency=MAX_CONCURRENT_REQUESTS,
        timeout_graceful_shutdown=SHUTDOWN_S,
    )
    host, port = listener.getsockname()[:2]
    sys.stdout.write(f"stripe twin listening on http://{host}:{port}\n")
    sys.stdout.flush()
    try:
        await uvicorn.Server(config).serve(sockets=[listener])
    finally:
        store.close()


def listen(host: str, port: int) -> socket.socket:
    """A bound socket; raises OSError when the port is taken."""
    # Named as TCP, or asyncio leaves Nagle's algorithm on and every answer takes 40 ms.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    listener.listen(1024)
    return listener


def _stopped(_number: int, _frame: FrameType | None) -> None:
    pass


def main(argv: Sequence[str] | None = None) -> int:
    """Run the twin; the exit code is 1 when it could not start."""
    level = os.environ.get(LEVEL_VARIABLE, "warning").upper()
    logging.basicConfig(
        level=level if level in LEVELS else "WARNING", format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    # httpx reports every request it sends at this level and below.
    logging.getLogger("httpx").setLevel(logging.ERROR)
    given = arguments(argv)
    # uvicorn stops on these and then raises them again: a twin told to stop has not failed.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stopped)
    try:
        asyncio.run(serve(given))
    except StateError as error:
        sys.stderr.write(f"stripe twin: {error}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"stripe twin: cannot listen on {given.host}:{given.port}: {error}\n")
        return 1
    return 0
