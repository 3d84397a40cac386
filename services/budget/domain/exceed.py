"""What follows when a budget is exceeded: the first denial's alert, and the pause of the subject, each once."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from services.budget.domain.alerts import DENIAL_THRESHOLD, AlertCause, crossing_of
from services.budget.domain.budgets import FOREVER_US, Budget, Dimension, key_text
from services.budget.domain.model import Binding, Counter, Decision, DeniedReason, ReserveItem
from services.budget.domain.pauses import SHOWN_MAX, Pause, PauseCause, ResumeMode
from services.kit.errors import Code, PurseError

if TYPE_CHECKING:
    from services.budget.domain.decide import Batch


def stopped(batch: "Batch", item: ReserveItem, binding: Binding) -> Decision | PurseError | None:
    """Why a spend is denied whatever it asks for; None: it may go on.

    Its subject or one above it is paused, or the organisation denies models without a price or what no budget counts.
    """
    if pauses := pauses_on(batch, binding):
        return _denied(item, DeniedReason.PAUSED, pauses)
    if binding.blocks_unrated and item.unpriced is not None:
        is_known = item.unpriced.code is Code.INVALID_ARGUMENT
        return _denied(item, DeniedReason.UNRATED_MODEL, ()) if is_known else item.unpriced
    return _denied(item, DeniedReason.UNBUDGETED, ()) if binding.unbudgeted else None


def pauses_on(batch: "Batch", binding: Binding) -> tuple[Pause, ...]:
    """The pauses that stop a subject now, at most as many as an answer names: persons' first."""
    found = [pause for no in binding.pausing for pause in batch.pauses.get(no, ()) if pause.is_active(batch.now_us)]
    return (*binding.paused, *found)[:SHOWN_MAX]


def _denied(item: ReserveItem, reason: DeniedReason, pauses: Sequence[Pause]) -> Decision:
    return Decision(reason, cost=item.cost, currency=item.currency, rate_version=item.rate_version, pauses=pauses)


def note_denial(batch: "Batch", item: ReserveItem, violated: Sequence[Counter]) -> list[Pause]:
    """Notes the first denial of a window and generation by an estimate that would fit an empty window.

    Without it estimates could stop all spending short of 100 % and nobody would ever hear of it.

    Returns:
        The pauses that it begins.
    """
    begun = []
    for counter in violated:
        asked = item.asks[counter.dimension]
        is_open = bool(item.unknown >> counter.dimension & 1)
        if asked > counter.limit or (is_open and not counter.limit):
            continue
        budget = counter.budget
        if budget is not None and counter.denied_generation < budget.generation:
            counter.denied_generation = budget.generation
            batch.marked[(counter.no, counter.key)] = counter
            crossing = crossing_of(counter, DENIAL_THRESHOLD, counter.spent, AlertCause.DENIAL)
            batch.crossings.append(crossing._replace(reserved=counter.reserved, asked=asked))
        if (pause := begin_pause(batch, counter, PauseCause.DENIAL)) is not None:
            begun.append(pause)
    return begun


def note_use(batch: "Batch", counter: Counter) -> None:
    """Pauses the budget's subject where use has reached the limit; corrections and more use do not do it again."""
    if counter.pausing and 0 < counter.spent >= counter.limit:
        begin_pause(batch, counter, PauseCause.USE)


def begin_pause(batch: "Batch", counter: Counter, cause: PauseCause) -> Pause | None:
    """The pause that a PAUSE budget makes, once a window and generation; None: it is none, or has done so."""
    budget = counter.budget
    if budget is None or not counter.pausing or counter.paused_generation >= budget.generation:
        return None
    counter.paused_generation = budget.generation
    batch.marked[(counter.no, counter.key)] = counter
    pause = pause_of(budget, counter, cause, batch.now_us)
    batch.begun.append(pause)
    batch.pauses.setdefault(counter.no, []).append(pause)
    return pause


def pause_of(budget: Budget, counter: Counter, cause: PauseCause, now_us: int) -> Pause:
    """The pause that a window of this budget makes."""
    return Pause(
        budget.org,
        budget.subject,
        budget.no,
        budget.name,
        counter.key,
        budget.generation,
        cause,
        _reason(budget, counter, cause),
        "",
        now_us,
        counter.window_end_us if budget.resume is ResumeMode.WINDOW_END else FOREVER_US,
        limit=counter.limit,
    )


def _reason(budget: Budget, counter: Counter, cause: PauseCause) -> str:
    unit = budget.currency + " nanos" if budget.dimension is Dimension.COST else budget.dimension.name
    what = "use has reached its limit" if cause is PauseCause.USE else "it denied an estimate"
    return (
        f"{budget.name}: {what} in window {key_text(counter.key)} "
        f"(spent {counter.spent} and held {counter.reserved} of {counter.limit} {unit})"
    )


def is_lifted(before: int, limit: int, used: int) -> bool:
    """Whether a change of the limit in force ends its budget's pauses: it has risen by it, and is above use now."""
    return before < limit > used
