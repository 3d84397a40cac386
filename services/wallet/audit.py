"""Verifies the wallet's books in one snapshot."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import asyncpg

from pursestrings.type.v1 import type_pb2
from pursestrings.wallet.v1 import wallet_pb2 as pb
from services.kit.errors import Code, PurseError
from services.kit.money import MAX_NANOS
from services.wallet import convert
from services.wallet.store import audit as store

MoreChecks = Callable[[asyncpg.Connection, str | None], Awaitable[Sequence[type_pb2.AuditCheck]]]
"""Further checks in the same snapshot: (conn, org or None for all)."""

_WORDS: Final = {
    "I4.balances_equal_transfers": "every account's debits and credits equal the sums of its transfers",
    "I4.debits_equal_credits": "debits equal credits in every organisation and currency",
    "I4.ledger_is_append_only": "the service's role can neither change nor delete a row of the ledger",
    "I5.escrow_equals_leases": "every escrow account holds what its lease says: extended less captured, returned",
    "I5.lots_equal_accounts": "what is free, leased, spent, gone and expired of lots equals the accounts",
    "I4.moves_are_equal": "what moved out of wallets moved into others",
    "I8.money_back_is_in_the_ledger": "what is refunded and disputed is equal in ledger, charges and cases",
    "I5.tags_equal_lots": "what is tagged of every lot is what the lot says",
    "I5.tags_equal_leases": "what is tagged for every lease is in its escrow",
    "I2.lease_numbers_are_whole": "every lease's operations are stored from 1 to its last, whose totals it has",
    "I6.captures_equal_spent": "captures less reversals, their lines, and what is spent are equal",
    "I5.leases_in_step": "no lease is quarantined",
}


async def audit(pool: asyncpg.Pool, org: str | None, more_checks: MoreChecks) -> pb.AuditResponse:
    """Examines everything in one REPEATABLE READ snapshot.

    Args:
        pool: The wallet's database.
        org: The organisation's bare id; None for all.
        more_checks: Checks of recharges, run in the same snapshot.

    Raises:
        PurseError: More leases than one answer can hold.
    """
    async with pool.acquire() as conn, conn.transaction(isolation="repeatable_read", readonly=True):
        return await examine(conn, org, more_checks)


async def examine(conn: asyncpg.Connection, org: str | None, more_checks: MoreChecks) -> pb.AuditResponse:
    """What `audit` does, in the caller's transaction."""
    figures = await store.figures(conn, org)
    seen = (
        f"{figures.wallets} wallets, {figures.accounts} accounts, {figures.transfers} transfers, "
        f"{figures.grants} grants, {figures.leases} leases, {figures.operations} lease operations"
    )
    checks = [_check(name, await store.offenders(conn, name, org), seen) for name in store.CHECKS]
    checks += await more_checks(conn, org)
    leases = await store.lease_totals(conn, org)
    if len(leases) > store.LEASES_MAX:
        raise PurseError(
            Code.OUT_OF_RANGE,
            "AUDIT_TOO_LARGE",
            f"there are more than {store.LEASES_MAX} leases; audit one organisation at a time",
            field="org",
        )
    return pb.AuditResponse(
        checks=checks,
        leases=[convert.totals_message(lease.wallet, lease.holder, lease.totals) for lease in leases],
        captured=[_captured(total) for total in await store.captured(conn, org)],
        snapshot_time=convert.timestamp(figures.now),
    )


def _check(name: str, offenders: list[str], seen: str) -> type_pb2.AuditCheck:
    if not offenders:
        return type_pb2.AuditCheck(name=name, ok=True, detail=f"{_WORDS[name]} ({seen})")
    shown = offenders[: store.OFFENDERS_SHOWN]
    more = " and more" if len(offenders) > len(shown) else ""
    return type_pb2.AuditCheck(name=name, ok=False, detail=f"not so that {_WORDS[name]}: {'; '.join(shown)}{more}")


def _captured(total: store.Captured) -> type_pb2.CostTotals:
    if total.amount > MAX_NANOS:
        raise PurseError(
            Code.OUT_OF_RANGE,
            "AMOUNT_OUT_OF_RANGE",
            f"orgs/{total.org} has captured {total.amount} nanos of {total.currency}, past the limit of int64",
        )
    return type_pb2.CostTotals(
        org=f"orgs/{total.org}", currency_code=total.currency, events=total.calls, cost_nanos=total.amount
    )
