"""Asks the three services for their books, in the order that makes their answers comparable."""

import asyncio
from collections.abc import Iterable
from typing import Any, Protocol

from pursestrings.budget.v1 import budget_pb2
from pursestrings.cli.books import Books, Check, compare, leases_agree
from pursestrings.metering.v1 import metering_pb2
from pursestrings.type.v1 import type_pb2
from pursestrings.wallet.v1 import wallet_pb2

AUDIT_TIMEOUT_S = 30.0
"""How long one service may take to check its books."""
ANSWER_WAIT_S = 10.0
"""How long the answer to a lease operation may be on its way from wallet to budget."""
_ANSWER_POLL_S = 0.25
_POINTS_MAX = 10_000
_PAGE = 1_000


class Asked(Protocol):
    """The three services, each called by a method's name, with the seconds that an answer may take."""

    async def budget(self, method: str, request: object, answer_s: float | None = None) -> Any:
        """Calls a method of the budget service."""

    async def metering(self, method: str, request: object, answer_s: float | None = None) -> Any:
        """Calls a method of the metering service."""

    async def wallet(self, method: str, request: object, answer_s: float | None = None) -> Any:
        """Calls a method of the wallet service."""


async def run_audit(suite: Asked, org: str = "") -> list[Check]:
    """Asks the three services in the order that makes their answers comparable, and compares them."""
    wallet = await suite.wallet("Audit", wallet_pb2.AuditRequest(org=org), AUDIT_TIMEOUT_S)
    before = await suite.metering("Audit", metering_pb2.AuditRequest(org=org), AUDIT_TIMEOUT_S)
    budget = await suite.budget("Audit", budget_pb2.AuditRequest(org=org), AUDIT_TIMEOUT_S)
    after = await suite.metering("Audit", metering_pb2.AuditRequest(org=org), AUDIT_TIMEOUT_S)
    leases = await _leases_at(suite, org, wallet, budget)
    names = {lease.wallet for lease in (*wallet.leases, *budget.leases)}
    currencies = await _currencies(suite, names)
    return compare(Books(wallet, before, budget, leases, after, currencies))


async def _leases_at(
    suite: Asked, org: str, wallet: wallet_pb2.AuditResponse, budget: budget_pb2.AuditResponse
) -> list[type_pb2.LeaseTotals]:
    """Budget's totals at the wallet's numbers; waits for answers that are on their way to budget."""
    mine = [lease for lease in wallet.leases if lease.holder == budget.holder]
    points = [budget_pb2.LeasePoint(wallet=one.wallet, epoch=one.epoch, n=one.n) for one in mine]
    known = {(one.wallet, one.epoch, one.n): one for one in budget.leases}
    leases = [found for one in mine if (found := known.get((one.wallet, one.epoch, one.n))) is not None]
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + ANSWER_WAIT_S
    while not leases_agree(mine, leases, budget.holder).ok:
        leases = await _ask_leases(suite, org, points)
        if loop.time() >= deadline_s:
            break
        if not leases_agree(mine, leases, budget.holder).ok:
            await asyncio.sleep(_ANSWER_POLL_S)
    return leases


async def _ask_leases(suite: Asked, org: str, points: list[budget_pb2.LeasePoint]) -> list[type_pb2.LeaseTotals]:
    found: list[type_pb2.LeaseTotals] = []
    for start in range(0, len(points), _POINTS_MAX):
        request = budget_pb2.AuditRequest(org=org, lease_points=points[start : start + _POINTS_MAX])
        answer = await suite.budget("Audit", request, AUDIT_TIMEOUT_S)
        found.extend(answer.leases)
    return found


async def _currencies(suite: Asked, wallets: Iterable[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for org in sorted({"/".join(name.split("/")[:2]) for name in wallets}):
        request = wallet_pb2.ListWalletsRequest(parent=org, page_size=_PAGE)
        while True:
            page = await suite.wallet("ListWallets", request)
            found.update({wallet.name: wallet.currency_code for wallet in page.wallets})
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
    return found
