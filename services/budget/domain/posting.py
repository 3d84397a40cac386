"""What an amount does to a counter and to a lease."""

from services.budget.domain.decide import Batch
from services.budget.domain.exceed import note_use
from services.budget.domain.model import ApplyItem, Counter


def spend(batch: Batch, counter: Counter, amount: int) -> None:
    """Counts use; below 0: takes some back."""
    counter.spent += amount
    if amount > 0:
        counter.peak = max(counter.peak, counter.spent)
        note_use(batch, counter)


def draw(batch: Batch, item: ApplyItem, wallet: str | None, cost: int) -> None:
    """Draws on the lease, above what it has too: the wallet covers it at the capture, as debt if it must."""
    if wallet is None or cost == 0:
        return
    lease = batch.leases[wallet]
    if cost > 0:
        lease.drawn += cost
    else:
        lease.reversal -= cost
    key = (item.org, wallet, cost < 0, item.call.provider, item.call.model, item.month)
    line = batch.draws.setdefault(key, [0, 0])
    line[0] += abs(cost)
    line[1] += item.corrects is None
