"""A statement as text: CSV for spreadsheets, a page to print."""

import csv
import io
from functools import cache
from pathlib import Path
from typing import Final

import jinja2

from pursestrings.wallet.v1 import statements_pb2 as pb
from services.kit import money

_TEMPLATES: Final = Path(__file__).parent
_ROWS: Final = (
    ("opening", "Opening balance", "opening_nanos", 1),
    ("paid", "Recharges and top-ups", "paid_nanos", 1),
    ("granted", "Grants", "granted_nanos", 1),
    ("promotional", "Promotional grants", "promotional_nanos", 1),
    ("moved_in", "Moved in", "moved_in_nanos", 1),
    ("moved_out", "Moved out", "moved_out_nanos", -1),
    ("spent", "Spent", "spent_nanos", -1),
    ("refunded", "Refunded", "refunded_nanos", -1),
    ("disputed", "Disputed", "disputed_nanos", -1),
    ("expired", "Expired", "expired_nanos", -1),
    ("closing", "Closing balance", "closing_nanos", 1),
)


def to_csv(statement: pb.Statement) -> str:
    """One row a figure and one a line of spend; amounts are exact decimals, what goes out below 0."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("wallet", "month", "line", "provider", "model", "use_month", "calls", "amount", "currency"))
    head = (_safe(statement.wallet), statement.month)
    for key, _, field, sign in _ROWS:
        writer.writerow((*head, key, "", "", "", "", *_amount(sign * getattr(statement, field), statement)))
    for line in statement.spend:
        what = (_safe(line.provider), _safe(line.model), line.use_month, line.calls)
        writer.writerow((*head, "spend", *what, *_amount(-line.amount_nanos, statement)))
    return out.getvalue()


def to_html(statement: pb.Statement) -> str:
    """A page that prints on paper."""
    rows = [(words, _text(sign * getattr(statement, field), statement)) for _, words, field, sign in _ROWS]
    spend = [
        (line.provider, line.model, line.use_month, line.calls, _text(line.amount_nanos, statement))
        for line in statement.spend
    ]
    return _template().render(statement=statement, rows=rows, spend=spend)


@cache
def _template() -> jinja2.Template:
    return jinja2.Environment(loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True).get_template(
        "statement.html.jinja"
    )


def _text(nanos: int, statement: pb.Statement) -> str:
    return money.format_nanos(nanos, statement.currency_code)


def _amount(nanos: int, statement: pb.Statement) -> tuple[str, str]:
    amount, _, currency = _text(nanos, statement).partition(" ")
    return amount, currency


def _safe(text: str) -> str:
    """Text that no spreadsheet takes for a formula."""
    return f"'{text}" if text[:1] in {"=", "+", "-", "@", "\t", "\r"} else text
