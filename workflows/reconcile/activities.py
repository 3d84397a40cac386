"""The activities of Reconcile and Report: the services by gRPC. They change nothing but what people are told, once."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from temporalio import activity

from pursestrings.budget.v1 import deliveries_pb2, months_pb2
from pursestrings.cli.asking import run_audit
from pursestrings.wallet.v1 import reports_pb2, statements_pb2, wallet_pb2
from services.kit.telemetry import get_logger
from workflows.reconcile import events, types
from workflows.reconcile.types import Compare, Compared, Orgs, Reported, ReportPage
from workflows.services import Services
from workflows.working import working

DIFFERENCES_TOLD_MAX: Final = 100
"""The most differences of an organisation that are told singly a day."""
LOOKS_BACK: Final = timedelta(days=3)
"""Which charges a run compares; every charge is compared by several runs."""
_ORGS_A_PAGE: Final = 200
_PUBLISHED_AT_ONCE: Final = 100
_ASKED_AT_ONCE: Final = 8
_LISTS_AGE_MAX_S: Final = 3_600
_RPC_TIMEOUT_S: Final = 30.0
# Fifty pages of three lists, asked for one after another.
_STRIPE_TIMEOUT_S: Final = 90.0

_log = get_logger(__name__)


class ReconcileActivities:
    """Bound to the services.

    Args:
        services: All of them.
    """

    def __init__(self, services: Services) -> None:
        self._services = services

    @activity.defn(name=types.LIST_ORGS)
    async def list_orgs(self, page_token: str) -> Orgs:
        """A page of organisations: by their wallets first, then others that budget knows, then others at Stripe."""
        source, _, token = page_token.partition(":")
        async with working():
            if source == types.CHARGES:
                return Orgs(await self._strays())
            if source == types.BUDGETS:
                orgs, token = await self._without_wallets(token)
                return Orgs(orgs, f"{types.BUDGETS}:{token}" if token else f"{types.CHARGES}:")
            page = await self._services.wallet.ListMonthZones(
                reports_pb2.ListMonthZonesRequest(page_size=_ORGS_A_PAGE, page_token=token), timeout=_RPC_TIMEOUT_S
            )
        token = page.next_page_token
        return Orgs(
            sorted({one.org for one in page.zones}), f"{types.WALLETS}:{token}" if token else f"{types.BUDGETS}:"
        )

    @activity.defn(name=types.COMPARE)
    async def compare(self, ask: Compare) -> Compared:
        """Compares Stripe, the ledger, leases and usage of an organisation, and tells of what does not agree."""
        day = events.day_of(ask.now_us)
        # The same lists of Stripe do for all organisations of a run.
        request = statements_pb2.ReconcileRequest(org=ask.org, lists_age_max_s=_LISTS_AGE_MAX_S)
        request.from_time.FromDatetime(datetime.fromtimestamp(ask.now_us // 1_000_000, UTC) - LOOKS_BACK)
        async with working():
            found = (await self._services.wallet.Reconcile(request, timeout=_STRIPE_TIMEOUT_S)).differences
            broken = [check for check in await run_audit(_Asked(self._services), ask.org) if not check.ok]
            notices = [events.of_difference(ask.org, one, day) for one in found[:DIFFERENCES_TOLD_MAX]]
            if len(found) > DIFFERENCES_TOLD_MAX:
                notices.append(events.of_more(ask.org, len(found) - DIFFERENCES_TOLD_MAX, day))
            notices += [events.of_check(ask.org, one.name, one.detail, day) for one in broken]
            told = await self._publish(notices)
        if notices:
            # Of an organisation that only Stripe knows, nobody has subscribed to anything.
            _log.warning("books do not agree", org=ask.org, differences=len(found), checks=[one.name for one in broken])
        return Compared(len(found), [one.name for one in broken], told)

    @activity.defn(name=types.REPORT_PAGE)
    async def report(self, ask: ReportPage) -> Reported:
        """Tells of a page of concerns of a kind."""
        kind = reports_pb2.ConcernKind.Value(f"CONCERN_KIND_{ask.kind}")
        async with working():
            page = await self._services.wallet.ListConcerns(
                reports_pb2.ListConcernsRequest(kind=kind, page_size=_PUBLISHED_AT_ONCE, page_token=ask.page_token),
                timeout=_RPC_TIMEOUT_S,
            )
            told = await self._publish([events.of_concern(one, events.day_of(ask.now_us)) for one in page.concerns])
        return Reported(len(page.concerns), told, page.next_page_token)

    async def _without_wallets(self, page_token: str) -> tuple[list[str], str]:
        """A page of the organisations that budget knows, without those that have wallets, and the next page."""
        page = await self._services.budget.ListMonthZones(
            months_pb2.ListMonthZonesRequest(page_size=_ORGS_A_PAGE, page_token=page_token), timeout=_RPC_TIMEOUT_S
        )
        room = asyncio.Semaphore(_ASKED_AT_ONCE)

        async def has_wallets(org: str) -> bool:
            async with room:
                request = wallet_pb2.ListWalletsRequest(parent=org, page_size=1)
                return bool((await self._services.wallet.ListWallets(request, timeout=_RPC_TIMEOUT_S)).wallets)

        have = await asyncio.gather(*map(has_wallets, page.orgs))
        return [org for org, has in zip(page.orgs, have, strict=True) if not has], page.next_page_token

    async def _strays(self) -> list[str]:
        """Organisations that have no wallet and were charged for."""
        request = statements_pb2.ListStrayOrgsRequest()
        request.from_time.FromDatetime(datetime.now(UTC) - LOOKS_BACK)
        return list((await self._services.wallet.ListStrayOrgs(request, timeout=_STRIPE_TIMEOUT_S)).orgs)

    async def _publish(self, notices: Sequence[deliveries_pb2.Event]) -> int:
        """Tells of what was not told under its key; returns how many those were."""
        told = 0
        for start in range(0, len(notices), _PUBLISHED_AT_ONCE):
            request = deliveries_pb2.PublishEventsRequest(events=notices[start : start + _PUBLISHED_AT_ONCE])
            answer = await self._services.budget.PublishEvents(request, timeout=_RPC_TIMEOUT_S)
            for result in answer.results:
                told += result.outcome == deliveries_pb2.PUBLISH_OUTCOME_STORED
                if result.HasField("error"):
                    _log.error("a notice was refused", error=result.error.message[:300])
        return told


class _Asked:
    """The services as an audit asks them."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def budget(self, method: str, request: object, answer_s: float | None = None) -> Any:
        """Calls a method of the budget service."""
        return await getattr(self._services.budget, method)(request, timeout=answer_s or _RPC_TIMEOUT_S)

    async def metering(self, method: str, request: object, answer_s: float | None = None) -> Any:
        """Calls a method of the metering service."""
        return await getattr(self._services.metering, method)(request, timeout=answer_s or _RPC_TIMEOUT_S)

    async def wallet(self, method: str, request: object, answer_s: float | None = None) -> Any:
        """Calls a method of the wallet service."""
        return await getattr(self._services.wallet, method)(request, timeout=answer_s or _RPC_TIMEOUT_S)
