"""Between the contract's messages and the domain's values: definitions and their status."""

from pursestrings.budget.v1 import budget_pb2
from services.budget import wire
from services.budget.domain.model import Budget, Selector, Use, countable
from services.budget.domain.policy import KIND_NUMBERS, Draft, etag
from services.kit.windows import LIFETIME_START_US


def draft_of(budget: budget_pb2.Budget) -> Draft:
    """A definition as the caller wrote it.

    Raises:
        PurseError: A text holds control characters.
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
        _selector_of(budget.selector) if budget.HasField("selector") else None,
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


def budget_message(budget: Budget) -> budget_pb2.Budget:
    """A definition as the contract has it."""
    message = budget_pb2.Budget(
        name=budget.name,
        display_name=budget.display_name,
        dimension=budget.dimension.value,  # type: ignore[arg-type]
        currency_code=budget.currency,
        limit_amount=budget.limit,
        window=budget_pb2.Window(
            kind=KIND_NUMBERS[budget.window.kind],  # type: ignore[arg-type]
            time_zone=budget.window.zone,
            week_start_day=budget.window.week_start,
            month_anchor_day=budget.window.anchor_day,
        ),
        on_exceed=budget.on_exceed.value,  # type: ignore[arg-type]
        thresholds_percent=budget.thresholds,
        etag=etag(budget),
    )
    if budget.selector is not None:
        message.selector.providers.extend(budget.selector.providers)
        message.selector.models.extend(budget.selector.models)
        message.selector.operations.extend(budget.selector.operations)
        message.selector.labels.update(dict(budget.selector.labels))
    wire.set_time(message.create_time, budget.created_us)
    wire.set_time(message.update_time, budget.updated_us)
    wire.set_time(message.effective_from, budget.from_us)
    return message


def status_message(budget: Budget, use: Use, start_us: int, crossed: list[int]) -> budget_pb2.BudgetStatus:
    """A definition and the use of its window."""
    message = budget_pb2.BudgetStatus(budget=budget_message(budget), crossed_percent=crossed)
    wire.set_use(message.use, use)
    if start_us > LIFETIME_START_US:
        wire.set_time(message.window_start_time, start_us)
    # Of a limit of 0 any use is all of it, and more has no percentage.
    used_bps = use.spent * 10_000 // budget.limit if budget.limit else (10_000 if use.spent > 0 else 0)
    message.used_bps = countable(used_bps)
    return message
