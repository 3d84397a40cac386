"""`purse audit`: proves the books of a running system."""

import asyncio
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from pursestrings.budget.v1 import budget_pb2
from pursestrings.cli.books import Books, Check, compare, leases_agree
from pursestrings.cli.connection import Suite, pages, with_suite
from pursestrings.cli.failures import CHECK_FAILED
from pursestrings.cli.options import Json, begin
from pursestrings.cli.output import Output
from pursestrings.metering.v1 import metering_pb2
from pursestrings.type.v1 import type_pb2
from pursestrings.wallet.v1 import wallet_pb2

AUDIT_TIMEOUT_S = 30.0
"""How long one service may take to check its books."""
ANSWER_WAIT_S = 10.0
"""How long the answer to a lease operation may be on its way from wallet to budget."""
_ANSWER_POLL_S = 0.25
_POINTS_MAX = 10_000
_WALLETS_MAX = 1_000_000


def audit(
    context: typer.Context,
    org: Annotated[str, typer.Option("--org", help="Only this organisation, orgs/ID. Default: all.")] = "",
    deep: Annotated[
        bool, typer.Option("--deep", help="Also read every event of metering again. Takes minutes for millions.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Prove the books of the running system; ends with 1 where something does not hold."""
    where, output = begin(context, as_json=as_json)
    checks = with_suite(where, lambda suite: run_audit(suite, org))
    if deep:
        checks += with_suite(where, lambda suite: run_deep_audit(suite, org))
    show(output, checks)
    if not all(check.ok for check in checks):
        raise typer.Exit(CHECK_FAILED)


async def run_audit(suite: Suite, org: str = "") -> list[Check]:
    """Asks the three services in the order that makes their answers comparable, and compares them."""
    wallet = await suite.wallet("Audit", wallet_pb2.AuditRequest(org=org), AUDIT_TIMEOUT_S)
    before = await suite.metering("Audit", metering_pb2.AuditRequest(org=org), AUDIT_TIMEOUT_S)
    budget = await suite.budget("Audit", budget_pb2.AuditRequest(org=org), AUDIT_TIMEOUT_S)
    after = await suite.metering("Audit", metering_pb2.AuditRequest(org=org), AUDIT_TIMEOUT_S)
    leases = await _leases_at(suite, org, wallet, budget)
    names = {lease.wallet for lease in (*wallet.leases, *budget.leases)}
    currencies = await _currencies(suite, names)
    return compare(Books(wallet, before, budget, leases, after, currencies))


async def run_deep_audit(suite: Suite, org: str = "") -> list[Check]:
    """Has metering read every event again, part after part; of each check the first part that fails is told."""
    found: dict[str, Check] = {}
    parts, token = 0, ""
    while token or not parts:
        request = metering_pb2.AuditRequest(org=org, deep=True, page_token=token)
        answer = await suite.metering("Audit", request, AUDIT_TIMEOUT_S)
        for check in answer.checks:
            name = f"metering.deep.{check.name}"
            if name not in found or found[name].ok:
                found[name] = Check(name, check.ok, check.detail)
        parts, token = parts + 1, answer.next_page_token
    return [Check(one.name, one.ok, f"{parts} parts" if one.ok else one.detail) for one in found.values()]


def show(output: Output, checks: list[Check]) -> None:
    """Prints what was verified."""
    ok = all(check.ok for check in checks)
    if output.as_json:
        output.object(as_object(checks))
        return
    output.table(("holds", "check", "detail"), [("yes" if c.ok else "NO", c.name, c.detail) for c in checks])
    failed = sum(not check.ok for check in checks)
    output.say(f"{len(checks)} checks hold" if ok else f"{failed} of {len(checks)} checks DO NOT HOLD")


def as_object(checks: list[Check]) -> dict[str, Any]:
    """What `--json` prints."""
    return {
        "ok": all(check.ok for check in checks),
        "checks": [{"name": check.name, "ok": check.ok, "detail": check.detail} for check in checks],
    }


async def _leases_at(
    suite: Suite, org: str, wallet: wallet_pb2.AuditResponse, budget: budget_pb2.AuditResponse
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


async def _ask_leases(suite: Suite, org: str, points: list[budget_pb2.LeasePoint]) -> list[type_pb2.LeaseTotals]:
    found: list[type_pb2.LeaseTotals] = []
    for start in range(0, len(points), _POINTS_MAX):
        request = budget_pb2.AuditRequest(org=org, lease_points=points[start : start + _POINTS_MAX])
        answer = await suite.budget("Audit", request, AUDIT_TIMEOUT_S)
        found.extend(answer.leases)
    return found


async def _currencies(suite: Suite, wallets: Iterable[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for org in sorted({"/".join(name.split("/")[:2]) for name in wallets}):
        request = wallet_pb2.ListWalletsRequest(parent=org)
        listed = await pages(
            lambda page: suite.wallet("ListWallets", page), request, lambda page: page.wallets, _WALLETS_MAX
        )
        found.update({wallet.name: wallet.currency_code for wallet in listed})
    return found
