"""A wallet service for tests: its books on a pool, or the whole of it over gRPC."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import grpc
from pydantic import SecretStr

from pursestrings.type.v1 import type_pb2
from pursestrings.wallet.v1 import wallet_pb2_grpc
from services.kit import auth
from services.kit.channel import channel
from services.kit.database import transact
from services.kit.errors import PurseError
from services.kit.status import from_rpc_error
from services.wallet.audit import audit
from services.wallet.convert import encode
from services.wallet.domain.commands import Command, PutGrant
from services.wallet.domain.leases import AnyOp, Capture, Extend, Line, Return, Reverse
from services.wallet.ledger import Answer, Ledger
from services.wallet.main import serving
from services.wallet.settings import WalletSettings
from services.wallet.store.wallets import WalletRow, insert_wallet

NOBODY_LISTENS = "http://127.0.0.1:9"


def wallet_name(number: int = 1, org: str = "acme") -> str:
    return f"orgs/{org}/wallets/w{number}"


@dataclass(slots=True)
class Books:
    """The ledger on a database, without a server.

    Attributes:
        hooked: What the hook for changed balances was called with: sorted (org, wallet).
    """

    pool: asyncpg.Pool
    floor: int = 10**12
    hooked: list[list[tuple[str, str]]] = field(default_factory=list)
    ledger: Ledger = field(init=False)

    def __post_init__(self) -> None:
        self.ledger = Ledger(self._note, encode, lease_floor=self.floor)

    async def _note(self, _conn: asyncpg.Connection, wallets: Sequence[tuple[str, str]], _now: datetime) -> None:
        self.hooked.append(list(wallets))

    async def run(self, *items: Command) -> list[Answer | Exception]:
        """One transaction."""
        return await transact(self.pool, lambda conn: self.ledger.run_batch(conn, items))

    async def create(self, name: str, currency: str = "USD") -> None:
        """A wallet, without a server."""
        subject = name.rpartition("/wallets/")[0]
        now = datetime.now(UTC)
        org = name.split("/")[1]
        row = WalletRow(org, name, subject, "", currency, "OPEN", "", "UTC", None, None, now)
        async with self.pool.acquire() as conn, conn.transaction():
            assert await insert_wallet(conn, row)

    async def grant(
        self, wallet: str, id_: str, amount: int, *, priority: int = 100, expires_at: datetime | None = None
    ) -> None:
        """Puts money in."""
        org, subject = wallet.split("/")[1], wallet.rpartition("/wallets/")[0]
        item = PutGrant(
            org, wallet, f"{subject}/grants/{id_}", "PAID", amount, "USD", priority, expires_at, f"grants/{id_}"
        )
        (answer,) = await self.run(item)
        if isinstance(answer, Exception):
            raise answer


def lines(amount: int) -> tuple[Line, ...]:
    return (Line("openai", "gpt", "2026-11", amount, 1),)


def extend(wallet: str, n: int, need: int, *, ask: int = 0, holder: str = "b", epoch: int = 0) -> AnyOp:
    return Extend(wallet.split("/")[1], wallet, holder, epoch, n, ask=ask, need=need)


def capture(wallet: str, n: int, amount: int, total: int, *, holder: str = "b", epoch: int = 0) -> AnyOp:
    return Capture(wallet.split("/")[1], wallet, holder, epoch, n, total, lines(amount))


def give_up(wallet: str, n: int, total: int, *, holder: str = "b", epoch: int = 0) -> AnyOp:
    return Return(wallet.split("/")[1], wallet, holder, epoch, n, total)


def reverse(wallet: str, n: int, amount: int, total: int, *, holder: str = "b", epoch: int = 0) -> AnyOp:
    return Reverse(wallet.split("/")[1], wallet, holder, epoch, n, total, lines(amount))


async def no_more_checks(_conn: asyncpg.Connection, _org: str | None) -> list[type_pb2.AuditCheck]:
    """An audit of the books alone."""
    return []


async def assert_sound(pool: asyncpg.Pool) -> None:
    """Every check of the books holds."""
    report = await audit(pool, None, no_more_checks)
    assert [] == [check for check in report.checks if not check.ok]


_TABLES = (
    "directories wallets accounts transfers grants tags leases lease_ops capture_lines lease_epochs request_keys "
    "outbox recharges"
)


async def dump(pool: asyncpg.Pool) -> dict[str, list[str]]:
    """Every row of every table as text, for showing that nothing has changed."""
    async with pool.acquire() as conn, conn.transaction(isolation="repeatable_read", readonly=True):
        return {
            table: sorted(row[0] for row in await conn.fetch(f"SELECT t::text FROM {table} AS t"))  # noqa: S608
            for table in _TABLES.split()
        }


@dataclass(frozen=True, slots=True)
class Keys:
    """Where the keys of a test's services lie, and how to make tokens."""

    private: bytes
    public_file: Path

    def token(self, subject: str, *roles: str) -> str:
        return auth.mint(self.private, subject, roles, 3600, datetime.now(UTC))


def make_keys(directory: Path) -> Keys:
    private, public = auth.generate_key()
    file = directory / "auth.pem"
    file.write_bytes(public)
    return Keys(private, file)


class Caller:
    """Calls methods by name; refusals come as PurseError."""

    def __init__(self, address: str, token: str) -> None:
        self._channel = channel(address, token)
        self._stub: Any = wallet_pb2_grpc.WalletServiceStub(self._channel)

    async def __call__(self, method: str, request: object, timeout_s: float = 15.0) -> Any:
        try:
            return await getattr(self._stub, method)(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error

    async def refusal(self, method: str, request: object) -> PurseError:
        """The error of a call that must be refused."""
        try:
            answer = await self(method, request)
        except PurseError as error:
            return error
        raise AssertionError(f"{method} was not refused: {answer}")

    async def close(self) -> None:
        await self._channel.close()


@asynccontextmanager
async def serving_wallet(service_dsn: str, keys: Keys) -> AsyncIterator[str]:
    """The whole wallet service on free ports; gives its address. Nothing listens where Stripe and Temporal would."""
    settings = WalletSettings(
        bind="127.0.0.1:0",
        metrics_bind="127.0.0.1:0",
        wallet_dsn=SecretStr(service_dsn),
        auth_public_key_file=keys.public_file,
        temporal_address="127.0.0.1:9",
        stripe_api_key=SecretStr("sk_test_of_nobody"),
        stripe_base_url=NOBODY_LISTENS,
        stripe_webhook_secret=SecretStr("whsec_of_nobody"),
        expiry_interval_s=0.05,
        shutdown_grace_s=1,
    )
    async with serving(settings) as server:
        yield f"127.0.0.1:{server.port}"
