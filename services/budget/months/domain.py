"""Pure rules of a month's end: which windows ended in it, what is worth naming, and what people are told."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from services.budget.domain.alerts import PAYLOAD_VERSION, rfc3339
from services.budget.domain.budgets import Budget, Dimension, key_text
from services.kit import money, windows
from services.kit.errors import invalid
from services.kit.windows import UnknownZoneError, Window, WindowKind, WindowSpec

CALENDAR_KINDS: Final = (WindowKind.MONTH, WindowKind.QUARTER)
"""Windows that a month's end may end."""
NAMED_MAX: Final = 100
"""The most windows that a report names."""
TOLD_MAX: Final = 20
"""The most windows, and the most wallets, that an event lists."""
_SAID_MAX: Final = 5


@dataclass(frozen=True, slots=True)
class Month:
    """A month of an organisation in a zone; `start_us` ≤ instant < `end_us`.

    Attributes:
        org: The bare id.
        label: `YYYY-MM`.
    """

    org: str
    zone: str
    label: str
    start_us: int
    end_us: int

    @property
    def key(self) -> str:
        """What makes its event one."""
        return f"month/{self.org}/{self.zone}/{self.label}"


@dataclass(frozen=True, slots=True)
class Ended:
    """A window that ended in the month; amounts are nano-units for COST, counts otherwise.

    Attributes:
        key: The window's.
        limit: In force at its end.
        carried: Into the window that followed.
        resumed: Whether a pause that it had made ended with it.
    """

    budget: Budget
    key: int
    end_us: int
    limit: int
    spent: int
    carried: int
    resumed: bool

    @property
    def exhausted(self) -> bool:
        """Whether the limit was used, or more."""
        return self.spent >= self.limit and self.spent > 0

    @property
    def rank(self) -> tuple[int, str]:
        """What is named first: lets a subject go on, was used up, left something."""
        return (0 if self.resumed else 1 if self.exhausted else 2, self.budget.name)


@dataclass(slots=True)
class Report:
    """What became of an organisation's budgets with the end of a month.

    Attributes:
        windows: How many ended.
        named: The most telling of them, see `NAMED_MAX`.
    """

    month: Month
    closed_us: int | None = None
    windows: int = 0
    exhausted: int = 0
    carrying: int = 0
    resuming: int = 0
    named: list[Ended] = field(default_factory=list)

    def add(self, found: Sequence[Ended]) -> None:
        """Counts windows in."""
        self.windows += len(found)
        self.exhausted += sum(one.exhausted for one in found)
        self.carrying += sum(one.carried > 0 for one in found)
        self.resuming += sum(one.resumed for one in found)
        telling = [one for one in found if one.resumed or one.exhausted or one.carried > 0]
        self.named = sorted([*self.named, *telling], key=lambda one: one.rank)[:NAMED_MAX]


@dataclass(frozen=True, slots=True)
class WalletMonth:
    """What a month did to a wallet, in nano-units; see the contract."""

    wallet: str
    currency: str
    opening: int
    received: int
    spent: int
    returned: int
    expired: int
    moved: int
    closing: int


def month_of(org: str, zone: str, label: str) -> Month:
    """A month by its label.

    Raises:
        PurseError: The label is none, or the zone unknown.
    """
    try:
        middle = datetime.strptime(f"{label}-15", "%Y-%m-%d").replace(tzinfo=UTC)
        window = windows.window_at(WindowSpec(WindowKind.MONTH, zone), windows.unix_us(middle))
    except UnknownZoneError as error:
        raise invalid("time_zone", str(error)) from None
    except ValueError:
        raise invalid("month", f"{label[:16]!r} is not written YYYY-MM") from None
    if window.key[:7] != label:
        raise invalid("month", f"{label[:16]!r} is not written YYYY-MM")
    return Month(org, zone, label, window.start_us, window.end_us)


def ended_window(budget: Budget, month: Month) -> Window | None:
    """The window of a budget by month or quarter that ended in the month; None: none did, or it did not count then.

    Of windows by month exactly one ends in each month, on whatever day it begins: the one that holds the month's start.
    """
    window = windows.window_at(budget.window, month.start_us)
    is_in = window.end_us <= month.end_us and budget.from_us < window.end_us <= budget.until_us
    return window if is_in else None


def summary(report: Report, wallets: Sequence[WalletMonth], count: int) -> str:
    """What people are told, in words, of `count` wallets of which these are the first."""
    month = report.month
    name = datetime.strptime(month.label, "%Y-%m").replace(tzinfo=UTC).strftime("%B %Y")
    said = [f"{name} ({month.zone}) has ended."]
    said += [
        f"{one.wallet}: {_text(one.opening, one)} at its start, {_text(one.received, one)} came in, "
        f"{_text(one.spent, one)} spent, {_text(one.closing, one)} at its end."
        for one in wallets[:_SAID_MAX]
    ]
    if (more := count - len(wallets[:_SAID_MAX])) > 0:
        said.append(f"{_many(more, 'more wallet')}.")
    if report.windows:
        said.append(
            f"{_many(report.windows, 'budget window')} ended: {report.exhausted} used up, {report.carrying} left "
            f"something to the next, {report.resuming} let a paused subject go on."
        )
    return " ".join(said)


def payload(report: Report, wallets: Sequence[WalletMonth], count: int, now_us: int) -> bytes:
    """The outbox row: JSON with amounts as strings, so that no reader rounds them; `count` as in `summary`."""
    month = report.month
    facts: dict[str, object] = {
        "version": PAYLOAD_VERSION,
        "type": "month.closed",
        "event": "STATEMENT",
        "subject": f"orgs/{month.org}",
        "key": month.key,
        "raised_at": rfc3339(now_us),
        "month": month.label,
        "time_zone": month.zone,
        "month_start": rfc3339(month.start_us),
        "month_end": rfc3339(month.end_us),
        "summary": summary(report, wallets, count),
        "wallets_count": count,
        "wallets": [
            {
                "wallet": one.wallet,
                "currency_code": one.currency,
                **{
                    f"{name}_nanos": str(getattr(one, name))
                    for name in ("opening", "received", "spent", "returned", "expired", "moved", "closing")
                },
            }
            for one in wallets[:TOLD_MAX]
        ],
        "windows_count": report.windows,
        "exhausted_count": report.exhausted,
        "carrying_count": report.carrying,
        "resuming_count": report.resuming,
        "budgets": [
            {
                "budget": one.budget.name,
                "limit_type": Dimension(one.budget.dimension).name,
                "currency_code": one.budget.currency,
                "window": key_text(one.key),
                "window_end": rfc3339(one.end_us),
                "limit": str(one.limit),
                "spent": str(one.spent),
                "carried": str(one.carried),
                "resumed": one.resumed,
            }
            for one in report.named[:TOLD_MAX]
        ],
    }
    return json.dumps(facts, separators=(",", ":"), sort_keys=True).encode()


def _text(amount: int, wallet: WalletMonth) -> str:
    return money.format_nanos(amount, wallet.currency)


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
