"""What Stripe charges in: currencies, exponents, increments, minimum and maximum amounts.

The twin has a table of its own on purpose: it stands in for the other side, so a wrong exponent in
the suite must not be agreed with here.
"""

from __future__ import annotations

from embedded.stripe_twin.errors import ApiError, invalid

_ZERO = "bif clp djf gnf jpy kmf krw mga pyg rwf ugx vnd vuv xaf xof xpf"
_TWO = """
aed afn all amd ang aoa ars aud awg azn bam bbd bdt bgn bmd bnd bob brl bsd bwp byn bzd cad cdf chf cny cop
crc cve czk dkk dop dzd egp etb eur fjd fkp gbp gel gip gmd gtq gyd hkd hnl htg huf idr ils inr isk jmd kes
kgs khr kyd kzt lak lbp lkr lrd lsl mad mdl mkd mmk mnt mop mur mvr mwk mxn myr mzn nad ngn nio nok npr nzd
pab pen pgk php pkr pln qar ron rsd rub sar sbd scr sek sgd shp sle sos srd std szl thb tjs top try ttd twd
tzs uah usd uyu uzs wst xcd yer zar zmw
"""
_THREE = "bhd jod kwd omr tnd"

ZERO_DECIMAL = frozenset(_ZERO.split())
TWO_DECIMAL = frozenset(_TWO.split())
THREE_DECIMAL = frozenset(_THREE.split())
SUPPORTED = ZERO_DECIMAL | TWO_DECIMAL | THREE_DECIMAL

# Sent with two decimals that must be 00: zero-decimal money with a two-decimal past.
WHOLE_HUNDREDS = frozenset(("isk", "ugx"))

# Smallest charge, in minor units. Elsewhere Stripe converts to the settlement currency's minimum;
# the twin has no exchange rates and asks for 1.
MINIMUM_MINOR = {
    "usd": 50, "aed": 200, "aud": 50, "bgn": 100, "brl": 50, "cad": 50, "chf": 50, "czk": 1500, "dkk": 250,
    "eur": 50, "gbp": 30, "hkd": 400, "huf": 17500, "inr": 50, "jpy": 50, "mxn": 1000, "myr": 200,
    "nok": 300, "nzd": 50, "pln": 200, "ron": 200, "sek": 300, "sgd": 50, "thb": 1000,
}  # fmt: skip

MAXIMUM_MINOR = 99_999_999
MAXIMUM_MINOR_BY_CURRENCY = {"idr": 999_999_999_999}


def exponent(currency: str) -> int:
    """How many decimals `currency` has on the wire (0, 2 or 3); ISK and UGX are sent with two."""
    if currency in WHOLE_HUNDREDS:
        return 2
    if currency in ZERO_DECIMAL:
        return 0
    return 3 if currency in THREE_DECIMAL else 2


def check_currency(currency: str) -> str:
    """`currency` in lower case; raises ApiError when Stripe does not charge in it."""
    code = currency.lower()
    if code not in SUPPORTED:
        raise invalid(
            f"Invalid currency: {code}. Stripe currently supports these currencies: " + ", ".join(sorted(SUPPORTED)),
            param="currency",
        )
    return code


def check_amount(amount_minor: int, currency: str) -> None:
    """Raises ApiError unless `amount_minor` of `currency` can be charged."""
    if amount_minor < 1:
        raise invalid(
            "This value must be greater than or equal to 1.", param="amount", code="parameter_invalid_integer"
        )
    least = MINIMUM_MINOR.get(currency, 1)
    if amount_minor < least:
        raise _amount_error("at least", least, currency, "amount_too_small")
    most = MAXIMUM_MINOR_BY_CURRENCY.get(currency, MAXIMUM_MINOR)
    if amount_minor > most:
        raise _amount_error("no more than", most, currency, "amount_too_large")
    if currency in WHOLE_HUNDREDS and amount_minor % 100:
        raise invalid(
            f"Invalid amount: {currency.upper()} has no minor unit, the last two digits must be 00.",
            param="amount",
        )
    if currency in THREE_DECIMAL and amount_minor % 10:
        raise invalid(f"Invalid amount: the last digit of an amount in {currency.upper()} must be 0.", param="amount")


def _amount_error(bound: str, amount_minor: int, currency: str, code: str) -> ApiError:
    return invalid(f"Amount must be {bound} {written(amount_minor, currency)}", param="amount", code=code)


def written(amount_minor: int, currency: str) -> str:
    """An amount for people, such as `12.50 usd`."""
    decimals = exponent(currency)
    whole, part = divmod(amount_minor, 10**decimals)
    return f"{whole}.{part:0{decimals}d} {currency}" if decimals else f"{whole} {currency}"
