"""Stripe's search queries."""

from __future__ import annotations

import pytest

from embedded.stripe_twin.errors import ApiError
from embedded.stripe_twin.searching import CLAUSES_MAX, matches, parse

BODY: dict[str, object] = {
    "status": "succeeded",
    "amount": 2000,
    "created": 100,
    "customer": "cus_1",
    "currency": "usd",
    "metadata": {"order": '7 "big"', "org": "a"},
}


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ('status:"succeeded"', True),
        ('-status:"succeeded"', False),
        ('status:"canceled" OR customer:"cus_1"', True),
        ('status:"canceled" AND customer:"cus_1"', False),
        ('metadata["order"]:"7 \\"big\\""', True),
        ('metadata["none"]:null AND -metadata["org"]:null', True),
        ("amount>1999 AND amount<=2000 AND created:100", True),
        ("amount>2000", False),
        ("created<100 OR created>=101", False),
    ],
)
def test_what_a_query_finds(query: str, found: bool) -> None:
    assert matches(parse(query), BODY) is found


@pytest.mark.parametrize(
    "query",
    [
        "",
        "nonsense",
        'status:"a" OR amount>1 AND amount<2',
        'status:"a" amount>1',
        'email:"a"',
        "status:a",
        " AND ".join(["amount>1"] * (CLAUSES_MAX + 1)),
    ],
)
def test_what_is_no_query_is_refused(query: str) -> None:
    with pytest.raises(ApiError) as refused:
        parse(query)
    assert refused.value.error["param"] == "query"
