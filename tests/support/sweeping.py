"""The services as a sweep over all organisations finds them, and a worker that runs it."""

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import asyncpg
import grpc
from pydantic import SecretStr
from temporalio.client import Client

from pursestrings.budget.v1 import budget_pb2_grpc
from pursestrings.type.v1 import type_pb2
from pursestrings.wallet.v1 import wallet_pb2 as pb
from services.budget.main import serving as serving_budget
from services.kit.channel import channel
from services.metering.main import serving as serving_metering
from services.wallet.main import serving as serving_wallet
from services.wallet.settings import WalletSettings
from tests.support.budget import Budgets, settings_for
from tests.support.databases import Database
from tests.support.metering import EVERYONE, Keys
from tests.support.metering import settings_for as metering_settings_for
from tests.support.recharging import API_KEY, WEBHOOK_SECRET
from tests.support.wallets import Caller, make_keys
from workflows import worker as worker_module
from workflows.services import Services, reaching
from workflows.settings import WorkerSettings

USD = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Suite:
    """Budget, wallet and metering, running.

    Attributes:
        call: The wallet service, as a caller who may do everything.
        wallets: The wallet's database.
        services: What activities reach.
    """

    budget: Budgets
    call: Caller
    wallets: Database
    services: Services
    settings: WorkerSettings

    async def wallet(self, org: str, *, zone: str = "UTC", balance: int = 100) -> str:
        """A wallet with so many dollars; `org` may go on, as in `acme/teams/a`."""
        key = org.replace("/", ".")
        request = pb.CreateWalletRequest(
            parent=f"orgs/{org}",
            wallet_id="main",
            wallet=pb.Wallet(currency_code="USD", time_zone=zone),
            request_id=f"w-{key}",
        )
        name = str((await self.call("CreateWallet", request)).wallet.name)
        if balance:
            amount = type_pb2.Money(currency_code="USD", amount_nanos=balance * USD)
            grant = pb.Grant(kind=pb.GRANT_KIND_PAID, amount=amount)
            await self.call("CreateGrant", pb.CreateGrantRequest(wallet=name, grant=grant, request_id=f"g-{key}"))
        return name

    async def sql(self, database: Database, statement: str, *values: object) -> Any:
        """Runs a statement as the database's owner; its rows."""
        connection = await asyncpg.connect(database.owner_dsn)
        try:
            return await connection.fetch(statement, *values)
        finally:
            await connection.close()

    @contextlib.asynccontextmanager
    async def worker(self, client: Client, **instead: Any) -> AsyncIterator[None]:
        """A worker in this process, with some services replaced."""
        services = replace(self.services, **instead)
        async with worker_module.working(client, services, self.settings):
            yield


class Refuses:
    """A service of which one method refuses, for good, requests that name something."""

    def __init__(self, stub: Any, method: str, named: str) -> None:
        self._stub = stub
        self._method = method
        self._named = named

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._stub, name)
        if name != self._method:
            return call

        async def refuse(request: Any, **options: Any) -> Any:
            if self._named not in str(request):
                return await call(request, **options)
            metadata = grpc.aio.Metadata()
            raise grpc.aio.AioRpcError(grpc.StatusCode.NOT_FOUND, metadata, metadata, "told to refuse")

        return refuse


@contextlib.asynccontextmanager
async def running_suite(
    database: Callable[[str], Database], directory: Path, stripe_url: str = "http://127.0.0.1:1"
) -> AsyncIterator[Suite]:
    """The three services on fresh databases."""
    keys = make_keys(directory)
    tokens = Keys(keys.private, keys.public_file)
    books, ledger = database("budget"), database("wallet")
    # Databases are copies of one, and the twin is the session's: charges of other tests are another installation's.
    connection = await asyncpg.connect(ledger.owner_dsn)
    await connection.execute("UPDATE installation SET id = gen_random_uuid()")
    await connection.close()
    async with contextlib.AsyncExitStack() as stack:
        wallet_server = await stack.enter_async_context(
            serving_wallet(
                WalletSettings(
                    bind="127.0.0.1:0",
                    metrics_bind="127.0.0.1:0",
                    wallet_dsn=SecretStr(ledger.service_dsn),
                    auth_public_key_file=keys.public_file,
                    temporal_address="127.0.0.1:1",
                    stripe_api_key=SecretStr(API_KEY),
                    stripe_base_url=stripe_url,
                    stripe_webhook_secret=SecretStr(WEBHOOK_SECRET),
                    shutdown_grace_s=1,
                )
            )
        )
        wallet_address = f"127.0.0.1:{wallet_server.port}"
        settings = settings_for(books, tokens, use_wallets=True, wallet_address=wallet_address)
        server = await stack.enter_async_context(serving_budget(settings))
        address = f"127.0.0.1:{server.port}"
        metering = await stack.enter_async_context(
            serving_metering(
                metering_settings_for(
                    database("metering"), tokens, address, service_token_file=settings.service_token_file
                )
            )
        )
        worker_settings = WorkerSettings(
            stripe_api_key=SecretStr(API_KEY),
            stripe_base_url=stripe_url,
            budget_address=address,
            wallet_address=wallet_address,
            metering_address=f"127.0.0.1:{metering.port}",
            service_token_file=settings.service_token_file,
            shutdown_grace_s=1.0,
        )
        services = await stack.enter_async_context(reaching(worker_settings))
        wire = channel(address, tokens.token(EVERYONE, "admin"))
        stack.push_async_callback(wire.close)
        caller = Caller(wallet_address, keys.token(EVERYONE, "admin", "service"))
        stack.push_async_callback(caller.close)
        budgets = Budgets(address, lambda *_: budget_pb2_grpc.BudgetServiceStub(wire), tokens.token, settings, books)
        yield Suite(budgets, caller, ledger, services, worker_settings)
