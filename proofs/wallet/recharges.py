"""Recharges while a fifth of what Stripe is asked, or tells, goes wrong: charges, grants and ledger agree to the nano.

A PostgreSQL, a twin, a wallet service and a gateway of their own. Drivers play the workflow's worker: authorise,
create, report, confirm, report, in any of which an answer may be lost. Instead of resting after a decline, the times of
its attempts are moved back; a bank that wants the cardholder gets them. Every wallet goes on until its caps stop it.
"""

import asyncio
import contextlib
import os
import random
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import asyncpg
import grpc
import httpx
from pydantic import SecretStr

from embedded.child import Child, ChildSpec, LogFile
from embedded.ports import LOOPBACK, free_ports
from embedded.postgres import Postgres
from embedded.probes import grpc_health, http
from pursestrings.type.v1 import type_pb2
from pursestrings.wallet.v1 import payments_pb2, wallet_pb2_grpc
from pursestrings.wallet.v1 import wallet_pb2 as pb
from services.kit import auth
from services.kit.channel import channel
from services.kit.errors import PurseError
from services.kit.migrate import migrate
from services.wallet.main import NAME
from services.wallet.recharge.settings import StripeSettings
from services.wallet.recharge.stripe import NewIntent, Stripe

ORG: Final = "prove"
PER_WALLET: Final = 100
"""Both caps of a wallet's month, in recharges."""
AMOUNT_NANOS: Final = 20_000_000_000
DRIVERS: Final = 50
"""Wallets that are driven at once."""
SECRET: Final = "whsec_0123456789abcdef"  # noqa: S105 - of a twin that lives for minutes
FAULTS: Final = (
    ("rate_limit_429", "* /v1/*", 0.05),
    ("error_500_before", "* /v1/*", 0.05),
    ("lost_answer", "POST /v1/payment_intents*", 0.06),
    ("error_500_after", "POST /v1/payment_intents/*/confirm", 0.05),
    ("decline:insufficient_funds", "POST /v1/payment_intents/*/confirm", 0.05),
    ("decline:authentication_required", "POST /v1/payment_intents/*/confirm", 0.05),
    ("drop", "*", 0.07),
    ("duplicate:2", "*", 0.07),
    ("reorder", "*", 0.06),
)
"""(kind, what it hits, share): a fifth of the requests and a fifth of the webhooks."""
_TRIES_MAX: Final = 2_000
_REST_S: Final = 0.05
_TELL_EVERY_S: Final = 20.0
# The twin counts all it has to answer, and delivers nothing meanwhile.
_ASK_TWIN_EVERY_S: Final = 5.0
_STANDING: Final = """
SELECT count(*) FILTER (WHERE r.state = 'SUCCEEDED'), coalesce(max(r.name) FILTER (WHERE r.state = 'PENDING'), ''),
       coalesce(max(p.paused_reason), '') <> ''
FROM recharge_policies p LEFT JOIN recharges r USING (org, wallet) WHERE p.org = $1 AND p.wallet = $2
"""
# What would be told to Temporal, which is not there: the driver plays the worker.
_NOBODY_TO_TELL: Final = """
CREATE FUNCTION nobody_to_tell() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER nobody_to_tell BEFORE INSERT ON outbox FOR EACH ROW
WHEN (new.topic LIKE 'recharge%') EXECUTE FUNCTION nobody_to_tell();
"""
_CHECKOUT: Final = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Recharges:
    """What came of it.

    Attributes:
        recharges: How many ended.
        charges: PaymentIntents that succeeded at Stripe.
        grants: Grants that recharges became.
        difference_nanos: Charged and not in the ledger, or the other way round; and what names no recharge of ours.
        faults: How often something went wrong on purpose.
        cap_breaches: Wallets for which Stripe charged more often, or more, than the month's caps allow.
        seconds: How long it took.
    """

    recharges: int
    charges: int
    grants: int
    difference_nanos: int
    cap_breaches: int
    faults: int
    seconds: float


@dataclass(slots=True)
class Place:
    """Where it happens, and how it is reached.

    Attributes:
        sql: The wallet's database as its owner.
    """

    twin: str
    stub: Any
    stripe: Stripe
    sql: asyncpg.Pool
    http: httpx.AsyncClient


async def prove(
    directory: Path,
    say: Callable[[str], None],
    *,
    recharges: int = 10_000,
    seed: int = 1,
    timeout_s: float = 3_600.0,
) -> Recharges:
    """Runs so many recharges and compares the books.

    Raises:
        RuntimeError: The wallet's own audit finds something.
        TimeoutError: It did not end.
    """
    per_wallet = min(PER_WALLET, -(-recharges // DRIVERS))
    wallets = [f"orgs/{ORG}/wallets/w{number}" for number in range(-(-recharges // per_wallet))]
    async with asyncio.timeout(timeout_s), _place(directory) as place:
        for wallet in wallets:
            await open_wallet(place, wallet, per_wallet)
        await arm(place, seed)
        began_s = asyncio.get_running_loop().time()
        room = asyncio.Semaphore(DRIVERS)

        async def drive(wallet: str, number: int) -> None:
            async with room:
                await _drive(place, wallet, per_wallet, random.Random(seed * 1_000 + number))

        telling = asyncio.create_task(_tell(place, say))
        try:
            await asyncio.gather(*(drive(wallet, number) for number, wallet in enumerate(wallets)))
        finally:
            telling.cancel()
        faults = await settle(place)
        seconds = asyncio.get_running_loop().time() - began_s
        return replace(await compare(place, wallets, per_wallet, seconds), faults=faults)


async def _tell(place: Place, say: Callable[[str], None]) -> None:
    while True:
        await asyncio.sleep(_TELL_EVERY_S)
        ended = await place.sql.fetchval("SELECT count(*) FROM recharges WHERE state <> 'PENDING'")
        say(f"  {ended:,} have ended")


async def arm(place: Place, seed: int) -> None:
    """Lets a fifth go wrong from now on."""
    for kind, match, rate in FAULTS:
        body = {"kind": kind, "match": match, "rate": rate, "times": 1_000_000, "seed": seed}
        (await place.http.post(f"{place.twin}/_twin/faults", json=body)).raise_for_status()


async def open_wallet(place: Place, wallet: str, per_wallet: int) -> None:
    """A wallet with a card and a policy, whose first recharge starts at once."""
    await put_card(place, wallet)
    await set_policy(place, wallet, per_wallet)


async def put_card(place: Place, wallet: str) -> None:
    """A wallet with a card."""
    request = pb.CreateWalletRequest(
        parent=f"orgs/{ORG}",
        wallet_id=wallet.rpartition("/")[2],
        wallet=pb.Wallet(currency_code="USD"),
        request_id=f"open-{wallet.rpartition('/')[2]}",
    )
    await place.stub.CreateWallet(request)
    card = pb.SetupPaymentMethodRequest(wallet=wallet, payment_method="pm_card_visa", request_id=request.request_id)
    await place.stub.SetupPaymentMethod(card)


async def set_policy(place: Place, wallet: str, per_wallet: int) -> None:
    """Lets a wallet recharge until the month is full."""

    def usd(nanos: int) -> type_pb2.Money:
        return type_pb2.Money(currency_code="USD", amount_nanos=nanos)

    policy = pb.RechargePolicy(
        wallet=wallet,
        enabled=True,
        threshold=usd(1_000_000 * AMOUNT_NANOS),
        amount=usd(AMOUNT_NANOS),
        max_count_per_month=per_wallet,
        max_amount_per_month=usd(per_wallet * AMOUNT_NANOS),
    )
    await place.stub.SetRechargePolicy(pb.SetRechargePolicyRequest(policy=policy, resume=True))


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a wallet is.

    Attributes:
        succeeded: How many of its recharges were paid.
        pending: The one that is under way; empty where none is.
        paused: Whether its policy waits for somebody to look.
    """

    succeeded: int
    pending: str
    paused: bool


async def standing(place: Place, wallet: str) -> Standing:
    """How far a wallet is, all of it at one time."""
    return Standing(*await place.sql.fetchrow(_STANDING, ORG, wallet))


async def resume(place: Place, wallet: str) -> None:
    """What a person does once a recharge was given up, which has paused the policy."""
    policy = (await place.stub.GetRechargePolicy(pb.GetRechargePolicyRequest(wallet=wallet))).policy
    policy.paused_reason = ""
    await place.stub.SetRechargePolicy(pb.SetRechargePolicyRequest(policy=policy, resume=True))


async def _drive(place: Place, wallet: str, per_wallet: int, dice: random.Random) -> None:
    """Plays the worker until the month is full."""
    tries = 0
    while (now := await standing(place, wallet)).succeeded < per_wallet:
        if not now.pending:
            await (resume(place, wallet) if now.paused else asyncio.sleep(_REST_S))
            continue
        tries += 1
        if tries > _TRIES_MAX:
            raise RuntimeError(f"{now.pending} does not end")
        try:
            await _attempt(place, now.pending, dice)
        except (grpc.aio.AioRpcError, PurseError) as error:
            # The outcome is unknown, or what was wanted has become something else: ask what to do now.
            if isinstance(error, grpc.aio.AioRpcError) and error.code() in _UNFORESEEN:
                raise
            await asyncio.sleep(_REST_S)


_UNFORESEEN: Final = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.INVALID_ARGUMENT}


async def _attempt(place: Place, name: str, dice: random.Random) -> None:
    asked = await place.stub.AuthorizeAttempt(pb.AuthorizeAttemptRequest(recharge=name))
    match asked.verdict:
        case pb.ATTEMPT_VERDICT_CHARGE:
            await _charge(place, asked, dice)
        case pb.ATTEMPT_VERDICT_GIVE_UP:
            await place.stub.FailRecharge(pb.FailRechargeRequest(recharge=name, reason=asked.reason, advised=True))
        case pb.ATTEMPT_VERDICT_WAIT if "cardholder" in asked.reason:
            await place.stub.AuthenticatePayment(payments_pb2.AuthenticatePaymentRequest(name=name))
        case pb.ATTEMPT_VERDICT_WAIT:
            await place.sql.execute(
                "UPDATE recharge_attempts SET ended_at = ended_at - interval '4 days' WHERE recharge = $1", name
            )
        case _:
            await asyncio.sleep(_REST_S)


async def _charge(place: Place, asked: pb.AuthorizeAttemptResponse, dice: random.Random) -> None:
    """What the worker does, which may end after any step as if it had been killed."""
    name, intent = asked.recharge.name, asked.payment_intent
    if not intent:
        new = NewIntent(
            installation=asked.installation,
            org=ORG,
            wallet=asked.recharge.wallet,
            recharge=name,
            number=asked.payment_intent_number,
            customer=asked.customer,
            amount_minor=asked.amount_minor,
            currency=asked.currency,
        )
        intent = (await place.stripe.create_intent(new, asked.create_key)).payment_intent
        if dice.random() < 0.02:
            return
        report = pb.ReportAttemptRequest(recharge=name, attempt=asked.attempt, payment_intent=intent)
        if (await place.stub.ReportAttempt(report)).recharge.payment_intent != intent:
            return
    answer = await place.stripe.confirm(intent, asked.payment_method, asked.confirm_key)
    if dice.random() < 0.02:
        return
    done = pb.ReportAttemptRequest(
        recharge=name, attempt=asked.attempt, payment_intent=intent, answered=True, error_code=answer.code
    )
    await place.stub.ReportAttempt(done)


async def settle(place: Place) -> int:
    """No more faults; then every webhook comes once more, late, and must change nothing. Returns how many fired."""
    armed = (await place.http.get(f"{place.twin}/_twin/state")).json()["faults"]
    headers = {"content-type": "application/json"}
    (await place.http.delete(f"{place.twin}/_twin/faults", headers=headers)).raise_for_status()
    every: dict[str, Any] = {"all": True}
    while every:
        answer = (await place.http.post(f"{place.twin}/_twin/redeliver", json=every)).raise_for_status().json()
        every = {"all": True, "after": answer["next"]} if "next" in answer else {}
    while True:
        state = (await place.http.get(f"{place.twin}/_twin/state")).json()["deliveries"]
        waiting = await place.sql.fetchval(
            "SELECT count(*) FROM stripe_events WHERE done_at IS NULL AND parked_at IS NULL"
        )
        if not waiting and not state.get("pending") and not state.get("held"):
            return sum(rule["fired"] for rule in armed)
        await asyncio.sleep(_ASK_TWIN_EVERY_S)


async def compare(place: Place, wallets: Sequence[str], per_wallet: int, seconds: float) -> Recharges:
    """Compares Stripe, grants and ledger; `faults` is left at 0.

    Raises:
        RuntimeError: The wallet's own audit finds something.
    """
    audit = await place.stub.Audit(pb.AuditRequest(org=f"orgs/{ORG}"), timeout=120)
    broken = [f"{check.name}: {check.detail}" for check in audit.checks if not check.ok]
    if broken:
        raise RuntimeError(f"the wallet's books do not hold: {broken}")
    charged: dict[str, int] = {}
    breaches = 0
    for wallet in wallets:
        customer = await place.sql.fetchval("SELECT stripe_customer FROM wallets WHERE name = $1", wallet)
        paid = [one for one in await _intents(place, customer) if one["status"] == "succeeded"]
        nanos = sum(one["amount_received"] for one in paid) * 10_000_000
        breaches += len(paid) > per_wallet or nanos > per_wallet * AMOUNT_NANOS
        for one in paid:
            name = one["metadata"]["recharge"]
            charged[name] = charged.get(name, 0) + one["amount_received"] * 10_000_000
    granted = {
        row["recharge"]: row["amount_nanos"]
        for row in await place.sql.fetch("SELECT recharge, amount_nanos FROM grants WHERE recharge IS NOT NULL")
    }
    balance = await place.sql.fetchval(
        "SELECT coalesce(sum(credits_nanos - debits_nanos), 0)::bigint FROM accounts WHERE kind = 'available'"
    )
    names = charged.keys() | granted.keys()
    difference = sum(abs(charged.get(name, 0) - granted.get(name, 0)) for name in names)
    return Recharges(
        recharges=await place.sql.fetchval("SELECT count(*) FROM recharges WHERE state <> 'PENDING'"),
        charges=len(charged),
        grants=len(granted),
        difference_nanos=difference + abs(balance - sum(charged.values())),
        cap_breaches=breaches,
        faults=0,
        seconds=seconds,
    )


async def _intents(place: Place, customer: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while True:
        params: Any = {"customer": customer, "limit": 100}
        if found:
            params["starting_after"] = found[-1]["id"]
        page = await place.stripe.client.v1.payment_intents.list_async(params)
        found += [one.to_dict() for one in page.data]
        if not page.has_more:
            return found


@contextlib.asynccontextmanager
async def _place(directory: Path) -> AsyncIterator[Place]:
    """Everything that a recharge needs save Temporal, in one folder, gone at the end."""
    private, public = auth.generate_key()
    (directory / "public.pem").write_bytes(public)
    token = auth.mint(private, auth.ANY_ORG, ("admin", "service"), 24 * 3_600, datetime.now(UTC))
    (directory / "token").write_text(token)
    wallet, metrics, gateway, twin = free_ports(4)
    common = {
        "PATH": os.defpath,
        "PURSE_AUTH_PUBLIC_KEY_FILE": str(directory / "public.pem"),
        "PURSE_SERVICE_TOKEN_FILE": str(directory / "token"),
        "PURSE_WALLET_ADDRESS": f"{LOOPBACK}:{wallet}",
        "PURSE_TEMPORAL_ADDRESS": f"{LOOPBACK}:1",
        "PURSE_STRIPE_API_KEY": "sk_test_twin",
        "PURSE_STRIPE_BASE_URL": f"http://{LOOPBACK}:{twin}",
        "PURSE_STRIPE_WEBHOOK_SECRET": SECRET,
        "PURSE_LOG_LEVEL": "error",
    }
    async with contextlib.AsyncExitStack() as stack:
        postgres = await stack.enter_async_context(Postgres(directory / "postgres", databases=("wallet",)))
        await migrate("wallet", postgres.dsn("wallet", "owner"))
        hook = f"http://{LOOPBACK}:{gateway}/webhooks/stripe"
        arguments = ("--port", str(twin), "--data", str(directory / "twin"), "--webhook-url", hook)
        for name, module, environ, ready in (
            ("twin", ("embedded.stripe_twin", *arguments), {}, http(LOOPBACK, twin, "/health")),
            (
                "wallet",
                ("services.wallet.main",),
                {
                    "PURSE_BIND": f"{LOOPBACK}:{wallet}",
                    "PURSE_METRICS_BIND": f"{LOOPBACK}:{metrics}",
                    "PURSE_WALLET_DSN": postgres.dsn("wallet", "service"),
                },
                grpc_health(LOOPBACK, wallet, NAME),
            ),
            (
                "gateway",
                ("services.gateway.main",),
                {"PURSE_BIND": f"{LOOPBACK}:{gateway}"},
                http(LOOPBACK, gateway, "/health"),
            ),
        ):
            spec = ChildSpec(
                name=name,
                argv=(sys.executable, "-m", *module),
                environ={**common, **environ},
                ready=ready,
                ports={},
                cwd=_CHECKOUT,
            )
            child = Child(spec, LogFile(directory / f"{name}.log"))
            await child.launch()
            stack.push_async_callback(child.stop)
            await child.wait_ready()
        wire = await stack.enter_async_context(channel(f"{LOOPBACK}:{wallet}", token))
        settings = StripeSettings(
            stripe_api_key=SecretStr("sk_test_twin"), stripe_base_url=common["PURSE_STRIPE_BASE_URL"]
        )
        stripe = Stripe(settings)
        stack.push_async_callback(stripe.close)
        sql = await stack.enter_async_context(
            asyncpg.create_pool(postgres.dsn("wallet", "owner"), min_size=1, max_size=4)
        )
        await sql.execute(_NOBODY_TO_TELL)
        client = await stack.enter_async_context(httpx.AsyncClient(timeout=60, trust_env=False))
        yield Place(f"http://{LOOPBACK}:{twin}", wallet_pb2_grpc.WalletServiceStub(wire), stripe, sql, client)
