"""Starts the wallet: the only place that wires its parts."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import asyncpg

from pursestrings.budget.v1 import budget_pb2_grpc
from pursestrings.wallet.v1 import wallet_pb2_grpc
from services.kit.channel import service_channel
from services.kit.database import create_pool, is_reachable, transact
from services.kit.events import events_relay
from services.kit.groupcommit import GroupCommit
from services.kit.loops import Loop, Loops
from services.kit.server import GrpcServer, run
from services.kit.settings import secret
from services.kit.telemetry import configure_logging, get_logger
from services.kit.tracing import traced
from services.wallet import telling
from services.wallet.access import ACCESS
from services.wallet.changes import finish_closing
from services.wallet.convert import encode
from services.wallet.ledger import ALERT_TOPIC, Ledger
from services.wallet.recharge import audit as recharge_audit
from services.wallet.recharge.loops import recharge_loops
from services.wallet.recharge.store import evaluate_low, wake_pending_of
from services.wallet.recharge.stripe import Stripe
from services.wallet.refunds.disputes import Disputes
from services.wallet.refunds.loops import money_back_loops
from services.wallet.refunds.refunds import Refunds
from services.wallet.refunds.stripe import MoneyBack
from services.wallet.service import WalletService
from services.wallet.settings import WalletSettings
from services.wallet.store import clock
from services.wallet.store.wallets import KEYS_KEPT, forget_keys, settled_closing

NAME: Final = "pursestrings.wallet.v1.WalletService"
_FORGET_INTERVAL_S: Final = 600.0
_FORGET_MAX: Final = 1_000
_CLOSED_MAX: Final = 100
_log = get_logger(__name__)


@asynccontextmanager
async def serving(settings: WalletSettings) -> AsyncIterator[GrpcServer]:
    """The wallet, wired and started; ends when the block does, after what was accepted is committed."""
    pool = await create_pool(
        secret(settings.wallet_dsn, "PURSE_WALLET_DSN"),
        application_name="wallet",
        size_max=settings.connections_max,
    )
    async with pool, service_channel(settings, settings.budget_address) as budget:
        ledger = Ledger(evaluate_low, encode, lease_floor=settings.lease_floor_nanos, on_unblocked=wake_pending_of)
        commits = GroupCommit(
            pool,
            ledger.run_batch,
            org_of=lambda command: command.org,
            name="ledger",
            batch_max=settings.ledger_batch_max,
            queue_max=settings.queue_items_max,
        )
        stripe = Stripe(settings)
        money_back = MoneyBack(stripe)
        disputes = Disputes(pool, money_back)
        refunds = Refunds(pool, money_back, on_room=disputes.observe_charge)
        by_event = {
            "charge.dispute.": disputes.observe_charge,
            "refund.": refunds.observe_charge,
            "charge.refund": refunds.observe_charge,
        }
        recharges = recharge_loops(settings, pool, stripe, by_event)
        alerts = events_relay(pool, ALERT_TOPIC, budget_pb2_grpc.BudgetServiceStub(budget), "wallet", telling.to_event)
        service = WalletService(
            pool,
            commits,
            stripe,
            recharge_audit.checks,
            refunds=refunds,
            disputes=disputes,
            wake=recharges.wake,
            lease_floor=settings.lease_floor_nanos,
        )
        server = GrpcServer(settings, access=ACCESS, ready=lambda: is_reachable(pool))
        server.add(wallet_pb2_grpc.add_WalletServiceServicer_to_server, service, NAME)
        async with Loops(
            [*housekeeping(settings, pool, ledger), alerts.loop, *recharges.loops, *money_back_loops(refunds, disputes)]
        ):
            await server.start()
            try:
                yield server
            finally:
                await server.stop()
                await commits.close()
                await stripe.close()


def housekeeping(settings: WalletSettings, pool: asyncpg.Pool, ledger: Ledger) -> list[Loop]:
    """The loops of the books; safe with several replicas."""

    async def expire() -> bool:
        looked_at = await transact(pool, lambda conn: ledger.expire_due(conn, settings.expiry_wallets_max))
        return looked_at > 0

    after = ("", "")

    async def close() -> bool:
        nonlocal after
        async with pool.acquire() as conn:
            settled = await settled_closing(conn, _CLOSED_MAX, after)
        closed = 0
        for org, wallet, above in settled:
            try:
                closed += await transact(pool, lambda conn, o=org, w=wallet, a=above: finish_closing(conn, o, w, a))  # type: ignore[misc]
            except Exception as error:
                _log.warning("a wallet cannot be closed", wallet=wallet, error=repr(error))
        # Page by page, so that those that a full wallet above keeps waiting keep nobody from their turn; such a page is
        # followed in its time and not at once.
        more = len(settled) == _CLOSED_MAX
        after = settled[-1][:2] if more else ("", "")
        return more and closed > 0

    async def forget() -> bool:
        async with pool.acquire() as conn:
            now = await clock(conn)
            return await forget_keys(conn, now - KEYS_KEPT, _FORGET_MAX) == _FORGET_MAX

    return [
        Loop("expire grants", expire, settings.expiry_interval_s),
        Loop("close wallets", close, settings.expiry_interval_s),
        Loop("forget request keys", forget, _FORGET_INTERVAL_S),
    ]


async def main() -> None:
    """Serves until SIGTERM or SIGINT."""
    settings = WalletSettings.load()
    configure_logging(settings.log_level, "wallet")
    with traced(settings, "wallet"):
        async with serving(settings) as server:
            await server.wait_stopped()


if __name__ == "__main__":
    run(main)
