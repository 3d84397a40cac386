"""The one way to Temporal: where it is, and how it knows us, by the settings."""

from datetime import timedelta
from typing import Final

from temporalio.client import Client
from temporalio.service import TLSConfig

from services.kit.settings import ServiceSettings

_CONNECT_TIMEOUT: Final = timedelta(seconds=5)


async def connect(settings: ServiceSettings) -> Client:
    """A client, connected.

    Raises:
        RuntimeError: Temporal does not answer, within 5 s.
        RPCError: It refuses.
    """
    api_key = settings.temporal_api_key
    return await Client.connect(
        settings.temporal_address,
        namespace=settings.temporal_namespace,
        api_key=api_key.get_secret_value() if api_key else None,
        tls=_tls(settings),
        connect_timeout=_CONNECT_TIMEOUT,
    )


def _tls(settings: ServiceSettings) -> TLSConfig | bool:
    if not settings.temporal_tls:
        return False
    files = (settings.temporal_tls_ca_file, settings.temporal_tls_certificate_file, settings.temporal_tls_key_file)
    ca, certificate, key = (path.read_bytes() if path else None for path in files)
    return TLSConfig(server_root_ca_cert=ca, client_cert=certificate, client_private_key=key)
