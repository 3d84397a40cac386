"""How much smaller a denied spend must be: the largest cap on output tokens with which it would be allowed."""

from typing import Final

from services.budget.domain.budgets import Dimension
from services.budget.domain.model import Binding, Counter, Fit, ReserveItem, WalletState
from services.kit.rating import Tokens, largest_output

_INPUT: Final = int(Dimension.INPUT_TOKENS)
_OUTPUT: Final = int(Dimension.OUTPUT_TOKENS)
_REQUESTS: Final = int(Dimension.REQUESTS)


def of_denied(item: ReserveItem, binding: Binding) -> Fit | None:
    """What would fit every blocking budget, and the lease as far as it goes.

    None where the request caps no output tokens: there is nothing to lower.
    """
    if not item.capped:
        return None
    most = item.asks[_OUTPUT] - 1
    for counter in binding.counters:
        if counter.blocking:
            most = min(most, _within(item, counter))
    if most < 1:
        return Fit(0)
    lease = binding.lease
    if lease is None:
        return Fit(0 if binding.mismatch or binding.wallet_required else most)
    if lease.quarantined is not None or lease.state is not WalletState.OPEN:
        return Fit(0)
    paid = _affordable(item, lease.free, most)
    return Fit(paid, most, lease.wallet, lease.free) if paid < most else Fit(most)


def of_unfunded(item: ReserveItem, free: int) -> Fit | None:
    """What would fit the funding, where the budgets allow the whole spend.

    Args:
        item: The spend.
        free: What the lease and its wallet have, in nano-units.
    """
    if not item.capped:
        return None
    return Fit(_affordable(item, free, item.asks[_OUTPUT] - 1))


def stretched(item: ReserveItem, found: Fit, available: int) -> int:
    """What would fit once the wallet leases what it has available, in nano-units."""
    return _affordable(item, found.free + available, found.by_budgets)


def _within(item: ReserveItem, counter: Counter) -> int:
    """The most output tokens that the window has room for; below 1: none."""
    used = counter.spent + counter.reserved
    room = counter.limit - used
    dimension = counter.dimension
    most = item.asks[_OUTPUT]
    if item.unknown >> dimension & 1:
        return most if room > 0 else 0
    if dimension == Dimension.OUTPUT_TOKENS:
        return min(most, room)
    if dimension == Dimension.TOKENS:
        return min(most, room - item.asks[_INPUT])
    if dimension == Dimension.COST:
        return _priced(item, room, most)
    return most if item.asks[dimension] <= room else 0


def _affordable(item: ReserveItem, free: int, most: int) -> int:
    if item.cost is None:
        return most if free >= 1 else 0
    return max(0, _priced(item, free, most))


def _priced(item: ReserveItem, nanos: int, most: int) -> int:
    """The most output tokens, up to `most`, that cost no more; a cost that the caller said is the same for any."""
    if item.price is None:
        return most if (item.cost or 0) <= nanos else 0
    tokens = Tokens(item.asks[_INPUT], 0, 0, 0, 0, item.asks[_REQUESTS])
    return min(most, largest_output(item.price, tokens, nanos))
