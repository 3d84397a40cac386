"""Organisations that charge what expires unsettled, and that block models without a price."""

from pathlib import Path
from typing import Any

import asyncpg
from google.protobuf.field_mask_pb2 import FieldMask

from pursestrings.budget.v1 import budget_pb2
from services.budget.store import retention
from tests.integration.budget.test_corrections import correction, totals
from tests.integration.budget.test_expiry import age, report, state, sweep
from tests.integration.budget.test_with_wallet import agree, balance, both, eventually
from tests.support.budget import NANOS, ORG, alerts, refusal_of, rows, running_budget, store_rates, usage

EXPIRED, CHARGED = budget_pb2.RESERVATION_STATE_EXPIRED, budget_pb2.RESERVATION_STATE_CHARGED
ALLOW = budget_pb2.OUTCOME_ALLOW


async def set_org(budget: Any, **fields: Any) -> None:
    settings = budget_pb2.OrgSettings(org=ORG, **fields)
    mask = FieldMask(paths=list(fields))
    await budget.admin.UpdateOrgSettings(budget_pb2.UpdateOrgSettingsRequest(settings=settings, update_mask=mask))


async def expire_all(budget: Any) -> None:
    await age(budget)
    await report(budget, "relay")
    await sweep(budget)


async def used(budget: Any, id_: str = "org") -> tuple[int, int]:
    use = await budget.use(f"{ORG}/budgets/{id_}")
    return use.spent_amount, use.reserved_amount


async def test_what_nobody_settles_is_charged_until_usage_says_otherwise(database: Any, tmp_path: Path) -> None:
    async with both(database, tmp_path, 100 * NANOS) as (budget, wallet):
        await set_org(budget, expired_hold=budget_pb2.EXPIRED_HOLD_CHARGE_ESTIMATE)
        await budget.create(ORG, "org", thresholds_percent=[50])
        await budget.create(ORG, "requests", dimension=budget_pb2.DIMENSION_REQUESTS, limit_amount=10)
        held = await budget.reserve(cost=6 * NANOS)
        partly = await budget.reserve(cost=2 * NANOS)
        await budget.apply(usage(cost=NANOS, reservation=partly.reservation, final=False))
        await expire_all(budget)
        assert (await state(budget, held.reservation), await state(budget, partly.reservation)) == (CHARGED, EXPIRED)
        assert (await used(budget), await used(budget, "requests")) == ((7 * NANOS, 0), (1, 0))
        assert "budget.threshold_reached" in {one["type"] for one in await alerts(budget.database)}
        request = budget_pb2.ListReservationsRequest(parent=ORG, include_descendants=True, states=[CHARGED])
        assert [one.name for one in (await budget.admin.ListReservations(request)).reservations] == [held.reservation]
        # The charge is no event and no rated cost; the wallet pays it as an estimate.
        assert await totals(budget) == (1, NANOS, 0)
        drawn = (await budget.audit()).unrated_drawn
        assert [(one.events, one.cost_nanos) for one in drawn] == [(1, 6 * NANOS)]

        async def paid(nanos: int) -> bool:
            return bool((await balance(wallet)).spent_nanos == nanos)

        await eventually(lambda: paid(7 * NANOS))
        await agree(budget, wallet)
        # A release is too late, another expiry finds nothing, and an extension is refused.
        released = await budget.admin.Release(budget_pb2.ReleaseRequest(name=held.reservation))
        assert released.reservation.state == CHARGED
        await expire_all(budget)
        late = usage("late", cost=2 * NANOS, reservation=held.reservation)
        (answer,) = await budget.apply(late)
        assert (answer.applied.drawn_nanos, answer.applied.unreserved) == (2 * NANOS, True)
        (again,) = await budget.apply(late)
        assert again.applied.duplicate
        assert (await state(budget, held.reservation), await used(budget)) == (EXPIRED, (3 * NANOS, 0))
        assert await used(budget, "requests") == (1, 0)
        assert await totals(budget) == (2, 3 * NANOS, 0)
        assert list((await budget.audit()).unrated_drawn) == []
        await eventually(lambda: paid(3 * NANOS))
        await agree(budget, wallet)


async def test_a_charge_goes_over_to_usage_without_a_price_and_from_there_to_the_price(
    database: Any, tmp_path: Path
) -> None:
    async with running_budget(database("budget"), tmp_path, sweep_interval_s=60) as budget:
        await set_org(budget, expired_hold=budget_pb2.EXPIRED_HOLD_CHARGE_ESTIMATE)
        await budget.create(ORG, "org")
        held = await budget.reserve(cost=6 * NANOS)
        await expire_all(budget)
        event = usage("late", cost=None, reservation=held.reservation)
        await budget.apply(event)
        assert (await used(budget), await totals(budget, "")) == ((6 * NANOS, 0), (1, 0, 1))
        await budget.apply(correction(event, "price", NANOS))
        assert (await used(budget), await totals(budget)) == ((NANOS, 0), (1, NANOS, 0))


async def test_a_charged_reservation_is_not_forgotten_and_the_audit_looks_at_it(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path, sweep_interval_s=60) as budget:
        await set_org(budget, expired_hold=budget_pb2.EXPIRED_HOLD_CHARGE_ESTIMATE)
        await budget.create(ORG, "org")
        held = await budget.reserve(cost=6 * NANOS)
        await expire_all(budget)
        connection = await asyncpg.connect(budget.database.service_dsn)
        assert await retention.forget_reservations(connection, 2**62, 10) == 0
        assert await retention.trim_corrections(connection, 2**62, 10) == 0
        await budget.apply(usage(cost=NANOS, reservation=held.reservation))
        assert await retention.trim_corrections(connection, 2**62, 10) == 0
        await budget.audit()
        await rows(budget.database, "UPDATE reservations SET state = 5")
        found = await budget.admin.Audit(budget_pb2.AuditRequest())
        assert [one.name for one in found.checks if not one.ok] == ["I3.charges_stand_while_nothing_settles"]
        await rows(budget.database, "UPDATE reservations SET state = 4")
        assert await retention.forget_reservations(connection, 2**62, 10) == 1
        await connection.close()


async def test_models_without_a_price_are_denied_where_the_organisation_blocks_them(
    database: Any, tmp_path: Path
) -> None:
    base = database("budget")
    await store_rates(base)
    async with running_budget(base, tmp_path) as budget:
        unpriced: dict[str, Any] = {"model": "no-such-model", "input_tokens": 1, "max_output_tokens": 1}
        assert (await refusal_of(budget.reserve(cost=None, **unpriced))).reason == "UNKNOWN_MODEL"
        before = await budget.reserve(cost=NANOS, request_id="before", **unpriced)
        assert before.outcome == ALLOW
        await set_org(budget, unrated_model=budget_pb2.UNRATED_MODEL_BLOCK)
        for cost in (None, NANOS):
            denied = await budget.reserve(cost=cost, **unpriced)
            assert denied.denied_reason == budget_pb2.DENIED_REASON_UNRATED_MODEL
        assert (await budget.reserve(cost=NANOS, request_id="before", **unpriced)).reservation == before.reservation
        assert (await budget.reserve(cost=NANOS)).outcome == ALLOW
        assert (await budget.reserve(cost=None, **(unpriced | {"model": "claude-sonnet-4-5"}))).outcome == ALLOW
        # What was used is recorded whatever the policy.
        (answer,) = await budget.apply(usage(cost=None, model="no-such-model", reservation=before.reservation))
        assert not answer.applied.unreserved
        await set_org(budget, unrated_model=budget_pb2.UNRATED_MODEL_ALLOW)
        assert (await budget.reserve(cost=NANOS, **unpriced)).outcome == ALLOW
