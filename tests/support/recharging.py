"""A wallet service, a gateway, a worker and the Stripe twin, wired for a test of recharges."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import grpc
import httpx
import stripe
from pydantic import SecretStr
from temporalio.client import Client
from temporalio.worker import Worker

from embedded.ports import LOOPBACK, free_ports
from pursestrings.type.v1 import type_pb2
from pursestrings.wallet.v1 import wallet_pb2 as pb
from pursestrings.wallet.v1 import wallet_pb2_grpc
from services.gateway.main import serving as serving_gateway
from services.gateway.settings import GatewaySettings
from services.kit import auth
from services.kit.channel import channel
from services.kit.errors import PurseError
from services.kit.status import from_rpc_error
from services.wallet.main import serving as serving_wallet
from services.wallet.recharge.loops import recharge_loops
from services.wallet.recharge.stripe import Stripe
from services.wallet.settings import WalletSettings
from tests.support.databases import Database
from tests.support.waiting import until
from workflows import worker as worker_module
from workflows.services import reaching
from workflows.settings import WorkerSettings

if TYPE_CHECKING:
    from pursestrings.wallet.v1.wallet_pb2_grpc import WalletServiceAsyncStub

API_KEY = "sk_test_twin"
WEBHOOK_SECRET = "whsec_0123456789abcdef"
NOWHERE = f"{LOOPBACK}:1"
USD = 1_000_000_000

_request_ids = iter(range(1, 10**9))


def usd(amount: float) -> type_pb2.Money:
    return type_pb2.Money(currency_code="USD", amount_nanos=round(amount * USD))


@dataclass(slots=True)
class TwinControls:
    """The twin's controls and a client of its API."""

    url: str
    http: httpx.AsyncClient
    api: stripe.StripeClient

    async def fault(self, kind: str, match: str = "*", times: int = 1) -> None:
        await self._post("faults", {"kind": kind, "match": match, "times": times})

    async def fired(self) -> int:
        """How often the faults that are armed have fired."""
        answer = await self.http.get(f"{self.url}/_twin/state")
        return sum(rule["fired"] for rule in answer.json()["faults"])

    async def clear_faults(self) -> None:
        (
            await self.http.delete(f"{self.url}/_twin/faults", headers={"content-type": "application/json"})
        ).raise_for_status()

    async def advance(self, seconds: float) -> None:
        await self._post("clock", {"advance_s": seconds})

    async def redeliver_all(self) -> None:
        answer = await self._post("redeliver", {"all": True})
        while "next" in answer:
            answer = await self._post("redeliver", {"all": True, "after": answer["next"]})

    async def complete(self, payment_intent: str, outcome: str = "succeeded") -> None:
        await self._post(f"payment_intents/{payment_intent}/complete_action", {"outcome": outcome})

    async def add_endpoint(self, url: str) -> str:
        answer = await self._post("webhook_endpoints", {"url": url, "secret": WEBHOOK_SECRET})
        return str(answer["id"])

    async def remove_endpoint(self, endpoint: str) -> None:
        (await self.http.delete(f"{self.url}/_twin/webhook_endpoints/{endpoint}")).raise_for_status()

    async def intents(self, customer: str) -> list[Any]:
        page = await self.api.v1.payment_intents.list_async({"customer": customer, "limit": 100})
        return list(page.data)

    async def _post(self, path: str, body: dict[str, Any]) -> Any:
        answer = await self.http.post(f"{self.url}/_twin/{path}", json=body)
        answer.raise_for_status()
        return answer.json()


@contextlib.asynccontextmanager
async def twin_controls(url: str) -> AsyncIterator[TwinControls]:
    transport = stripe.HTTPXClient(timeout=20)
    api = stripe.StripeClient(API_KEY, base_addresses={"api": url}, http_client=transport, max_network_retries=0)
    async with httpx.AsyncClient(timeout=20) as http:
        controls = TwinControls(url, http, api)
        await controls.clear_faults()
        try:
            yield controls
        finally:
            await controls.clear_faults()
            await transport.close_async()  # type: ignore[no-untyped-call]


@dataclass(slots=True)
class Rig:
    """What a test drives.

    Attributes:
        org: Of this test alone, since the twin and Temporal are shared by the session.
        wallet: Full name of the wallet in USD.
        stub: The wallet service, as a caller who may do everything.
        settings: The wallet service's.
        sql: The database as its owner.
        sql_dsn: The database as the service.
    """

    org: str
    wallet: str
    stub: "WalletServiceAsyncStub"
    address: str
    settings: WalletSettings
    token_file: Path
    sql: asyncpg.Connection
    sql_dsn: str
    owner_dsn: str
    twin: TwinControls

    async def last_month(self) -> None:
        """Makes the month of the recharges and of their reviews one long ago."""
        async with self.sql.transaction():
            await self.sql.execute(
                "INSERT INTO recharge_months SELECT org, wallet, '2020-01', zone, last_number, count, amount_nanos, "
                "cap_count, cap_amount_nanos FROM recharge_months"
            )
            await self.sql.execute("UPDATE recharges SET month = '2020-01'")
            await self.sql.execute("UPDATE recharge_reviews SET month = '2020-01', month_end = '2020-02-01T00:00:00Z'")
            await self.sql.execute("DELETE FROM recharge_months WHERE month <> '2020-01'")

    async def create_wallet(self, wallet_id: str = "main", currency: str = "USD", time_zone: str = "") -> str:
        request = pb.CreateWalletRequest(
            parent=f"orgs/{self.org}",
            wallet_id=wallet_id,
            wallet=pb.Wallet(currency_code=currency, time_zone=time_zone),
            request_id=self.request_id(),
        )
        return (await self.stub.CreateWallet(request)).wallet.name

    def request_id(self) -> str:
        return f"r-{next(_request_ids)}"

    async def card(self, method: str = "pm_card_visa", wallet: str = "") -> str:
        """Puts a payment method on file; returns the customer."""
        request = pb.SetupPaymentMethodRequest(
            wallet=wallet or self.wallet, payment_method=method, request_id=self.request_id()
        )
        return (await self.stub.SetupPaymentMethod(request)).customer

    async def grant(self, amount: float, wallet: str = "") -> None:
        request = pb.CreateGrantRequest(
            wallet=wallet or self.wallet,
            grant=pb.Grant(kind=pb.GRANT_KIND_PAID, amount=usd(amount)),
            request_id=self.request_id(),
        )
        await self.stub.CreateGrant(request)

    async def spend(self, amount: float, n: int, *, total: float, wallet: str = "") -> None:
        """Captures so much in operation number `n` of a lease that then has captured `total`."""
        line = pb.CaptureLine(provider="p", model="m", month="2026-01", amount_nanos=round(amount * USD), calls=1)
        await self.stub.CaptureLease(
            pb.CaptureLeaseRequest(
                wallet=wallet or self.wallet,
                holder="test",
                n=n,
                captured_total_nanos=round(total * USD),
                lines=[line],
            )
        )

    async def policy(self, wallet: str = "", *, resume: bool = False, **fields: Any) -> pb.RechargePolicy:
        """Sets a policy: 20 USD whenever it falls below 5, at most 10 times a month, unless fields say otherwise."""
        message = pb.RechargePolicy(
            **{
                "wallet": wallet or self.wallet,
                "enabled": True,
                "threshold": usd(5),
                "amount": usd(20),
                "max_count_per_month": 10,
                **fields,
            }
        )
        answer = await self.stub.SetRechargePolicy(pb.SetRechargePolicyRequest(policy=message, resume=resume))
        return answer.policy

    async def recharges(self, wallet: str = "") -> list[pb.Recharge]:
        """Newest first."""
        request = pb.ListRechargesRequest(wallet=wallet or self.wallet)
        return list((await self.stub.ListRecharges(request)).recharges)

    async def recharge(self, name: str) -> pb.Recharge:
        return (await self.stub.GetRecharge(pb.GetRechargeRequest(name=name))).recharge

    async def balance(self, wallet: str = "") -> int:
        answer = await self.stub.GetBalance(pb.GetBalanceRequest(name=wallet or self.wallet))
        return answer.balance_nanos

    async def authorize(self, name: str) -> pb.AuthorizeAttemptResponse:
        return await self.stub.AuthorizeAttempt(pb.AuthorizeAttemptRequest(recharge=name))

    async def report(self, name: str, attempt: int, intent: str = "", **fields: Any) -> pb.Recharge:
        request = pb.ReportAttemptRequest(recharge=name, attempt=attempt, payment_intent=intent, **fields)
        return (await self.stub.ReportAttempt(request)).recharge

    async def fail(self, name: str, reason: str = "a test gives it up", *, advised: bool = False) -> pb.Recharge:
        request = pb.FailRechargeRequest(recharge=name, reason=reason, advised=advised)
        return (await self.stub.FailRecharge(request)).recharge

    async def sql_now(self, statement: str) -> None:
        """Runs a statement as the owner on a connection of its own, so that several tasks may."""
        connection = await asyncpg.connect(self.owner_dsn)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    async def sweep(self) -> None:
        """What the wallet service's own loops do, now."""
        async with asyncpg.create_pool(self.sql_dsn, min_size=1, max_size=2) as pool:
            provider = Stripe(self.settings)
            try:
                loops = recharge_loops(self.settings, pool, provider)
                await loops.sweep_policies()
                await loops.sweep_recharges()
                await loops.sweep_payments()
                await loops.sweep_reviews()
            finally:
                await provider.close()

    async def audit_failures(self) -> list[str]:
        answer = await self.stub.Audit(pb.AuditRequest(org=f"orgs/{self.org}"))
        assert any(check.name.startswith("I8.") for check in answer.checks)
        return [f"{check.name}: {check.detail}" for check in answer.checks if not check.ok]

    async def alerts(self, kind: str) -> list[str]:
        """The payloads of alerts of a kind."""
        rows = await self.sql.fetch("SELECT payload FROM outbox WHERE topic = 'alert' ORDER BY id")
        return [row["payload"].decode() for row in rows if f'"{kind}"' in row["payload"].decode()]

    async def until_state(self, name: str, state: "pb.RechargeState.ValueType", timeout_s: float = 30.0) -> pb.Recharge:
        """The recharge once it is in the state."""
        async with asyncio.timeout(timeout_s):
            while (found := await self.recharge(name)).state != state:
                await asyncio.sleep(0.03)
        return found


@dataclass(slots=True)
class _Files:
    public_key: Path
    token: Path


def write_credentials(directory: Path) -> _Files:
    """A key pair and one token that may do everything."""
    private, public = auth.generate_key()
    files = _Files(directory / "public.pem", directory / "service.token")
    files.public_key.write_bytes(public)
    files.token.write_text(auth.mint(private, auth.ANY_ORG, ["admin", "service"], 3600, datetime.now(UTC)))
    return files


@contextlib.asynccontextmanager
async def running_rig(
    database: Database,
    twin_url: str,
    directory: Path,
    *,
    temporal_address: str = NOWHERE,
    org: str,
    serving: Callable[[WalletSettings], Any] = serving_wallet,
) -> AsyncIterator[Rig]:
    """The wallet service on a fresh database, with the twin as its Stripe."""
    files = write_credentials(directory)
    settings = WalletSettings(
        bind=f"{LOOPBACK}:0",
        metrics_bind=f"{LOOPBACK}:0",
        wallet_dsn=SecretStr(database.service_dsn),
        auth_public_key_file=files.public_key,
        service_token_file=files.token,
        temporal_address=temporal_address,
        stripe_api_key=SecretStr(API_KEY),
        stripe_base_url=twin_url,
        stripe_webhook_secret=SecretStr(WEBHOOK_SECRET),
        shutdown_grace_s=2.0,
    )
    async with contextlib.AsyncExitStack() as stack:
        controls = await stack.enter_async_context(twin_controls(twin_url))
        sql = await asyncpg.connect(database.owner_dsn)
        stack.push_async_callback(sql.close)
        # A test's database is a copy of a template, and two copies must not charge with one id.
        await sql.execute("UPDATE installation SET id = gen_random_uuid()")
        server = await stack.enter_async_context(serving(settings))
        address = f"{LOOPBACK}:{server.port}"
        wire = channel(address, files.token.read_text())
        stack.push_async_callback(wire.close)
        stub = wallet_pb2_grpc.WalletServiceStub(wire)
        rig = Rig(
            org=org,
            wallet=f"orgs/{org}/wallets/main",
            stub=stub,
            address=address,
            settings=settings,
            token_file=files.token,
            sql=sql,
            sql_dsn=database.service_dsn,
            owner_dsn=database.owner_dsn,
            twin=controls,
        )
        await rig.create_wallet()
        yield rig


@contextlib.asynccontextmanager
async def running_gateway(rig: Rig, port: int = 0) -> AsyncIterator[str]:
    """A gateway in this process; gives its URL."""
    bound = port or free_ports(1)[0]
    settings = GatewaySettings(
        bind=f"{LOOPBACK}:{bound}", wallet_address=rig.address, service_token_file=rig.token_file, shutdown_grace_s=1.0
    )
    async with serving_gateway(settings) as server:
        # The signals of the test process are not the gateway's.
        server.capture_signals = contextlib.nullcontext  # type: ignore[assignment]
        task = asyncio.create_task(server.serve())
        try:
            await until(lambda: server.started or task.done(), what="the gateway's start")
            yield f"http://{LOOPBACK}:{bound}"
        finally:
            server.should_exit = True
            await task


@contextlib.asynccontextmanager
async def webhooks(rig: Rig) -> AsyncIterator[str]:
    """A gateway that gets the twin's events; gives its URL."""
    async with running_gateway(rig) as url:
        endpoint = await rig.twin.add_endpoint(f"{url}/webhooks/stripe")
        try:
            yield url
        finally:
            await rig.twin.remove_endpoint(endpoint)


@contextlib.asynccontextmanager
async def running_worker(rig: Rig, client: Client, **more: Any) -> AsyncIterator[list[Worker]]:
    """A worker in this process; settings by their own names."""
    settings = WorkerSettings(
        stripe_api_key=SecretStr(API_KEY),
        stripe_base_url=rig.twin.url,
        wallet_address=rig.address,
        service_token_file=rig.token_file,
        shutdown_grace_s=1.0,
        **more,
    )
    async with reaching(settings) as services, worker_module.working(client, services, settings) as workers:
        yield workers


async def refusal(call: Awaitable[Any]) -> PurseError:
    """The error that a call must end with."""
    try:
        answer = await call
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error)
    raise AssertionError(f"was not refused: {answer}")
