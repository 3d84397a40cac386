"""The cap that a denial names is exact: with it the spend is allowed at once, with one more it is not."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from services.budget.domain.budgets import Budget, Dimension, OnExceed
from services.budget.domain.decide import Batch, decide, deny_for_funds
from services.budget.domain.fit import stretched
from services.budget.domain.model import Binding, Call, Counter, Decision, DeniedReason, Lease, ReserveItem, Short
from services.kit.rating import Rate, Tokens, largest_output, rate
from services.kit.subject import parse
from services.kit.windows import WindowKind, WindowSpec

BOT = parse("orgs/acme/agents/bot")
PRICE = st.integers(0, 40_000_000)


@st.composite
def rates(draw: st.DrawFn) -> Rate:
    """A rate with up to two tiers; prices of a nano-unit and of many a token, and none."""

    def prices() -> dict[str, int]:
        return {"input_tokens": draw(PRICE), "output_tokens": draw(PRICE), "requests": draw(PRICE)}

    tiers = {above: prices() for above in draw(st.lists(st.integers(0, 60), max_size=2, unique=True))}
    return Rate.of(prices(), tiers)


@given(rates(), st.integers(0, 100), st.integers(0, 3), st.integers(-5, 4_000))
def test_the_largest_output_is_what_trying_finds(price: Rate, input_tokens: int, requests: int, room: int) -> None:
    tokens = Tokens(input_tokens, requests=requests)
    found = largest_output(price, tokens, room)
    if found >= 0:
        assert rate(price, tokens._replace(output_tokens=found)) <= room
    if found < 10**12:
        assert rate(price, tokens._replace(output_tokens=found + 1)) > room


def counter(no: int, dimension: Dimension, limit: int, spent: int, reserved: int, *, blocking: bool) -> Counter:
    found = Counter("acme", no, 0)
    found.define(
        Budget(
            no, "acme", "orgs/acme", f"b{no}", "", dimension, "USD" if dimension is Dimension.COST else "", limit,
            WindowSpec(WindowKind.LIFETIME), OnExceed.BLOCK if blocking else OnExceed.WARN, (100,), None, 1, 1, 0, 0, 0,
        )
    )  # fmt: skip
    found.load(spent, reserved)
    return found


def with_output(item: ReserveItem, output: int) -> ReserveItem:
    """The same request with another cap, as it would be read."""
    cost = item.cost
    if item.price is not None:
        cost = rate(item.price, Tokens(item.asks[3], output_tokens=output, requests=item.asks[5]))
    both = 0 if item.unknown >> Dimension.TOKENS & 1 else item.asks[3] + output
    return replace(item, asks=(0, cost or 0, both, item.asks[3], output, item.asks[5]), cost=cost)


SPECS = st.lists(
    st.tuples(
        st.sampled_from(list(Dimension)), st.integers(0, 120), st.integers(0, 60), st.integers(0, 60), st.booleans()
    ),
    max_size=4,
)


@settings(max_examples=150)
@given(
    specs=SPECS,
    price=st.none() | rates(),
    said=st.integers(0, 60),
    used=st.tuples(st.integers(0, 40), st.integers(0, 100), st.integers(0, 2)),
    leased=st.none() | st.integers(-20, 120),
    available=st.integers(0, 60),
    input_known=st.booleans(),
)
def test_a_cap_that_is_named_fits_and_one_more_does_not(  # noqa: PLR0917 - drawn
    specs: list[tuple[Dimension, int, int, int, bool]],
    price: Rate | None,
    said: int,
    used: tuple[int, int, int],
    leased: int | None,
    available: int,
    input_known: bool,
) -> None:
    inputs, output, requests = used
    unknown = 0
    if not input_known and price is None:
        inputs, unknown = 0, 1 << Dimension.INPUT_TOKENS | 1 << Dimension.TOKENS
    counters = tuple(
        counter(no, dimension, limit, spent, reserved, blocking=blocking)
        for no, (dimension, limit, spent, reserved, blocking) in enumerate(specs)
    )
    lease = None
    if leased is not None:
        lease = Lease("acme", "orgs/acme/wallets/w", "USD")
        lease.extended = leased
    item = ReserveItem(
        "acme", "r", BOT, b"", Call(), "USD", (0, said, 0, inputs, output, requests), unknown, said, 1,
        validate_only=True, strict=False, rate_version="", capped=True, price=price, binding=Binding(counters, lease),
    )  # fmt: skip
    item = with_output(item, output)

    def is_allowed(cap: int, funds: int) -> bool:
        answer = decide(Batch(), with_output(item, cap))
        if isinstance(answer, Short):
            return answer.cost <= answer.free + funds
        assert isinstance(answer, Decision)
        return answer.denied is DeniedReason.NONE

    answer = decide(Batch(), item)
    if isinstance(answer, Short):
        if answer.cost <= answer.free + available:
            return
        answer = deny_for_funds(item, answer.wallet, answer.free + available)
    assert isinstance(answer, Decision)
    if answer.denied is DeniedReason.NONE:
        assert answer.fit is None
        return
    assert answer.fit is not None
    funds = available if answer.denied is DeniedReason.INSUFFICIENT_FUNDS else 0
    caps = [answer.fit.output_tokens]
    for cap, money in [(answer.fit.output_tokens, funds)] + (
        [(stretched(item, answer.fit, available), available)] if answer.fit.wallet else []
    ):
        caps.append(cap)
        assert cap < max(1, output)
        if cap:
            assert is_allowed(cap, money)
        assert not is_allowed(cap + 1, money)
    assert caps == sorted(caps)


def test_a_request_without_a_cap_has_nothing_to_lower() -> None:
    full = counter(1, Dimension.COST, 0, 0, 0, blocking=True)
    item = ReserveItem(
        "acme", "r", BOT, b"", Call(), "USD", (0, 5, 0, 0, 0, 1), 0, 5, 1, validate_only=True, strict=False,
        rate_version="", binding=Binding((full,)),
    )  # fmt: skip
    answer = decide(Batch(), item)
    assert isinstance(answer, Decision)
    assert answer.fit is None
