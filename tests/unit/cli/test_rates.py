"""`purse rates`: amounts as people write them, exactly."""

import pytest

from pursestrings.cli.failures import CliError
from pursestrings.cli.rates import _amount, _price


@pytest.mark.parametrize(
    ("text", "kind", "nanos"),
    [
        ("input_tokens=2.50", "input_tokens", 2_500_000_000),
        ("output_tokens=15", "output_tokens", 15_000_000_000),
        ("cache_read_tokens=0.000000001", "cache_read_tokens", 1),
    ],
)
def test_a_price_is_read_exactly(text: str, kind: str, nanos: int) -> None:
    assert _price(text) == (kind, nanos)
    assert float(_amount(nanos)) == pytest.approx(float(text.partition("=")[2]))


@pytest.mark.parametrize("text", ["2.50", "=1", "input_tokens=", "input_tokens=-1", "input_tokens=0.0000000001"])
def test_what_is_no_price_is_refused(text: str) -> None:
    with pytest.raises(CliError):
        _price(text)
