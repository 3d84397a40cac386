"""Between the contract's messages and the domain's values: definitions and their status."""

from pursestrings.budget.v1 import budget_pb2
from services.budget import wire
from services.budget.domain import selectors
from services.budget.domain.budgets import Budget, Selector, countable
from services.budget.domain.policy import KIND_NUMBERS, Draft, etag
from services.budget.statuses import Status
from services.kit.rating import RateTable
from services.kit.windows import LIFETIME_START_US, WindowSpec


def draft_of(budget: budget_pb2.Budget, table: RateTable | None = None) -> Draft:
    """A definition as the caller wrote it, its selector with the names that calls are recorded under.

    Args:
        budget: The definition.
        table: Who sells which models; None: not known.

    Raises:
        PurseError: A text holds control characters, or the selector is wrong.
    """
    wire.check_text(budget.display_name, "budget.display_name")
    wire.check_text(budget.window.time_zone, "budget.window.time_zone")
    return Draft(
        budget.display_name,
        budget.dimension,
        budget.currency_code,
        budget.limit_amount,
        budget.window.kind,
        budget.window.time_zone,
        budget.window.week_start_day,
        budget.window.month_anchor_day,
        budget.on_exceed,
        tuple(budget.thresholds_percent),
        selectors.resolved(selectors.checked(_selector_of(budget.selector)), table)
        if budget.HasField("selector")
        else None,
        budget.rollover.cap_amount if budget.HasField("rollover") else None,
        budget.over_allocation,
        budget.resume,
    )


def _selector_of(selector: budget_pb2.Selector) -> Selector:
    for field in ("providers", "models", "operations"):
        for pattern in getattr(selector, field):
            wire.check_text(pattern, f"budget.selector.{field}")
    for text in (*selector.labels.keys(), *selector.labels.values()):
        wire.check_text(text, "budget.selector.labels")
    return Selector(
        tuple(selector.providers),
        tuple(selector.models),
        tuple(selector.operations),
        tuple(sorted(selector.labels.items())),
    )


def window_message(window: WindowSpec) -> budget_pb2.Window:
    """A calendar as the contract has it."""
    return budget_pb2.Window(
        kind=KIND_NUMBERS[window.kind],  # type: ignore[arg-type]
        time_zone=window.zone,
        week_start_day=window.week_start,
        month_anchor_day=window.anchor_day,
    )


def selector_message(selector: Selector) -> budget_pb2.Selector:
    """A selector as the contract has it."""
    return budget_pb2.Selector(
        providers=selector.providers,
        models=selector.models,
        operations=selector.operations,
        labels=dict(selector.labels),
    )


def budget_message(budget: Budget) -> budget_pb2.Budget:
    """A definition as the contract has it."""
    message = budget_pb2.Budget(
        name=budget.name,
        display_name=budget.display_name,
        dimension=budget.dimension.value,  # type: ignore[arg-type]
        currency_code=budget.currency,
        limit_amount=budget.limit,
        window=window_message(budget.window),
        on_exceed=budget.on_exceed.value,  # type: ignore[arg-type]
        thresholds_percent=budget.thresholds,
        etag=etag(budget),
        allocated_from=budget.allocated_from,
        over_allocation=budget.over_allocation.value,  # type: ignore[arg-type]
        resume=budget.resume.value,  # type: ignore[arg-type]
    )
    if budget.rollover_cap:
        message.rollover.cap_amount = budget.rollover_cap
    if budget.selector is not None:
        message.selector.CopyFrom(selector_message(budget.selector))
    wire.set_time(message.create_time, budget.created_us)
    wire.set_time(message.update_time, budget.updated_us)
    wire.set_time(message.effective_from, budget.from_us)
    return message


def status_message(status: Status) -> budget_pb2.BudgetStatus:
    """A definition and the use of its window."""
    running = status.standing
    written, use = running.written, running.use
    message = budget_pb2.BudgetStatus(
        budget=budget_message(written),
        crossed_percent=status.crossed,
        base_limit_amount=written.limit,
        carried_amount=running.carried,
        override_amount=running.raised,
        override_remaining_amount=status.raised_left,
        allocated_amount=countable(status.allocated),
        unallocated_amount=countable(written.limit - status.allocated),
    )
    wire.set_use(message.use, use)
    if running.start_us > LIFETIME_START_US:
        wire.set_time(message.window_start_time, running.start_us)
    # Of a limit of 0 any use is all of it, and more has no percentage.
    limit = running.budget.limit
    used_bps = use.spent * 10_000 // limit if limit else (10_000 if use.spent > 0 else 0)
    message.used_bps = countable(used_bps)
    return message
