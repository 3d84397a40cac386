"""Starts the gateway: the only place that wires its parts."""

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import FrameType
from typing import Final

import uvicorn

from services.gateway.events import events_router
from services.gateway.protocol import PatientProtocol
from services.gateway.service import create_app
from services.gateway.settings import GatewaySettings
from services.kit.channel import channel, is_loopback, service_channel
from services.kit.server import run
from services.kit.telemetry import configure_logging

_KEEP_ALIVE_S: Final = 30


@asynccontextmanager
async def serving(settings: GatewaySettings) -> AsyncIterator[uvicorn.Server]:
    """The gateway, wired, to be served.

    Raises:
        SystemExit: It would speak plain HTTP to other machines without being told to.
    """
    if not (settings.tls_certificate_file or settings.allow_plaintext or is_loopback(settings.bind)):
        raise SystemExit(
            f"refusing to serve {settings.bind} without TLS: set PURSE_TLS_CERTIFICATE_FILE and PURSE_TLS_KEY_FILE, "
            "or PURSE_ALLOW_PLAINTEXT=true behind a proxy that speaks TLS"
        )
    wallet = service_channel(settings, settings.wallet_address)
    # Callers' own tokens pass through it.
    metering = channel(
        settings.metering_address, None, ca_file=settings.tls_ca_file, allow_plaintext=settings.allow_plaintext
    )
    app = create_app(wallet, timeout_s=settings.wallet_timeout_s, requests_max=settings.requests_max)
    app.include_router(
        events_router(metering, timeout_s=settings.metering_timeout_s, requests_max=settings.event_requests_max)
    )
    host, _, port = settings.bind.rpartition(":")
    config = uvicorn.Config(
        app,
        host=host,
        port=int(port),
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        http=PatientProtocol,
        # Counts connections, silent ones too; requests have a limit of their own.
        limit_concurrency=settings.connections_max,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(settings.shutdown_grace_s),
        ssl_certfile=settings.tls_certificate_file,
        ssl_keyfile=settings.tls_key_file,
    )
    try:
        yield uvicorn.Server(config)
    finally:
        await wallet.close()
        await metering.close()


def _told(_number: int, _frame: FrameType | None) -> None:
    pass


async def main() -> None:
    """Serves until SIGTERM or SIGINT."""
    settings = GatewaySettings.load()
    configure_logging(settings.log_level, "gateway")
    # uvicorn stops on these in good order and then raises them again: a gateway told to stop has not failed.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _told)
    async with serving(settings) as server:
        await server.serve()


if __name__ == "__main__":
    run(main)
