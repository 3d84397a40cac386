"""What a mail says of a month that is over. Pure."""

from datetime import UTC, datetime
from typing import Any, Final

from services.kit import money

CLOSED: Final = "month.closed"
"""The type of the event."""
_WALLETS_MAX: Final = 8
_BUDGETS_MAX: Final = 8
_WALLET: Final = (
    ("opening", "{} at its start"),
    ("received", "{} came in"),
    ("spent", "{} spent"),
    ("returned", "{} refunded or disputed"),
    ("expired", "{} expired"),
    ("moved", "{} moved in, less what was moved out"),
    ("closing", "{} at its end"),
)
_ALWAYS: Final = frozenset({"opening", "received", "spent", "closing"})


def month(facts: dict[str, Any]) -> tuple[str, list[tuple[str, str]], str]:
    """The title, a row a wallet, and what became of budgets."""
    named = datetime.strptime(facts["month"], "%Y-%m").replace(tzinfo=UTC)
    rows = [(one["wallet"], _wallet(one)) for one in facts["wallets"][:_WALLETS_MAX]]
    if (more := facts["wallets_count"] - len(rows)) > 0:
        rows.append(("More wallets", str(more)))
    if facts["windows_count"]:
        said = (
            f"{facts['windows_count']}: {facts['exhausted_count']} used up, {facts['carrying_count']} left something "
            f"to the next, {facts['resuming_count']} let a paused subject go on"
        )
        rows.append(("Budget windows that ended", said))
    rows += [(one["budget"], _budget(one)) for one in facts["budgets"][:_BUDGETS_MAX]]
    return f"{named:%B %Y} has ended: {facts['subject']} ({facts['time_zone']})", rows, ""


def _wallet(one: dict[str, Any]) -> str:
    parts = [
        text.format(money.format_nanos(nanos, one["currency_code"]))
        for name, text in _WALLET
        if (nanos := int(one[f"{name}_nanos"])) or name in _ALWAYS
    ]
    return ", ".join(parts)


def _budget(one: dict[str, Any]) -> str:
    said = f"{_amount(one['spent'], one)} of {_amount(one['limit'], one)} used"
    if int(one["carried"]):
        said += f", {_amount(one['carried'], one)} carried over"
    return f"{said}, may spend again" if one["resumed"] else said


def _amount(value: str, one: dict[str, Any]) -> str:
    if one["limit_type"] == "COST":
        return money.format_nanos(int(value), one["currency_code"])
    return f"{int(value):,} {one['limit_type'].lower().replace('_', ' ')}"
