"""Compares the books of the three services: pure rules over what their audits answered.

The services are asked one after the other while money moves, so totals are not compared as if they were of
one moment: leases are compared at the same operation number, and use as a chain of inequalities that holds
at every speed and becomes an equality when nothing is under way.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pursestrings._money import format_nanos
from pursestrings.budget.v1 import budget_pb2
from pursestrings.metering.v1 import metering_pb2
from pursestrings.type.v1 import type_pb2
from pursestrings.wallet.v1 import wallet_pb2

OFFENDERS_MAX = 5
"""How many offenders a check names."""
Key = tuple[str, str]
"""Organisation and currency."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was verified."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Books:
    """What the services answered, in the order of asking.

    Attributes:
        wallet: The wallet's audit, the first.
        metering_before: Metering's, before budget's.
        budget: Budget's, with its leases at their last numbers.
        budget_leases: Budget's lease totals at the numbers that the wallet had.
        metering_after: Metering's once more.
        currencies: Wallet name to currency, of all wallets that have a lease.
    """

    wallet: wallet_pb2.AuditResponse
    metering_before: metering_pb2.AuditResponse
    budget: budget_pb2.AuditResponse
    budget_leases: list[type_pb2.LeaseTotals]
    metering_after: metering_pb2.AuditResponse
    currencies: Mapping[str, str]


def compare(books: Books) -> list[Check]:
    """Every check, the services' own first."""
    own = [
        Check(f"{service}.{check.name}", check.ok, check.detail)
        for service, answer in (
            ("wallet", books.wallet),
            ("budget", books.budget),
            ("metering", books.metering_after),
        )
        for check in answer.checks
    ]
    return [
        *own,
        leases_agree(books.wallet.leases, books.budget_leases, books.budget.holder),
        use_arrives(books.metering_before, books.budget, books.metering_after),
        use_is_paid(books.budget, books.currencies),
        captures_arrive(books.wallet, books.budget, books.currencies),
    ]


def leases_agree(wallet: Iterable[type_pb2.LeaseTotals], budget: Iterable[type_pb2.LeaseTotals], holder: str) -> Check:
    """I5, I6: at the same number both sides of a lease have moved the same money.

    Epochs that an operator ended by force are not compared: what was on its way then is told by an alert.
    """
    wallet = list(wallet)
    newest: dict[tuple[str, str], int] = {}
    for lease in wallet:
        key = (lease.wallet, lease.holder)
        newest[key] = max(newest.get(key, 0), lease.epoch)
    theirs = {(lease.wallet, lease.epoch, lease.n): lease for lease in budget}
    wrong, compared, others = [], 0, 0
    for lease in wallet:
        if lease.holder != holder:
            others += 1
            continue
        if lease.epoch < newest[lease.wallet, lease.holder] or not lease.n:
            continue
        compared += 1
        other = theirs.get((lease.wallet, lease.epoch, lease.n))
        if other is None:
            wrong.append(f"{lease.wallet}: budget knows no operation {lease.n} of epoch {lease.epoch}")
        elif _moved(other) != _moved(lease):
            wrong.append(f"{lease.wallet} at {lease.n}: wallet {_moved(lease)}, budget {_moved(other)}")
    told = f"{compared} leases compared at the wallet's last operation"
    if others:
        told += f"; {others} belong to another holder than {holder}"
    return _check("suite.I5.leases_agree", wrong, told)


def use_arrives(
    before: metering_pb2.AuditResponse, budget: budget_pb2.AuditResponse, after: metering_pb2.AuditResponse
) -> Check:
    """I6: what was rated less what is on its way ≤ what is applied ≤ what is rated now.

    Corrections may take away, so a cost is two sums that only grow: what was added, and what was taken away. Events are
    compared over all currencies, since the price of an unrated one takes it from one to another.
    """
    low, applied, high = _by_key(before.totals), _by_key(budget.totals), _by_key(after.totals)
    keys = sorted(low.keys() | applied.keys() | high.keys())
    wrong = []
    for org in sorted({org for org, _ in keys}):
        least, now, most = (_events_of(org, totals) for totals in (low, applied, high))
        if not least.events - least.pending_events <= now.events <= most.events:
            wrong.append(
                f"{org}: {now.events} events applied, "
                f"not within {least.events - least.pending_events} and {most.events}"
            )
    for key in keys:
        least, now, most = low.get(key, _NOTHING), applied.get(key, _NOTHING), high.get(key, _NOTHING)
        low_nanos = _delivered(least) - most.credit_nanos
        high_nanos = _added(most) - (least.credit_nanos - least.pending_credit_nanos)
        if not low_nanos <= now.cost_nanos <= high_nanos:
            wrong.append(
                f"{_text(key)}: {format_nanos(now.cost_nanos)} applied, not within "
                f"{format_nanos(low_nanos)} and {format_nanos(high_nanos)}"
            )
    pending_events = sum(total.pending_events for total in after.totals)
    pending_nanos = sum(total.pending_cost_nanos for total in after.totals)
    events = sum(total.events for total in after.totals)
    lag = f"{pending_events} on their way ({format_nanos(pending_nanos)})" if pending_events else "none on their way"
    return _check("suite.I6.use_arrives", wrong, f"{events} events rated, {lag}")


def _events_of(org: str, totals: Mapping[Key, type_pb2.CostTotals]) -> type_pb2.CostTotals:
    own = [total for (of, _), total in totals.items() if of == org]
    return type_pb2.CostTotals(
        events=sum(total.events for total in own), pending_events=sum(total.pending_events for total in own)
    )


def _added(total: type_pb2.CostTotals) -> int:
    """The cost as it would be if no correction had taken anything away."""
    return total.cost_nanos + total.credit_nanos


def _delivered(total: type_pb2.CostTotals) -> int:
    """What was added and is no longer on its way."""
    return _added(total) - total.pending_cost_nanos - total.pending_credit_nanos


def use_is_paid(budget: budget_pb2.AuditResponse, currencies: Mapping[str, str]) -> Check:
    """I6: captured + not yet captured = applied − what no wallet pays + estimates drawn for events without a price.

    All of one snapshot, so to the nano.
    """
    captured = _captured(budget.leases, currencies)
    waiting = {key: totals.cost_nanos for key, totals in _by_key(budget.uncaptured).items()}
    applied = {key: totals.cost_nanos - totals.unfunded_cost_nanos for key, totals in _by_key(budget.totals).items()}
    for key, totals in _by_key(budget.unrated_drawn).items():
        applied[key] = applied.get(key, 0) + totals.cost_nanos
    wrong = []
    for key in sorted(captured.keys() | waiting.keys() | applied.keys()):
        paid, due = captured.get(key, 0) + waiting.get(key, 0), applied.get(key, 0)
        if paid != due:
            wrong.append(f"{_text(key)}: {format_nanos(paid)} drawn, {format_nanos(due)} applied and funded")
    told = f"{_sums(applied)} applied and funded, {_sums(waiting)} of it not yet written as captures"
    return _check("suite.I6.use_is_paid", wrong, told)


def captures_arrive(
    wallet: wallet_pb2.AuditResponse, budget: budget_pb2.AuditResponse, currencies: Mapping[str, str]
) -> Check:
    """I6: the wallet posted what its leases say, and no more than budget wrote; the rest is on its way."""
    posted = {key: totals.cost_nanos for key, totals in _by_key(wallet.captured).items()}
    by_lease = _captured(wallet.leases, currencies)
    mine = [lease for lease in wallet.leases if lease.holder == budget.holder]
    arrived, written = _captured(mine, currencies), _captured(budget.leases, currencies)
    wrong = [
        f"{_text(key)}: {format_nanos(posted.get(key, 0))} posted, leases say {format_nanos(by_lease.get(key, 0))}"
        for key in sorted(posted.keys() | by_lease.keys())
        if posted.get(key, 0) != by_lease.get(key, 0)
    ]
    wrong += [
        f"{_text(key)}: {format_nanos(nanos)} posted, budget wrote only {format_nanos(written.get(key, 0))}"
        for key, nanos in sorted(arrived.items())
        if nanos > written.get(key, 0)
    ]
    on_their_way = {key: nanos - arrived.get(key, 0) for key, nanos in written.items()}
    return _check(
        "suite.I6.captures_arrive", wrong, f"{_sums(posted)} posted, {_sums(on_their_way)} written since or on its way"
    )


def _moved(lease: type_pb2.LeaseTotals) -> tuple[int, int, int, int]:
    return (
        lease.extended_total_nanos,
        lease.captured_total_nanos,
        lease.returned_total_nanos,
        lease.reversed_total_nanos,
    )


_NOTHING = type_pb2.CostTotals()


def _by_key(totals: Iterable[type_pb2.CostTotals]) -> dict[Key, type_pb2.CostTotals]:
    return {(one.org, one.currency_code): one for one in totals}


def _captured(leases: Iterable[type_pb2.LeaseTotals], currencies: Mapping[str, str]) -> dict[Key, int]:
    sums: dict[Key, int] = defaultdict(int)
    for lease in leases:
        org = "/".join(lease.wallet.split("/")[:2])
        sums[org, currencies[lease.wallet]] += lease.captured_total_nanos - lease.reversed_total_nanos
    return dict(sums)


def _sums(by_key: Mapping[Key, int]) -> str:
    sums: dict[str, int] = defaultdict(int)
    for (_, code), nanos in by_key.items():
        sums[code] += nanos
    shown = [f"{format_nanos(nanos)} {code}".rstrip() for code, nanos in sorted(sums.items()) if nanos or code]
    return " and ".join(shown) or "0"


def _text(key: Key) -> str:
    return f"{key[0]} {key[1]}".rstrip()


def _check(name: str, wrong: list[str], told: str) -> Check:
    if not wrong:
        return Check(name, ok=True, detail=told)
    more = f"; {len(wrong) - OFFENDERS_MAX} more" if len(wrong) > OFFENDERS_MAX else ""
    return Check(name, ok=False, detail="; ".join(wrong[:OFFENDERS_MAX]) + more)
