"""Budget as it runs, on a test's database, with a wallet service that can be told to fail."""

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import grpc
from google.protobuf.field_mask_pb2 import FieldMask
from google.rpc import status_pb2
from pydantic import SecretStr

from pursestrings.budget.v1 import budget_pb2, budget_pb2_grpc
from pursestrings.type.v1 import type_pb2
from pursestrings.wallet.v1 import wallet_pb2, wallet_pb2_grpc
from services.budget.main import serving
from services.budget.settings import BudgetSettings
from services.kit.channel import channel
from services.kit.errors import Code, PurseError, conflict
from services.kit.rate_source import load_rate_table
from services.kit.status import from_rpc_error, from_rpc_status, to_rpc_status, trailing_metadata
from tests.support.databases import CHECKOUT, Database
from tests.support.metering import EVERYONE, Keys

NANOS = 1_000_000_000
ORG = "orgs/acme"
TEAM = "orgs/acme/teams/support"
BOT = "orgs/acme/teams/support/agents/bot"
WALLET = "orgs/acme/wallets/main"


class _Raises:
    """A context for an operation of a batch: what aborts one call is one result here."""

    async def abort(self, code: grpc.StatusCode, message: str, details: Any = ()) -> None:
        for _, value in details:
            raise from_rpc_status(status_pb2.Status.FromString(value))
        raise PurseError(Code(code.value[0]), code.name, message)


@dataclass
class FakeLease:
    """One lease as the wallet keeps it: totals, and the stored answers by number."""

    epoch: int = 0
    n: int = 0
    extended: int = 0
    captured: int = 0
    returned: int = 0
    reversed: int = 0
    answers: dict[int, tuple[bytes, Any]] = field(default_factory=dict)


@dataclass
class FakeWallets:
    """The wallet's side of the lease protocol in memory, only for losing, delaying and repeating answers.

    Attributes:
        available: Free money by wallet.
        debt: What was captured beyond it.
        states: By wallet; OPEN where nothing is said.
        currencies: By wallet; USD where nothing is said.
        down: Refuse every call with UNAVAILABLE.
        lose: How many of the next operations are done and then answered UNAVAILABLE.
        delay_s: How long an answer takes after the operation is done.
        grant_max: The most that one extension gives.
        target: What every lease is told to keep; None: all it has.
        seen: (method, epoch, n) of every operation that came in.
        version: Of the directories; raise it to make a change known.
    """

    available: dict[str, int] = field(default_factory=dict)
    debt: dict[str, int] = field(default_factory=dict)
    states: dict[str, int] = field(default_factory=dict)
    currencies: dict[str, str] = field(default_factory=dict)
    leases: dict[tuple[str, str], FakeLease] = field(default_factory=dict)
    lines: list[wallet_pb2.CaptureLine] = field(default_factory=list)
    seen: list[tuple[str, int, int]] = field(default_factory=list)
    down: bool = False
    lose: int = 0
    delay_s: float = 0.0
    grant_max: int = 10**15
    target: int | None = None
    version: int = 1
    syncs: int = 0
    violations: list[str] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        if not name[0].isupper():
            raise AttributeError(name)

        async def unknown(_request: Any, context: Any) -> None:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"{name} is not part of the fake")

        return unknown

    async def ExtendLease(self, request: Any, context: Any) -> Any:
        def run(lease: FakeLease) -> Any:
            free = self.available.get(request.wallet, 0)
            is_open = self.states.get(request.wallet, wallet_pb2.WALLET_STATE_OPEN) == wallet_pb2.WALLET_STATE_OPEN
            granted = min(free, max(request.need_nanos, min(request.ask_nanos, self.grant_max))) if is_open else 0
            self.available[request.wallet] = free - granted
            lease.extended += granted
            return lambda status: wallet_pb2.ExtendLeaseResponse(granted_nanos=granted, lease=status)

        return await self._apply("EXTEND", request, context, run)

    async def CaptureLease(self, request: Any, context: Any) -> Any:
        def run(lease: FakeLease) -> Any:
            amount = sum(line.amount_nanos for line in request.lines)
            if request.captured_total_nanos != lease.captured + amount:
                self.violations.append(f"capture {request.n} does not follow")
            shortage = max(0, amount - (lease.extended - lease.captured - lease.returned))
            taken = min(shortage, self.available.get(request.wallet, 0))
            self.available[request.wallet] = self.available.get(request.wallet, 0) - taken
            self.debt[request.wallet] = self.debt.get(request.wallet, 0) + shortage - taken
            lease.extended += shortage
            lease.captured += amount
            self.lines.extend(request.lines)
            return lambda status: wallet_pb2.CaptureLeaseResponse(lease=status)

        return await self._apply("CAPTURE", request, context, run)

    async def ReturnLease(self, request: Any, context: Any) -> Any:
        def run(lease: FakeLease) -> Any:
            amount = request.returned_total_nanos - lease.returned
            lease.returned += amount
            self.available[request.wallet] += amount
            return lambda status: wallet_pb2.ReturnLeaseResponse(lease=status)

        return await self._apply("RETURN", request, context, run)

    async def ReverseCapture(self, request: Any, context: Any) -> Any:
        def run(lease: FakeLease) -> Any:
            amount = sum(line.amount_nanos for line in request.lines)
            lease.reversed += amount
            self.available[request.wallet] = self.available.get(request.wallet, 0) + amount
            return lambda status: wallet_pb2.ReverseCaptureResponse(lease=status)

        return await self._apply("REVERSE", request, context, run)

    async def BatchLeaseOperations(self, request: Any, context: Any) -> Any:
        methods = {
            "extend": self.ExtendLease,
            "capture": self.CaptureLease,
            "give_back": self.ReturnLease,
            "reverse": self.ReverseCapture,
        }
        response = wallet_pb2.BatchLeaseOperationsResponse()
        for operation in request.operations:
            name = operation.WhichOneof("operation")
            try:
                answer = await methods[name](getattr(operation, name), _Raises())
            except PurseError as error:
                if error.code == Code.UNAVAILABLE:
                    await context.abort(grpc.StatusCode.UNAVAILABLE, error.message)
                response.results.add(error=to_rpc_status(error))
            else:
                response.results.add(lease=answer.lease, granted_nanos=getattr(answer, "granted_nanos", 0))
        return response

    async def GetBalance(self, request: Any, context: Any) -> Any:
        if self.down:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "told to be down")
        return wallet_pb2.GetBalanceResponse(name=request.name, available_nanos=self.available.get(request.name, 0))

    async def SyncLeases(self, request: Any, context: Any) -> Any:
        self.syncs += 1
        if self.down:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "told to be down")
        response = wallet_pb2.SyncLeasesResponse()
        for totals in request.leases:
            if (lease := self.leases.get((totals.wallet, request.holder))) is not None:
                response.leases.append(self._status(totals.wallet, request.holder, lease))
        for cursor in request.orgs:
            names = [name for name in self.known() if name.startswith(f"{cursor.org}/")]
            if names and cursor.version != self.version:
                directory = response.directories.add(org=cursor.org, version=self.version)
                for name in sorted(names):
                    directory.wallets.add(
                        name=name, currency_code=self.currencies.get(name, "USD"), state=self._state(name)
                    )
        return response

    def known(self) -> set[str]:
        """All wallets."""
        return {*self.available, *self.states, *self.currencies}

    def lease(self, wallet: str = WALLET) -> FakeLease:
        """The one lease of a wallet."""
        (found,) = [lease for (name, _), lease in self.leases.items() if name == wallet]
        return found

    def freeze(self, wallet: str = WALLET) -> None:
        """Freezes a wallet, as an operator would."""
        self.states[wallet] = wallet_pb2.WALLET_STATE_FROZEN
        self.version += 1

    def check(self) -> None:
        """What must always hold: no violation was seen, and no escrow is below 0."""
        assert self.violations == []
        for lease in self.leases.values():
            assert lease.extended - lease.captured - lease.returned >= 0
        assert all(free >= 0 for free in self.available.values())

    def _state(self, wallet: str) -> Any:
        return self.states.get(wallet, wallet_pb2.WALLET_STATE_OPEN)

    def _status(self, wallet: str, holder: str, lease: FakeLease) -> Any:
        escrow = lease.extended - lease.captured - lease.returned
        target = escrow if self.target is None else self.target
        return wallet_pb2.LeaseStatus(
            totals=type_pb2.LeaseTotals(
                wallet=wallet,
                holder=holder,
                epoch=lease.epoch,
                n=lease.n,
                extended_total_nanos=lease.extended,
                captured_total_nanos=lease.captured,
                returned_total_nanos=lease.returned,
                reversed_total_nanos=lease.reversed,
            ),
            target_nanos=target if self._state(wallet) == wallet_pb2.WALLET_STATE_OPEN else 0,
            wallet_state=self._state(wallet),
            available_nanos=self.available.get(wallet, 0),
        )

    async def _apply(self, kind: str, request: Any, context: Any, run: Callable[[FakeLease], Any]) -> Any:
        self.seen.append((kind, request.epoch, request.n))
        if self.down:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "told to be down")
        lease = self.leases.setdefault((request.wallet, request.holder), FakeLease())
        content = request.SerializeToString(deterministic=True)
        if request.epoch != lease.epoch:
            await self._refuse(context, "LEASE_EPOCH", lease)
        if request.n in lease.answers:
            stored, answer = lease.answers[request.n]
            if stored != content:
                await self._refuse(context, "LEASE_PAYLOAD", lease)
        elif request.n != lease.n + 1:
            await self._refuse(context, "LEASE_GAP", lease)
        else:
            make = run(lease)
            lease.n = request.n
            answer = make(self._status(request.wallet, request.holder, lease))
            lease.answers[request.n] = (content, answer)
        if self.lose:
            self.lose -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "told to lose the answer")
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        return answer

    async def _refuse(self, context: Any, reason: str, lease: FakeLease) -> None:
        error = conflict(reason, f"the last one is {lease.n}", last_n=str(lease.n), epoch=str(lease.epoch))
        status = to_rpc_status(error)
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, error.message, trailing_metadata(status))


@dataclass(frozen=True, slots=True)
class Budgets:
    """Budget, running.

    Attributes:
        address: Where it answers.
        stub_for: A client as (subject, role).
        token_for: A token for (subject, role).
        settings: What it runs with.
        database: What it runs on.
    """

    address: str
    stub_for: Callable[..., Any]
    token_for: Callable[[str, str], str]
    settings: BudgetSettings
    database: Database

    @property
    def admin(self) -> Any:
        """A client that may do everything."""
        return self.stub_for(EVERYONE, "admin")

    async def create(self, subject: str = ORG, id_: str = "b", **fields: Any) -> budget_pb2.Budget:
        """A budget; COST in USD, a LIFETIME window and 10 USD unless said otherwise."""
        response = await self.admin.CreateBudget(
            budget_pb2.CreateBudgetRequest(parent=subject, budget_id=id_, budget=budget_of(**fields))
        )
        created: budget_pb2.Budget = response.budget
        return created

    async def update(self, name: str, **fields: Any) -> budget_pb2.Budget:
        """Changes these fields of a budget."""
        budget = budget_pb2.Budget(name=name, **fields)
        response = await self.admin.UpdateBudget(
            budget_pb2.UpdateBudgetRequest(budget=budget, update_mask=FieldMask(paths=list(fields)))
        )
        changed: budget_pb2.Budget = response.budget
        return changed

    async def reserve(self, **fields: Any) -> budget_pb2.Decision:
        """One decision; see `ask`."""
        response = await self.admin.Reserve(ask(**fields))
        decision: budget_pb2.Decision = response.decision
        return decision

    async def apply(self, *items: budget_pb2.UsageItem) -> list[budget_pb2.ApplyUsageResult]:
        """Applies events."""
        response = await self.admin.ApplyUsage(budget_pb2.ApplyUsageRequest(items=items, relay="test"))
        return list(response.results)

    async def use(self, name: str) -> budget_pb2.BudgetUse:
        """A budget's running window."""
        response = await self.admin.GetBudgetStatus(budget_pb2.GetBudgetStatusRequest(name=name))
        use: budget_pb2.BudgetUse = response.status.use
        return use

    async def get(self, name: str) -> budget_pb2.Reservation:
        """A reservation."""
        response = await self.admin.GetReservation(budget_pb2.GetReservationRequest(name=name))
        found: budget_pb2.Reservation = response.reservation
        return found

    async def release(self, name: str) -> budget_pb2.Reservation:
        """Gives a reservation back."""
        response = await self.admin.Release(budget_pb2.ReleaseRequest(name=name))
        found: budget_pb2.Reservation = response.reservation
        return found

    async def audit(self) -> budget_pb2.AuditResponse:
        """The audit; every check must hold."""
        response: budget_pb2.AuditResponse = await self.admin.Audit(budget_pb2.AuditRequest())
        broken = [f"{check.name}: {check.detail}" for check in response.checks if not check.ok]
        assert broken == []
        return response


def budget_of(**fields: Any) -> budget_pb2.Budget:
    """A definition; COST in USD, a LIFETIME window and 10 USD unless said otherwise."""
    dimension = fields.pop("dimension", budget_pb2.DIMENSION_COST)
    values: dict[str, Any] = {
        "dimension": dimension,
        "currency_code": "USD" if dimension == budget_pb2.DIMENSION_COST else "",
        "limit_amount": 10 * NANOS,
        "window": budget_pb2.Window(kind=budget_pb2.WINDOW_KIND_LIFETIME),
    }
    return budget_pb2.Budget(**(values | fields))


def ask(**fields: Any) -> budget_pb2.ReserveRequest:
    """A request of 1 USD for the bot; fields of the estimate and of the call by their own names."""
    estimate: dict[str, Any] = {}
    if (cost := fields.pop("cost", NANOS)) is not None:
        currency = fields.pop("currency", "USD")
        estimate["cost"] = type_pb2.Money(currency_code=currency, amount_nanos=cost)
    for name in ("input_tokens", "max_output_tokens", "requests"):
        if name in fields:
            estimate[name] = fields.pop(name)
    call = {name: fields.pop(name) for name in ("provider", "model", "operation", "labels") if name in fields}
    values: dict[str, Any] = {
        "subject": BOT,
        "request_id": str(uuid4()),
        "estimate": budget_pb2.SpendEstimate(**estimate),
    }
    if call:
        values["call"] = type_pb2.CallAttributes(**call)
    return budget_pb2.ReserveRequest(**(values | fields))


def usage(id_: str = "", **fields: Any) -> budget_pb2.UsageItem:
    """An event of 1 USD of the bot, now; fields of the call and of the tokens by their own names."""
    call: dict[str, Any] = {"provider": "anthropic", "model": "claude-sonnet-4-5"}
    call |= {name: fields.pop(name) for name in ("provider", "model", "operation", "labels") if name in fields}
    tokens = {name: fields.pop(name) for name in list(fields) if name.endswith("_tokens")}
    values: dict[str, Any] = {
        "subject": BOT,
        "source": "test",
        "id": id_ or str(uuid4()),
        "call": type_pb2.CallAttributes(**call),
        "tokens": type_pb2.TokenCounts(**tokens),
        "final": True,
    }
    if (cost := fields.pop("cost", NANOS)) is not None:
        currency = fields.pop("currency", "USD")
        values["cost"] = type_pb2.Money(currency_code=currency, amount_nanos=cost)
    item = budget_pb2.UsageItem(**(values | fields))
    if not item.HasField("occurred_at"):
        item.occurred_at.FromMicroseconds(time.time_ns() // 1000)
    return item


@contextlib.asynccontextmanager
async def running_wallets(wallets: FakeWallets) -> AsyncIterator[str]:
    """Serves the fake and gives its address."""
    server = grpc.aio.server()
    wallet_pb2_grpc.add_WalletServiceServicer_to_server(wallets, server)  # type: ignore[arg-type]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


def settings_for(database: Database, keys: Keys, **more: Any) -> BudgetSettings:
    """Settings of a budget on a test's database, with its loops quick and no service to call."""
    token_file = keys.public_file.with_name("token")
    token_file.write_text(keys.token(EVERYONE, "service"))
    values: dict[str, Any] = {
        "bind": "127.0.0.1:0",
        "metrics_bind": "127.0.0.1:0",
        "auth_public_key_file": keys.public_file,
        "service_token_file": token_file,
        "budget_dsn": SecretStr(database.service_dsn),
        "metering_address": "127.0.0.1:1",
        "use_wallets": False,
        "use_temporal": False,
        "shutdown_grace_s": 2.0,
        "sync_interval_s": 0.1,
        "capture_interval_s": 0.05,
        "sweep_interval_s": 0.1,
        "expiry_grace_s": 0.0,
        "empty_memory_s": 0.05,
    }
    return BudgetSettings(**(values | more))


@contextlib.asynccontextmanager
async def running_budget(
    database: Database,
    directory: Path,
    wallets: FakeWallets | None = None,
    *,
    serve: Callable[[BudgetSettings], Any] = serving,
    **more: Any,
) -> AsyncIterator[Budgets]:
    """Budget in this process, with the fake wallets if given, and the prices of the installed package."""
    keys = Keys.make(directory)
    async with contextlib.AsyncExitStack() as stack:
        if wallets is not None:
            more = {
                "use_wallets": True,
                "wallet_address": await stack.enter_async_context(running_wallets(wallets)),
            } | more
        settings = settings_for(database, keys, **more)
        server = await stack.enter_async_context(serve(settings))
        address = f"127.0.0.1:{server.port}"
        channels: dict[str, grpc.aio.Channel] = {}

        def stub_for(subject: str = EVERYONE, role: str = "service") -> Any:
            if subject + role not in channels:
                channels[subject + role] = channel(address, keys.token(subject, role))
            return budget_pb2_grpc.BudgetServiceStub(channels[subject + role])

        yield Budgets(address, stub_for, keys.token, settings, database)
        await asyncio.gather(*(one.close() for one in channels.values()))


@contextlib.asynccontextmanager
async def budget_process(database: Database, keys: Keys, port: int, **more: Any) -> AsyncIterator[int]:
    """Budget as a process of its own, answering; gives its pid. Killed at the end if it is still there."""
    settings = settings_for(database, keys, bind=f"127.0.0.1:{port}", **more)
    environ = {"PATH": os.defpath}
    for name, value in settings.model_dump().items():
        if value is not None:
            text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
            environ[f"PURSE_{name.upper()}"] = text
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.budget.main", cwd=CHECKOUT, env=environ, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        async with channel(f"127.0.0.1:{port}", keys.token(EVERYONE, "admin")) as probe:
            stub = budget_pb2_grpc.BudgetServiceStub(probe)
            await stub.ListBudgets(budget_pb2.ListBudgetsRequest(parent=ORG), wait_for_ready=True, timeout=30)
        yield process.pid
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def store_rates(database: Database) -> None:
    """Puts the installed price list where the service looks for it when it starts."""
    table = load_rate_table()
    connection = await asyncpg.connect(database.owner_dsn)
    await connection.execute(
        "INSERT INTO rate_table (version, content) VALUES ($1, $2)", table.version, table.to_bytes()
    )
    await connection.close()


async def rows(database: Database, query: str, *values: object) -> list[asyncpg.Record]:
    """What the owner of the database sees."""
    connection = await asyncpg.connect(database.owner_dsn)
    try:
        return list(await connection.fetch(query, *values))
    finally:
        await connection.close()


async def alerts(database: Database) -> list[dict[str, Any]]:
    """The payloads of the alerts to deliver, in order."""
    found = await rows(database, "SELECT payload FROM outbox WHERE topic = 'alerts' ORDER BY id")
    return [json.loads(row["payload"]) for row in found]


async def refusal_of(call: Any) -> PurseError:
    """The error that a call is refused with."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error)
    raise AssertionError("the call was not refused")


def refusals(results: Sequence[Any]) -> list[str]:
    """The reasons of a batch's refused items, '' for the others."""
    return [
        from_rpc_status(result.error).reason if result.WhichOneof("result") == "error" else "" for result in results
    ]
