"""Which budgets apply to a spend, and which wallet pays: compiled from an organisation's definitions and remembered."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import translate
from functools import lru_cache
from typing import Final, TypeVar

from services.budget.domain.approvals import ApprovalPolicy, ApprovalRule, rule_of
from services.budget.domain.budgets import Budget, Dimension, OnExceed, Selector
from services.budget.domain.model import Call, WalletState
from services.budget.domain.org_settings import NO_SETTINGS, OrgSettings
from services.budget.domain.pauses import Pause
from services.kit.subject import Subject

T = TypeVar("T")

_PLANS_MAX: Final = 65_536
"""The most plans remembered an organisation; a full memo starts anew."""


@lru_cache(maxsize=4096)
def glob(pattern: str) -> re.Pattern[str]:
    """A pattern of model names, made ready."""
    return re.compile(translate(pattern))


def matches(selector: Selector, call: Call, *, actual: bool) -> bool:
    """Whether the budget counts the call.

    An attribute that an estimate does not give matches, since it may turn out to; one that a call that really happened
    does not have matches nothing.
    """
    return (
        _among(selector.providers, call.provider, actual=actual)
        and _like(selector.models, call.model, actual=actual)
        and _among(selector.operations, call.operation, actual=actual)
        and _labelled(selector.labels, call.labels, actual=actual)
    )


def _among(wanted: tuple[str, ...], value: str, *, actual: bool) -> bool:
    return not wanted or (value in wanted if value else not actual)


def _like(patterns: tuple[str, ...], value: str, *, actual: bool) -> bool:
    if not patterns or not value:
        return not patterns or not actual
    return any(glob(pattern).match(value) for pattern in patterns)


def _labelled(wanted: tuple[tuple[str, str], ...], labels: tuple[tuple[str, str], ...], *, actual: bool) -> bool:
    have = dict(labels)
    return all(have.get(key) == value or (key not in have and not actual) for key, value in wanted)


Plan = tuple[Budget, ...]


class Policy:
    """One organisation's budgets at one epoch, immutable but for what it remembers.

    Attributes:
        epoch: The org row's epoch that these definitions belong to.
        settings: What holds for all of it.
        by_no: Budgets by number.
    """

    def __init__(
        self,
        org: str,
        epoch: int,
        budgets: Iterable[Budget],
        *,
        settings: OrgSettings = NO_SETTINGS,
        pauses: Iterable[Pause] = (),
        approvals: Iterable[ApprovalPolicy] = (),
    ) -> None:
        self.org = org
        self.epoch = epoch
        self.settings = settings
        self.by_no = {budget.no: budget for budget in budgets}
        self._by_subject: dict[str, list[Budget]] = {}
        for budget in sorted(self.by_no.values(), key=lambda b: b.no):
            self._by_subject.setdefault(budget.subject, []).append(budget)
        self._plans: dict[object, Plan] = {}
        self._paused: dict[str, list[Pause]] = {}
        for pause in sorted(pauses, key=lambda p: p.name):
            self._paused.setdefault(pause.subject, []).append(pause)
        self._approvals = {policy.subject: policy for policy in approvals}
        self._pausing: dict[str, list[int]] = {}
        for budget in self.by_no.values():
            if budget.on_exceed is OnExceed.PAUSE:
                self._pausing.setdefault(budget.subject, []).append(budget.no)

    def changed(
        self,
        epoch: int,
        live: Iterable[Budget],
        gone: Iterable[int],
        *,
        settings: OrgSettings,
        pauses: Iterable[Pause],
        approvals: Iterable[ApprovalPolicy] = (),
    ) -> "Policy":
        """The policy at a later epoch. This one stays as it is; what has not changed is shared.

        Args:
            epoch: The later one.
            live: Budgets that are new or have changed, those that have not among them do no harm.
            gone: Numbers of deleted budgets, known here or not.
            settings: What holds for all of it now.
            pauses: Those by persons that have begun or ended since.
            approvals: When to ask, where that has changed since.
        """
        after = Policy(self.org, epoch, (), settings=settings)
        became, ended = {budget.no: budget for budget in live}, self.by_no.keys() & set(gone)
        if not became and not ended:
            # What is remembered follows from the budgets alone.
            after.by_no, after._plans = self.by_no, self._plans
            after._by_subject, after._pausing = self._by_subject, self._pausing
        else:
            after.by_no = self.by_no | became
            numbers: dict[str, set[int]] = {}
            for budget in became.values():
                numbers.setdefault(budget.subject, set()).add(budget.no)
            for no in ended:
                numbers.setdefault(after.by_no.pop(no).subject, set())
            after._by_subject, after._pausing = dict(self._by_subject), dict(self._pausing)
            for subject, changed in numbers.items():
                changed |= {budget.no for budget in self._by_subject.get(subject, ())}
                kept = [after.by_no[no] for no in sorted(changed) if no in after.by_no]
                _put(after._by_subject, subject, kept)
                _put(after._pausing, subject, [budget.no for budget in kept if budget.on_exceed is OnExceed.PAUSE])
        after._approvals = self._approvals | {policy.subject: policy for policy in approvals}
        after._paused = dict(self._paused)
        for pause in pauses:
            lasting = [one for one in after._paused.get(pause.subject, ()) if one.name != pause.name]
            if pause.ended_us is None:
                lasting = sorted([*lasting, pause], key=lambda p: p.name)
            _put(after._paused, pause.subject, lasting)
        return after

    def plan(self, subject: Subject, currency: str, call: Call, *, actual: bool) -> Plan:
        """The budgets that count a call of this subject, from the organisation down.

        Args:
            subject: Who spends.
            currency: Of the cost: COST budgets of other currencies do not count it. Empty for an estimate without a
                cost, which all COST budgets may turn out to count.
            call: What selectors match.
            actual: Whether the call really happened; see `matches`.
        """
        path = (subject.name, currency, actual)
        found = self._plans.get(path)
        if found is None:
            if self._is_selective(subject):
                path = (subject.name, currency, actual, call)  # type: ignore[assignment]
                found = self._plans.get(path)
            if found is None:
                found = self._compile(subject, currency, call, actual=actual)
                if len(self._plans) >= _PLANS_MAX:
                    self._plans.clear()
                self._plans[path] = found
        return found

    def paused(self, subject: Subject) -> tuple[Pause, ...]:
        """The pauses by persons of this subject and of those above it."""
        if not self._paused:
            return ()
        return tuple(pause for name in subject.ancestors for pause in self._paused.get(name, ()))

    def pausing(self, subject: Subject) -> tuple[int, ...]:
        """Numbers of the budgets of this subject and of those above it that pause, whatever calls they count."""
        if not self._pausing:
            return ()
        return tuple(no for name in subject.ancestors for no in self._pausing.get(name, ()))

    def approval_rule(self, subject: Subject, currency: str) -> ApprovalRule | None:
        """What the policies of this subject and of those above it say of spends in a currency; None: there are none."""
        if not self._approvals:
            return None
        found = [self._approvals[name] for name in subject.ancestors if name in self._approvals]
        return rule_of(found, currency) if found else None

    def _is_selective(self, subject: Subject) -> bool:
        return any(b.selector is not None for name in subject.ancestors for b in self._by_subject.get(name, ()))

    def _compile(self, subject: Subject, currency: str, call: Call, *, actual: bool) -> Plan:
        return tuple(
            budget
            for name in subject.ancestors
            for budget in self._by_subject.get(name, ())
            if _counts_currency(budget, currency, actual=actual)
            and (budget.selector is None or matches(budget.selector, call, actual=actual))
        )


def _put(by_subject: dict[str, list[T]], subject: str, values: list[T]) -> None:
    if values:
        by_subject[subject] = values
    else:
        by_subject.pop(subject, None)


def _counts_currency(budget: Budget, currency: str, *, actual: bool) -> bool:
    return budget.dimension != Dimension.COST or budget.currency == currency or not (currency or actual)


@dataclass(slots=True, frozen=True)
class WalletRef:
    """A wallet, as the directory knows it."""

    name: str
    subject: str
    currency: str
    state: WalletState


@dataclass(slots=True)
class Directory:
    """The wallets of one organisation at one version.

    Attributes:
        version: As the wallet service counts it.
        wallets: Closed ones included.
    """

    org: str
    version: int
    wallets: tuple[WalletRef, ...] = ()
    _by_subject: dict[str, list[WalletRef]] = field(init=False, default_factory=dict)
    _memo: dict[tuple[str, str], WalletRef | None] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        for wallet in sorted(self.wallets, key=lambda wallet: wallet.name):
            if wallet.state != WalletState.CLOSED:
                self._by_subject.setdefault(wallet.subject, []).append(wallet)

    def nearest(self, subject: Subject, currency: str) -> WalletRef | None:
        """The nearest wallet that is not closed, in the currency, on the way to the root; empty: any currency.

        A frozen or empty one does not fall through to its parent. Of several at one subject, the first by name.
        """
        if not self._by_subject:
            return None
        key = (subject.name, currency)
        if key in self._memo:
            return self._memo[key]
        found = self._search(subject, currency)
        if len(self._memo) >= _PLANS_MAX:
            self._memo.clear()
        self._memo[key] = found
        return found

    def _search(self, subject: Subject, currency: str) -> WalletRef | None:
        for name in reversed(subject.ancestors):
            for wallet in self._by_subject.get(name, ()):
                if not currency or wallet.currency == currency:
                    return wallet
        return None
