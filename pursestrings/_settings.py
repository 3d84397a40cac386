"""Where the services are and what opens them, from arguments and the environment."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

DEFAULT_METERING: Final = "127.0.0.1:7401"
DEFAULT_BUDGET: Final = "127.0.0.1:7402"
DEFAULT_WALLET: Final = "127.0.0.1:7403"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a client is told about the suite.

    Attributes:
        budget: Address of the budget service, `host:port`; `dns:///name:port` balances over all replicas.
        metering: Address of the metering service.
        wallet: Address of the wallet service.
        token: The credential itself.
        token_file: A file that holds it; read again when it changes. Ignored where `token` is given.
        ca_file: PEM roots to verify the services with; with it the channels use TLS.
        allow_plaintext: Speak without TLS to other machines too, for networks that encrypt by themselves.
    """

    budget: str = DEFAULT_BUDGET
    metering: str = DEFAULT_METERING
    wallet: str = DEFAULT_WALLET
    token: str | None = None
    token_file: Path | None = None
    ca_file: Path | None = None
    allow_plaintext: bool = False


def from_environment(
    environment: Mapping[str, str] | None = None,
    *,
    budget: str | None = None,
    metering: str | None = None,
    wallet: str | None = None,
    token: str | None = None,
    token_file: str | Path | None = None,
    ca_file: str | Path | None = None,
    allow_plaintext: bool | None = None,
) -> Settings:
    """Arguments first, then `PURSE_*` variables, then the defaults of one machine.

    The variables are PURSE_BUDGET_ADDRESS, PURSE_METERING_ADDRESS, PURSE_WALLET_ADDRESS, PURSE_TOKEN,
    PURSE_TOKEN_FILE, PURSE_CA_FILE and PURSE_ALLOW_PLAINTEXT (1, true or yes).
    """
    env = os.environ if environment is None else environment
    file = token_file or (None if token else env.get("PURSE_TOKEN_FILE"))
    # A file that is given beats a token that merely lies in the environment.
    said = token or (None if token_file else env.get("PURSE_TOKEN")) or None
    roots = ca_file or env.get("PURSE_CA_FILE")
    plaintext = env.get("PURSE_ALLOW_PLAINTEXT", "").lower() in {"1", "true", "yes"}
    return Settings(
        budget=budget or env.get("PURSE_BUDGET_ADDRESS") or DEFAULT_BUDGET,
        metering=metering or env.get("PURSE_METERING_ADDRESS") or DEFAULT_METERING,
        wallet=wallet or env.get("PURSE_WALLET_ADDRESS") or DEFAULT_WALLET,
        token=said,
        token_file=Path(file) if file else None,
        ca_file=Path(roots) if roots else None,
        allow_plaintext=plaintext if allow_plaintext is None else allow_plaintext,
    )
