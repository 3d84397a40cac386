"""What a budget's definition may be, and what a change of it does."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from services.budget.domain import selectors
from services.budget.domain.budgets import AMOUNT_MAX, Budget, Dimension, OverAllocation, Selector
from services.budget.domain.org_settings import NO_SETTINGS, OrgSettings, on_exceed, resume_mode, thresholds
from services.kit.errors import PurseError, conflict, invalid
from services.kit.money import CURRENCIES
from services.kit.windows import UnknownZoneError, WindowError, WindowKind, WindowSpec, window_at

BUDGETS_MAX: Final = 100_000
"""The most budgets of one organisation."""
OF_SUBJECT_MAX: Final = 100
"""The most budgets of one subject itself: every spend below it is held against each."""
MUTABLE: Final = frozenset(
    {
        "display_name",
        "limit_amount",
        "on_exceed",
        "over_allocation",
        "resume",
        "rollover",
        "selector",
        "thresholds_percent",
        "window",
    }
)
"""The fields that an update may name."""
_DISPLAY_CHARS_MAX: Final = 128


@dataclass(frozen=True, slots=True)
class Draft:
    """A definition as a caller wrote it; the numbers are the contract's, 0 and empty are not said.

    `rollover_cap` is None where nothing is to be carried.
    """

    display_name: str
    dimension: int
    currency: str
    limit: int
    kind: int
    zone: str
    week_start: int
    anchor_day: int
    on_exceed: int
    thresholds: tuple[int, ...]
    selector: Selector | None
    rollover_cap: int | None = None
    over_allocation: int = 0
    resume: int = 0


_KINDS: Final = {
    1: WindowKind.DAY,
    2: WindowKind.WEEK,
    3: WindowKind.MONTH,
    4: WindowKind.QUARTER,
    5: WindowKind.LIFETIME,
}
KIND_NUMBERS: Final = {kind: number for number, kind in _KINDS.items()}


def define(
    draft: Draft, org: str, subject: str, budget_id: str, now_us: int, *, settings: OrgSettings = NO_SETTINGS
) -> Budget:
    """A new budget: it counts from now, with 0 used. What it does not say is as its organisation has set it.

    Raises:
        PurseError: The field at fault.
    """
    dimension = _dimension(draft.dimension)
    return Budget(
        0,
        org,
        subject,
        budget_id,
        _display_name(draft.display_name),
        dimension,
        _currency(draft.currency, dimension),
        _limit(draft.limit),
        _window(draft),
        on_exceed(draft.on_exceed, settings.default_on_exceed, "budget.on_exceed"),
        thresholds(draft.thresholds, settings.default_thresholds, "budget.thresholds_percent"),
        selectors.checked(draft.selector),
        generation=1,
        revision=1,
        created_us=now_us,
        updated_us=now_us,
        from_us=now_us,
        resume=resume_mode(draft.resume, settings.default_resume, "budget.resume"),
        rollover_cap=_rollover(draft.rollover_cap, _KINDS[draft.kind]),
        over_allocation=_over_allocation(draft.over_allocation),
    )


def etag(budget: Budget) -> str:
    """What an update must give back to change only what its author has seen."""
    return f"{budget.no}.{budget.revision}"


def check_etag(budget: Budget, given: str) -> None:
    """Refuses an etag that is not the current one; an empty one passes."""
    if given and given != etag(budget):
        raise conflict(
            "ETAG_MISMATCH",
            f"etag: {budget.name} has changed since; read it again and decide anew",
            field="budget.etag",
            etag=etag(budget),
        )


@dataclass(frozen=True, slots=True)
class Change:
    """What an update writes.

    Attributes:
        rows: Existing rows as they become, the live one last unless `begun` is set.
        begun: A new row that takes over at the end of the running window; None: none.
        in_force: The row that decides now, as it becomes.
    """

    rows: tuple[Budget, ...]
    begun: Budget | None
    in_force: Budget


def change(
    rows: Sequence[Budget], draft: Draft, mask: frozenset[str], now_us: int, settings: OrgSettings = NO_SETTINGS
) -> Change:
    """What becomes of a budget's rows.

    A new limit, thresholds, selector or reaction count at once, another rollover from the next window on. Another
    window counts from the end of the running one, so that no window is cut; a change of a change that has not begun
    replaces it.

    Args:
        rows: The budget's rows by when they begin: one, or the one in force and the one to come.
        draft: The new values of the fields in the mask.
        mask: Which fields.
        now_us: The time.
        settings: The organisation's, for what is changed to nothing said.

    Raises:
        PurseError: The field at fault.
    """
    live = rows[-1]
    limit = _limit(draft.limit) if "limit_amount" in mask else live.limit
    changes = {
        "display_name": _display_name(draft.display_name) if "display_name" in mask else live.display_name,
        "limit": limit,
        "on_exceed": on_exceed(draft.on_exceed, settings.default_on_exceed, "budget.on_exceed")
        if "on_exceed" in mask
        else live.on_exceed,
        "resume": resume_mode(draft.resume, settings.default_resume, "budget.resume")
        if "resume" in mask
        else live.resume,
        "thresholds": thresholds(draft.thresholds, settings.default_thresholds, "budget.thresholds_percent")
        if "thresholds_percent" in mask
        else live.thresholds,
        "selector": selectors.checked(draft.selector) if "selector" in mask else live.selector,
        "generation": live.generation + (limit > live.limit),
        "revision": live.revision + 1,
        "updated_us": now_us,
    }
    window = _window(draft) if "window" in mask else live.window
    cap = live.rollover_cap
    if "rollover" in mask:
        # What was carried is carried no more; None is only for what never carried.
        cap = (None if cap is None else 0) if draft.rollover_cap is None else _rollover(draft.rollover_cap, window.kind)
    elif cap:
        _rollover(cap, window.kind)
    changes["rollover_cap"] = cap
    if "over_allocation" in mask:
        changes["over_allocation"] = _over_allocation(draft.over_allocation)
    became = [_replaced(row, changes) for row in rows]
    begun = None
    if window != live.window:
        if live.from_us > now_us:
            became[-1] = _replaced(became[-1], {"window": window})
        else:
            edge_us = _edge(live, window, now_us)
            begun = _replaced(became[-1], {"no": 0, "window": window, "from_us": edge_us})
            became[-1] = _replaced(became[-1], {"until_us": edge_us})
    in_force = next((row for row in became if row.from_us <= now_us < row.until_us), became[-1])
    return Change(tuple(became), begun, in_force)


def _replaced(budget: Budget, changes: dict[str, object]) -> Budget:
    return replace(budget, **changes)  # type: ignore[arg-type]


def _edge(live: Budget, window: WindowSpec, now_us: int) -> int:
    """Where the running window ends and another calendar may begin."""
    if live.window.kind is WindowKind.LIFETIME:
        raise conflict(
            "WINDOW_FIXED",
            f"window: a LIFETIME budget has no edge at which {window.kind} could begin; create another budget",
            field="budget.window",
        )
    return window_at(live.window, now_us).end_us


def in_force(rows: Sequence[Budget], now_us: int) -> Budget:
    """The row that decides now."""
    return next((row for row in rows if row.from_us <= now_us < row.until_us), rows[-1])


def _display_name(name: str) -> str:
    if len(name) > _DISPLAY_CHARS_MAX:
        raise invalid("budget.display_name", f"is {len(name)} characters long; the limit is {_DISPLAY_CHARS_MAX}")
    return name


def _dimension(number: int) -> Dimension:
    try:
        return Dimension(number)
    except ValueError:
        raise invalid("budget.dimension", f"{number} is no dimension; say what the budget counts") from None


def _currency(code: str, dimension: Dimension) -> str:
    if dimension is not Dimension.COST:
        if code:
            raise invalid("budget.currency_code", f"is only for COST budgets; leave it out for {dimension.name}")
        return ""
    if code not in CURRENCIES:
        raise invalid(
            "budget.currency_code",
            f"{code[:16]!r} is no currency known here; use an ISO 4217 code such as 'USD'",
            "UNKNOWN_CURRENCY",
        )
    return code


def _limit(limit: int) -> int:
    if 0 <= limit <= AMOUNT_MAX:
        return limit
    raise invalid("budget.limit_amount", f"is {limit}; it must be 0 to {AMOUNT_MAX}", "AMOUNT_OUT_OF_RANGE")


def _window(draft: Draft) -> WindowSpec:
    kind = _KINDS.get(draft.kind)
    if kind is None:
        raise invalid("budget.window.kind", "say which period the budget counts by")
    try:
        return WindowSpec(kind, draft.zone or "UTC", draft.week_start or 1, draft.anchor_day or 1)
    except UnknownZoneError as error:
        raise invalid("budget.window.time_zone", str(error), "UNKNOWN_TIME_ZONE") from None
    except WindowError as error:
        field = "week_start_day" if "week_start" in str(error) else "month_anchor_day"
        raise invalid(f"budget.window.{field}", str(error)) from None


def _rollover(cap: int | None, kind: WindowKind) -> int | None:
    if cap is None:
        return None
    if kind is WindowKind.LIFETIME:
        raise invalid("budget.rollover", "a LIFETIME window has no next one to carry into; leave rollover out")
    if not 1 <= cap <= AMOUNT_MAX:
        raise invalid(
            "budget.rollover.cap_amount",
            f"is {cap}; it must be 1 to {AMOUNT_MAX}, or leave rollover out to carry nothing",
            "AMOUNT_OUT_OF_RANGE",
        )
    return cap


def _over_allocation(number: int) -> OverAllocation:
    try:
        return OverAllocation(number or OverAllocation.BLOCK)
    except ValueError:
        raise invalid("budget.over_allocation", f"{number} is none of BLOCK and ALERT") from None


def check_mask(paths: Sequence[str]) -> frozenset[str]:
    """The fields that an update names.

    Raises:
        PurseError: None is named, or one that never changes.
    """
    if not paths:
        raise invalid("update_mask", f"name the fields to change: some of {', '.join(sorted(MUTABLE))}")
    for path in paths:
        if path.split(".")[0] not in MUTABLE or "." in path:
            raise invalid("update_mask", f"{path[:80]!r} cannot be changed; name some of {', '.join(sorted(MUTABLE))}")
    return frozenset(paths)


def refuse_more_of(subject: str, count: int) -> PurseError | None:
    """Why a subject with so many budgets of its own gets no other one."""
    if count < OF_SUBJECT_MAX:
        return None
    return conflict(
        "TOO_MANY_BUDGETS",
        f"{subject} has {count} budgets, which is the limit of one subject; delete some, or set some below it",
        subject=subject,
    )


def refuse_more(count: int) -> PurseError | None:
    """Why an organisation with so many budgets gets no other one."""
    if count < BUDGETS_MAX:
        return None
    return conflict("TOO_MANY_BUDGETS", f"the organisation has {count} budgets, which is the limit; delete some first")
