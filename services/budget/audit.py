"""Verifies budget's books in one snapshot, and tells the totals that other services compare with."""

from typing import Any

import asyncpg

from pursestrings.budget.v1 import budget_pb2
from pursestrings.type.v1 import type_pb2
from services.budget import wire
from services.budget.store.audit import CHECKS, Offenders, Snapshot
from services.kit.errors import invalid

_POINTS_MAX = 10_000


class Audit:
    """What the Audit method does.

    Args:
        pool: Budget's database.
    """

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def run(self, request: budget_pb2.AuditRequest) -> budget_pb2.AuditResponse:
        """Every check and every total, of one instant."""
        if len(request.lease_points) > _POINTS_MAX:
            raise invalid("lease_points", f"are {len(request.lease_points)}; at most {_POINTS_MAX} are compared")
        org = wire.subject_of(request.org, "org").org if request.org else None
        for point in request.lease_points:
            wire.check_text(point.wallet, "lease_points.wallet")
        points = [(point.wallet, point.epoch, point.n) for point in request.lease_points]
        async with (
            self._pool.acquire() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            snapshot = Snapshot(connection, org)
            await snapshot.begin()
            figures = await snapshot.figures()
            seen = (
                f"{figures['counters']} counters, {figures['open_holds']} open holds, "
                f"{figures['applied'] + figures['trimmed']} applied events, {figures['leases']} leases"
            )
            response = budget_pb2.AuditResponse(holder=await snapshot.holder())
            wire.set_time(response.snapshot_time, figures["now_us"])
            for name in CHECKS:
                response.checks.append(_check(name, await snapshot.offenders(name), seen))
            response.totals.extend(_total(row) for row in await snapshot.totals())
            response.uncaptured.extend(_drawn(row) for row in await snapshot.uncaptured())
            response.unrated_drawn.extend(_drawn(row) for row in await snapshot.unrated_drawn())
            response.leases.extend(_lease(row, response.holder) for row in await snapshot.lease_points(points))
        return response


def _check(name: str, offenders: Offenders, seen: str) -> type_pb2.AuditCheck:
    words = CHECKS[name][1]
    if not offenders.count:
        return type_pb2.AuditCheck(name=name, ok=True, detail=f"{words} ({seen})")
    more = offenders.count - len(offenders.names)
    shown = "; ".join(offenders.names) + (f" and {more} more" if more else "")
    return type_pb2.AuditCheck(name=name, ok=False, detail=f"not so that {words}: {shown}")


def _total(row: Any) -> type_pb2.CostTotals:
    return type_pb2.CostTotals(
        org=f"orgs/{row['org']}",
        currency_code=row["currency"],
        events=row["events"],
        cost_nanos=int(row["cost_nanos"]),
        unrated_events=row["unrated"],
        unfunded_cost_nanos=int(row["unfunded_nanos"]),
    )


def _lease(row: Any, holder: str) -> type_pb2.LeaseTotals:
    return type_pb2.LeaseTotals(
        wallet=row["wallet"],
        holder=holder,
        epoch=row["epoch"],
        n=row["n"],
        extended_total_nanos=row["extended"],
        captured_total_nanos=row["captured_total"],
        returned_total_nanos=row["returned_total"],
        reversed_total_nanos=row["reversed_total"],
    )


def _drawn(row: asyncpg.Record) -> type_pb2.CostTotals:
    return type_pb2.CostTotals(
        org=f"orgs/{row['org']}", currency_code=row["currency"], events=int(row["calls"]), cost_nanos=int(row["nanos"])
    )
