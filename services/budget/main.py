"""Starts budget: the only place that wires its parts."""

import gc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import asyncpg

from pursestrings.budget.v1 import budget_pb2_grpc
from pursestrings.metering.v1 import metering_pb2_grpc
from services.budget.access import ACCESS
from services.budget.approvals.loops import ApprovalLoops
from services.budget.approvals.requests import Approvals, Clock
from services.budget.audit import Audit
from services.budget.batch import Runner
from services.budget.caches import Directories, Policies
from services.budget.captures import Captures
from services.budget.decisions import Decisions
from services.budget.definitions import Definitions
from services.budget.domain.model import Answer, Item
from services.budget.funding import Funding
from services.budget.notify.parts import Notify
from services.budget.ops import Ops
from services.budget.rates import Rates
from services.budget.retention import Retention
from services.budget.service import BudgetService
from services.budget.settings import BudgetSettings
from services.budget.store import budgets, leases
from services.budget.store.dsn import for_lookups
from services.budget.subscriptions import Subscriptions
from services.budget.sweep import Sweep
from services.budget.sync import Sync
from services.budget.wallets import Wallets
from services.kit.channel import service_channel
from services.kit.database import create_pool, is_reachable
from services.kit.groupcommit import GroupCommit
from services.kit.loops import Loop, Loops
from services.kit.server import GrpcServer, run
from services.kit.settings import secret
from services.kit.telemetry import configure_logging
from services.kit.tracing import traced

NAME: Final = "pursestrings.budget.v1.BudgetService"
_FORGET_INTERVAL_S: Final = 60.0
_HOT_CONNECTIONS: Final = 2


@asynccontextmanager
async def serving(settings: BudgetSettings, *, clock: Clock = budgets.now_us) -> AsyncIterator[GrpcServer]:
    """Budget, wired and started; ends when the block does, after what was accepted is committed.

    Args:
        settings: What it needs to be told.
        clock: Says what is due of approvals.
    """
    async with AsyncExitStack() as stack:
        dsn = secret(settings.budget_dsn, "PURSE_BUDGET_DSN")
        pool = await stack.enter_async_context(
            await create_pool(for_lookups(dsn), application_name="budget", size_max=settings.connections_max)
        )
        # Decisions have a connection of their own: nothing else may keep them waiting for one.
        hot_pool = await stack.enter_async_context(
            await create_pool(for_lookups(dsn), application_name="budget decisions", size_max=_HOT_CONNECTIONS)
        )
        metering = await stack.enter_async_context(service_channel(settings, settings.metering_address))
        wallets = None
        if settings.use_wallets:
            wallet = await stack.enter_async_context(service_channel(settings, settings.wallet_address))
            async with pool.acquire() as connection:
                holder = await leases.holder(connection)
            wallets = Wallets(wallet, holder, settings.wallet_timeout_s)
        rates = Rates(pool, metering_pb2_grpc.MeteringServiceStub(metering))
        await rates.load()
        async with _parts(settings, (pool, hot_pool), wallets, rates, clock) as server:
            yield server


@asynccontextmanager
async def _parts(
    settings: BudgetSettings,
    pools: tuple[asyncpg.Pool, asyncpg.Pool],
    wallets: Wallets | None,
    rates: Rates,
    clock: Clock,
) -> AsyncIterator[GrpcServer]:
    pool, hot_pool = pools
    directories = Directories()
    ops = Ops(pool, wallets, in_flight_max=settings.lease_calls_max)
    captures = Captures(pool, ops)
    funding = Funding(
        pool,
        wallets,
        ops,
        directories,
        empty_memory_s=settings.empty_memory_s,
        extend_timeout_s=settings.funding_wait_s,
    )
    runner = Runner(Policies(), directories, on_lease=funding.note)
    commit: GroupCommit[Item, Answer] = GroupCommit(
        hot_pool,
        runner.run,
        org_of=lambda item: item.org,
        name="decide",
        batch_max=settings.batch_max,
        queue_max=settings.queue_items_max,
    )
    sweep = Sweep(pool, commit, grace_s=settings.expiry_grace_s, wait_max_s=settings.expiry_wait_max_s)
    notify = Notify(pool, settings)
    decisions = Decisions(commit, funding)
    approval_loops = ApprovalLoops(pool, settings)
    approvals = Approvals(pool, commit, decisions, clock=clock, wake=approval_loops.wake)
    service = BudgetService(
        pool,
        commit,
        decisions=decisions,
        approvals=approvals,
        definitions=Definitions(pool),
        funding=funding,
        rates=rates,
        audit=Audit(pool),
        subscriptions=Subscriptions(pool, loopback=settings.loopback_webhooks),
        notify=notify,
        funding_wait_s=settings.funding_wait_s,
    )
    server = GrpcServer(settings, access=ACCESS, ready=lambda: is_reachable(pool))
    server.add(budget_pb2_grpc.add_BudgetServiceServicer_to_server, service, NAME)
    retention = Retention(
        pool, usage_kept_days=settings.usage_kept_days, reservations_kept_days=settings.reservations_kept_days
    )
    loops = [
        Loop("forget what is old", retention.step, _FORGET_INTERVAL_S),
        Loop("expired holds", sweep.step, settings.sweep_interval_s),
        Loop("rates", rates.refresh, settings.rates_interval_s),
        *approval_loops.loops(approvals),
    ]
    if settings.use_temporal:
        loops += [*notify.loops, *approval_loops.relays]
    if wallets is not None:
        sync = Sync(pool, wallets, ops, directories, idle_return_s=settings.idle_return_s)
        loops += [
            # A freeze must be seen within 5 s of its wallet service being back, so failures never rest for long.
            Loop("wallets", sync.step, settings.sync_interval_s, error_rest_max_s=1.0),
            Loop("captures", captures.step, settings.capture_interval_s),
            Loop("forget lease operations", sync.forget, _FORGET_INTERVAL_S),
        ]
    async with Loops(loops):
        await server.start()
        try:
            yield server
        finally:
            await server.stop()
            await commit.close()
            await funding.close()
            await ops.close()


async def main() -> None:
    """Serves until SIGTERM or SIGINT."""
    settings = BudgetSettings.load()
    configure_logging(settings.log_level, "budget")
    with traced(settings, "budget"):
        async with serving(settings) as server:
            _calm_collector()
            await server.wait_stopped()


def _calm_collector() -> None:
    """Makes the garbage collector look rarely, and not at what stays for ever.

    A batch makes thousands of objects that reference counts free; looking through them took a tenth of the time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


if __name__ == "__main__":
    run(main)
