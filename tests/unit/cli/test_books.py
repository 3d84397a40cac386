"""The comparison of three services' books."""

import dataclasses

from pursestrings.budget.v1 import budget_pb2
from pursestrings.cli.books import Books, Check, compare
from pursestrings.metering.v1 import metering_pb2
from pursestrings.type.v1 import type_pb2
from pursestrings.wallet.v1 import wallet_pb2

ORG = "orgs/acme"
WALLET = f"{ORG}/wallets/main"


def totals(events: int, cost: int, *, pending: tuple[int, int] = (0, 0), unfunded: int = 0) -> type_pb2.CostTotals:
    return type_pb2.CostTotals(
        org=ORG,
        currency_code="USD",
        events=events,
        cost_nanos=cost,
        pending_events=pending[0],
        pending_cost_nanos=pending[1],
        unfunded_cost_nanos=unfunded,
    )


def lease(
    n: int, captured: int, *, extended: int = 1000, holder: str = "b1", reversed_: int = 0, epoch: int = 1
) -> type_pb2.LeaseTotals:
    return type_pb2.LeaseTotals(
        wallet=WALLET,
        holder=holder,
        epoch=epoch,
        n=n,
        extended_total_nanos=extended,
        captured_total_nanos=captured,
        reversed_total_nanos=reversed_,
    )


def books() -> Books:
    """Seven of ten events applied, two of three captures posted; everything holds."""
    return Books(
        wallet=wallet_pb2.AuditResponse(
            leases=[lease(5, 500)],
            captured=[totals(0, 500)],
            checks=[type_pb2.AuditCheck(name="I4.balances", ok=True, detail="fine")],
        ),
        metering_before=metering_pb2.AuditResponse(totals=[totals(9, 900, pending=(3, 300))]),
        budget=budget_pb2.AuditResponse(
            holder="b1",
            leases=[lease(6, 600)],
            totals=[totals(7, 710, unfunded=10)],
            uncaptured=[totals(0, 100)],
            checks=[type_pb2.AuditCheck(name="I1.no_oversell", ok=True)],
        ),
        budget_leases=[lease(5, 500)],
        metering_after=metering_pb2.AuditResponse(
            totals=[totals(10, 1000, pending=(1, 100))],
            checks=[type_pb2.AuditCheck(name="I2.once", ok=True)],
        ),
        currencies={WALLET: "USD"},
    )


def failed(given: Books) -> dict[str, str]:
    return {check.name: check.detail for check in compare(given) if not check.ok}


def test_books_that_agree_while_money_moves() -> None:
    found = compare(books())
    assert [
        "wallet.I4.balances",
        "budget.I1.no_oversell",
        "metering.I2.once",
        "suite.I5.leases_agree",
        "suite.I6.use_arrives",
        "suite.I6.use_is_paid",
        "suite.I6.captures_arrive",
    ] == [check.name for check in found]
    assert all(check.ok for check in found)
    assert Check("wallet.I4.balances", ok=True, detail="fine") == found[0]


def test_the_lag_is_told() -> None:
    details = {check.name: check.detail for check in compare(books())}
    assert "1 on their way (0.0000001)" in details["suite.I6.use_arrives"]
    assert "0.0000001 USD of it not yet written" in details["suite.I6.use_is_paid"]
    assert "0.0000001 USD written since or on its way" in details["suite.I6.captures_arrive"]


def test_a_services_own_failure_is_passed_on() -> None:
    given = books()
    given.budget.checks[0].ok = False
    assert {"budget.I1.no_oversell": ""} == failed(given)


def test_a_lease_that_differs_at_the_same_number() -> None:
    given = books()
    given.budget_leases[0].extended_total_nanos -= 1
    [(name, detail)] = failed(given).items()
    assert "suite.I5.leases_agree" == name
    assert f"{WALLET} at 5" in detail


def test_a_lease_operation_that_budget_does_not_know() -> None:
    given = books()
    given.budget_leases.clear()
    assert "knows no operation 5" in failed(given)["suite.I5.leases_agree"]


def test_a_lease_of_another_epoch_is_another_lease() -> None:
    given = books()
    given.budget_leases[0].epoch = 2
    assert {"suite.I5.leases_agree"} == failed(given).keys()


def test_another_holders_lease_is_not_compared() -> None:
    given = books()
    given.wallet.leases.append(lease(3, 50, holder="b2"))
    given.wallet.captured[0].cost_nanos += 50
    assert {} == failed(given)
    assert "1 belong to another holder" in compare(given)[3].detail


def test_use_that_is_lost_on_the_way() -> None:
    given = books()
    given.metering_before.totals[0].pending_events = 1
    assert {"suite.I6.use_arrives"} == failed(given).keys()


def test_use_that_is_applied_twice() -> None:
    given = books()
    given.budget.totals[0].events = 11
    assert "11 events applied" in failed(given)["suite.I6.use_arrives"]


def test_a_nano_that_is_lost_when_nothing_is_under_way() -> None:
    given = books()
    for answer in (given.metering_before, given.metering_after):
        answer.totals[0].CopyFrom(totals(7, 711))
    assert "0.00000071 applied, not within 0.000000711" in failed(given)["suite.I6.use_arrives"]


def corrected(cost: int, credit: int, *, pending: tuple[int, int, int] = (0, 0, 0)) -> type_pb2.CostTotals:
    """Seven events; `pending` is events, cost and credit."""
    found = totals(7, cost, pending=pending[:2])
    found.credit_nanos, found.pending_credit_nanos = credit, pending[2]
    return found


def test_a_credit_on_its_way_is_no_alarm() -> None:
    given = books()
    # 710 were rated and delivered, 10 of them are taken back by a correction that budget has not been told of.
    for answer in (given.metering_before, given.metering_after):
        answer.totals[0].CopyFrom(corrected(700, 10, pending=(1, -10, 10)))
    assert {} == failed(given)
    # It was taken back between the two looks at metering, told or not.
    given.metering_before.totals[0].CopyFrom(corrected(710, 0))
    assert {} == failed(given)
    given.budget.totals[0].cost_nanos = given.budget.totals[0].unfunded_cost_nanos + 690
    given.budget.uncaptured[0].cost_nanos = 90
    assert {} == failed(given)


def test_a_credit_that_was_told_is_looked_for() -> None:
    given = books()
    for answer in (given.metering_before, given.metering_after):
        answer.totals[0].CopyFrom(corrected(700, 10))
    assert "0.00000071 applied, not within 0.0000007 and 0.0000007" in failed(given)["suite.I6.use_arrives"]


def test_a_price_on_its_way_takes_no_event_away() -> None:
    given = books()
    unrated = type_pb2.CostTotals(org=ORG, events=1)
    given.metering_before.totals.append(unrated)
    given.budget.totals.append(unrated)
    # Its price moved it to dollars, and is on its way.
    given.metering_after.totals[0].CopyFrom(totals(11, 1005, pending=(2, 105)))
    assert {} == failed(given)


def test_use_of_an_organisation_that_budget_never_saw() -> None:
    given = books()
    given.metering_before.totals.append(type_pb2.CostTotals(org="orgs/b", currency_code="EUR", events=1))
    given.metering_after.totals.append(type_pb2.CostTotals(org="orgs/b", currency_code="EUR", events=1))
    assert "orgs/b: 0 events applied" in failed(given)["suite.I6.use_arrives"]


def test_a_nano_that_was_not_drawn() -> None:
    given = books()
    given.budget.uncaptured[0].cost_nanos -= 1
    assert "0.000000699 drawn, 0.0000007 applied" in failed(given)["suite.I6.use_is_paid"]


def test_a_reversal_counts_against_the_captures() -> None:
    given = books()
    given.budget.leases[0].reversed_total_nanos = 20
    given.budget.totals[0].cost_nanos -= 20
    given.metering_before.totals[0].pending_cost_nanos += 20
    assert {} == failed(given)


def test_a_capture_that_the_wallet_posted_by_itself() -> None:
    given = books()
    given.wallet.captured[0].cost_nanos += 1
    assert "leases say" in failed(given)["suite.I6.captures_arrive"]
    given = books()
    given.wallet.leases[0].captured_total_nanos = given.wallet.captured[0].cost_nanos = 601
    given.budget_leases[0].captured_total_nanos = 601
    assert "budget wrote only" in failed(given)["suite.I6.captures_arrive"]


def test_few_offenders_are_named_and_all_are_counted() -> None:
    given = books()
    for number in range(9):
        given.wallet.leases.append(lease(number + 10, 0))
    detail = failed(given)["suite.I5.leases_agree"]
    assert 5 == detail.count("knows no operation")
    assert "4 more" in detail


def test_books_hold_after_an_operator_has_ended_an_epoch() -> None:
    sound = books()
    # Of the ended epoch one capture of 100 never reached the wallet; the new one has no operation yet at the wallet.
    wallet = wallet_pb2.AuditResponse(
        leases=[lease(5, 500), lease(0, 0, extended=0, epoch=2)], captured=[totals(0, 500)]
    )
    budget = budget_pb2.AuditResponse(
        holder="b1", leases=[lease(6, 600)], totals=[totals(7, 710, unfunded=10)], uncaptured=[totals(0, 100)]
    )
    checks = compare(dataclasses.replace(sound, wallet=wallet, budget=budget, budget_leases=[]))
    assert [check for check in checks if not check.ok] == []


def test_an_estimate_drawn_for_use_without_a_price_is_paid_use() -> None:
    """Use without a price is in no cost, but its reservation's estimate was drawn and captured."""
    sound = books()
    budget = budget_pb2.AuditResponse()
    budget.CopyFrom(sound.budget)
    budget.uncaptured.append(totals(1, 40))
    del budget.uncaptured[:-1]
    waiting = sum(one.cost_nanos for one in sound.budget.uncaptured)
    budget.uncaptured[0].cost_nanos += waiting
    without = compare(dataclasses.replace(sound, budget=budget))
    budget.unrated_drawn.append(totals(1, 40))
    told = compare(dataclasses.replace(sound, budget=budget))

    assert ["suite.I6.use_is_paid"] == [check.name for check in without if not check.ok]
    assert [] == [check for check in told if not check.ok]
