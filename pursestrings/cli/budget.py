"""`purse budget`: limits and how much of them is used."""

from typing import Annotated, Any

import typer
from google.protobuf.field_mask_pb2 import FieldMask

from pursestrings._money import Money
from pursestrings.budget.v1 import budget_pb2, pauses_pb2
from pursestrings.budget.v1.limits_pb2 import OverAllocation
from pursestrings.cli.connection import Suite, pages, with_suite
from pursestrings.cli.failures import CliError
from pursestrings.cli.options import Json, Limit, amount, begin, labels, split_name
from pursestrings.cli.output import to_plain, when

app = typer.Typer(help="Limits on what a subject may use, and how much is used.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The budget, for example orgs/acme/teams/support/budgets/monthly.")]
LimitText = Annotated[
    str | None, typer.Option("--limit", help="The most a window may use: '100 USD', or a count. 0: nothing.")
]
DimensionText = Annotated[
    str, typer.Option("--dimension", help="cost, tokens, input-tokens, output-tokens or requests.")
]
WindowText = Annotated[str | None, typer.Option("--window", help="day, week, month, quarter or lifetime.")]
ZoneText = Annotated[
    str | None, typer.Option("--time-zone", help="IANA zone of the window, for example Europe/Berlin.")
]
ExceedText = Annotated[
    str | None, typer.Option("--on-exceed", help="block, warn, alert or pause. Default: the organisation's.")
]
ResumeText = Annotated[
    str | None, typer.Option("--resume", help="How a pause by this budget ends: manual or window-end.")
]
ThresholdList = Annotated[
    list[int] | None,
    typer.Option("--threshold", help="Percent that alerts; may be repeated. Default: the organisation's."),
]
DisplayName = Annotated[str | None, typer.Option("--display-name", help="For people.")]
ModelList = Annotated[list[str] | None, typer.Option("--model", help="Count only these models; globs work.")]
ProviderList = Annotated[list[str] | None, typer.Option("--provider", help="Count only these providers.")]
OperationList = Annotated[list[str] | None, typer.Option("--operation", help="Count only these operations.")]
RolloverText = Annotated[
    str | None, typer.Option("--rollover", help="Carry what a window leaves, at most this; 'none': nothing.")
]
LabelList = Annotated[list[str] | None, typer.Option("--label", help="Count only calls with this key=value.")]


@app.command()
def create(
    context: typer.Context,
    *,
    name: Name,
    limit: Annotated[str, typer.Option("--limit", help="The most a window may use: '100 USD', or a count.")],
    dimension: DimensionText = "cost",
    window: WindowText = "month",
    time_zone: ZoneText = None,
    on_exceed: ExceedText = None,
    resume: ResumeText = None,
    threshold: ThresholdList = None,
    display_name: DisplayName = None,
    model: ModelList = None,
    provider: ProviderList = None,
    operation: OperationList = None,
    label: LabelList = None,
    week_start: Annotated[int, typer.Option("--week-start", min=1, max=7, help="1 Monday to 7 Sunday.")] = 1,
    anchor_day: Annotated[int, typer.Option("--anchor-day", min=1, max=31, help="Day a month begins.")] = 1,
    rollover: RolloverText = None,
    over_allocation: Annotated[str, typer.Option("--over-allocation", help="block or alert.")] = "block",
    as_json: Json = False,
) -> None:
    """Create a budget; it counts from now on."""
    where, output = begin(context, as_json=as_json)
    parent, budget_id = split_name(name, "budgets")
    budget = budget_pb2.Budget(
        display_name=display_name or "",
        dimension=enum_value(budget_pb2.Dimension, "DIMENSION_", dimension, "--dimension"),
        window=_window(window, time_zone),
        on_exceed=_said(budget_pb2.OnExceed, "ON_EXCEED_", on_exceed, "--on-exceed"),
        resume=_said(pauses_pb2.ResumeMode, "RESUME_MODE_", resume, "--resume"),
        thresholds_percent=threshold or [],
        over_allocation=enum_value(OverAllocation, "OVER_ALLOCATION_", over_allocation, "--over-allocation"),
    )
    budget.window.week_start_day, budget.window.month_anchor_day = week_start, anchor_day
    _set_limit(budget, limit)
    _set_rollover(budget, rollover)
    _set_selector(budget, model, provider, operation, label)
    request = budget_pb2.CreateBudgetRequest(parent=parent, budget_id=budget_id, budget=budget)
    created = with_suite(where, lambda suite: suite.budget("CreateBudget", request)).budget
    output.object(created) if output.as_json else output.say(f"created {created.name}: {_limit_text(created)}")


@app.command("list")
def list_(
    context: typer.Context,
    *,
    subject: Annotated[str, typer.Argument(help="Whose budgets.")],
    descendants: Annotated[bool, typer.Option("--descendants/--no-descendants", help="Those below it too.")] = True,
    limit: Limit = 1000,
    as_json: Json = False,
) -> None:
    """List the budgets of a subject and of those below it."""
    where, output = begin(context, as_json=as_json)
    request = budget_pb2.ListBudgetsRequest(parent=subject, include_descendants=descendants)

    async def work(suite: Suite) -> list[budget_pb2.Budget]:
        return await pages(lambda page: suite.budget("ListBudgets", page), request, lambda page: page.budgets, limit)

    found = with_suite(where, work)
    if output.as_json:
        output.object({"budgets": [to_plain(budget) for budget in found]})
        return
    output.table(
        ("budget", "limit", "window", "on exceed", "counts"),
        [(b.name, _limit_text(b), window_text(b.window), _bare(b.on_exceed), _selector_text(b)) for b in found],
        right=("limit",),
    )


@app.command()
def get(context: typer.Context, name: Name, as_json: Json = False) -> None:
    """Show a budget's definition."""
    where, output = begin(context, as_json=as_json)
    request = budget_pb2.GetBudgetRequest(name=name)
    budget = with_suite(where, lambda suite: suite.budget("GetBudget", request)).budget
    if output.as_json:
        output.object(budget)
        return
    output.pairs(
        {
            "name": budget.name,
            "limit": _limit_text(budget),
            "window": window_text(budget.window),
            "on exceed": _bare(budget.on_exceed),
            "thresholds": ", ".join(f"{percent} %" for percent in budget.thresholds_percent),
            "counts": _selector_text(budget),
            "counts from": when(budget.effective_from),
            "carries over": _rollover_text(budget),
            "allocated from": budget.allocated_from,
            "etag": budget.etag,
        }
    )


@app.command()
def update(
    context: typer.Context,
    *,
    name: Name,
    limit: LimitText = None,
    window: WindowText = None,
    time_zone: ZoneText = None,
    on_exceed: ExceedText = None,
    resume: ResumeText = None,
    threshold: ThresholdList = None,
    display_name: DisplayName = None,
    model: ModelList = None,
    provider: ProviderList = None,
    operation: OperationList = None,
    label: LabelList = None,
    rollover: RolloverText = None,
    etag: Annotated[str, typer.Option("--etag", help="Only if it is still this one.")] = "",
    as_json: Json = False,
) -> None:
    """Change what is named; the rest stays."""
    where, output = begin(context, as_json=as_json)

    async def work(suite: Suite) -> budget_pb2.Budget:
        seen = (await suite.budget("GetBudget", budget_pb2.GetBudgetRequest(name=name))).budget
        budget = budget_pb2.Budget()
        budget.CopyFrom(seen)
        # What was read is what is changed: a change by somebody else in between is refused.
        budget.etag = etag or seen.etag
        mask = []
        if limit is not None:
            _set_limit(budget, limit)
            mask.append("limit_amount")
        if window is not None or time_zone is not None:
            kind = window or budget_pb2.WindowKind.Name(seen.window.kind).removeprefix("WINDOW_KIND_")
            budget.window.CopyFrom(_window(kind, seen.window.time_zone if time_zone is None else time_zone))
            mask.append("window")
        if on_exceed is not None:
            budget.on_exceed = enum_value(budget_pb2.OnExceed, "ON_EXCEED_", on_exceed, "--on-exceed")
            mask.append("on_exceed")
        if resume is not None:
            budget.resume = enum_value(pauses_pb2.ResumeMode, "RESUME_MODE_", resume, "--resume")
            mask.append("resume")
        if threshold:
            budget.thresholds_percent[:] = threshold
            mask.append("thresholds_percent")
        if display_name is not None:
            budget.display_name = display_name
            mask.append("display_name")
        if any((model, provider, operation, label)):
            budget.ClearField("selector")
            _set_selector(budget, model, provider, operation, label)
            mask.append("selector")
        if rollover is not None:
            _set_rollover(budget, rollover)
            mask.append("rollover")
        if not mask:
            raise CliError("nothing to change", "name what to change, for example --limit '200 USD'")
        request = budget_pb2.UpdateBudgetRequest(budget=budget, update_mask=FieldMask(paths=mask))
        answer: budget_pb2.UpdateBudgetResponse = await suite.budget("UpdateBudget", request)
        return answer.budget

    updated = with_suite(where, work)
    output.object(updated) if output.as_json else output.say(f"changed {updated.name}: {_limit_text(updated)}")


@app.command()
def delete(
    context: typer.Context,
    *,
    name: Name,
    etag: Annotated[str, typer.Option("--etag", help="Only if it is still this one.")] = "",
    as_json: Json = False,
) -> None:
    """Delete a budget: it limits nothing any more."""
    where, output = begin(context, as_json=as_json)
    request = budget_pb2.DeleteBudgetRequest(name=name, etag=etag)
    with_suite(where, lambda suite: suite.budget("DeleteBudget", request))
    output.object({"deleted": name}) if output.as_json else output.say(f"deleted {name}")


def enum_value(enum: Any, prefix: str, text: str, option: str) -> Any:
    """The number of an enum's value by its bare name, in any case, with hyphens or underscores."""
    known = [name.removeprefix(prefix) for name in enum.keys() if not name.endswith("_UNSPECIFIED")]  # noqa: SIM118
    wanted = text.upper().replace("-", "_")
    if wanted not in known:
        choices = ", ".join(name.lower().replace("_", "-") for name in known)
        raise CliError(f"{option} {text!r} is not known", f"choose one of {choices}")
    return enum.Value(prefix + wanted)


def _said(enum: Any, prefix: str, text: str | None, option: str) -> Any:
    """The number of what is said; 0, which leaves it to the organisation's default, where nothing is."""
    return enum_value(enum, prefix, text, option) if text is not None else 0


def _window(kind: str | None, time_zone: str | None) -> budget_pb2.Window:
    value = enum_value(budget_pb2.WindowKind, "WINDOW_KIND_", kind or "month", "--window")
    return budget_pb2.Window(kind=value, time_zone=time_zone or "")


def _set_limit(budget: budget_pb2.Budget, text: str) -> None:
    if budget.dimension == budget_pb2.DIMENSION_COST:
        money = amount(text, budget.currency_code or "USD")
        if budget.currency_code not in ("", money.currency_code):
            raise CliError(f"the budget counts {budget.currency_code}, not {money.currency_code}")
        budget.limit_amount, budget.currency_code = money.amount_nanos, money.currency_code
        return
    budget.limit_amount = unit_amount(budget, text, "--limit")


def _set_rollover(budget: budget_pb2.Budget, text: str | None) -> None:
    if text == "none":
        budget.ClearField("rollover")
    elif text is not None:
        budget.rollover.cap_amount = unit_amount(budget, text, "--rollover")


def unit_amount(budget: budget_pb2.Budget, text: str, what: str) -> int:
    """An amount in the budget's unit: money of its currency, or a count."""
    if budget.dimension == budget_pb2.DIMENSION_COST:
        money = amount(text, budget.currency_code)
        if money.currency_code != budget.currency_code:
            raise CliError(f"the budget counts {budget.currency_code}, not {money.currency_code}")
        return money.amount_nanos
    digits = text.replace("_", "").replace(",", "")
    if not digits.isdecimal():
        raise CliError(f"{what} {text!r} is no count", "this dimension is counted in whole numbers")
    return int(digits)


def _set_selector(
    budget: budget_pb2.Budget,
    models: list[str] | None,
    providers: list[str] | None,
    operations: list[str] | None,
    pairs: list[str] | None,
) -> None:
    if any((models, providers, operations, pairs)):
        budget.selector.CopyFrom(
            budget_pb2.Selector(
                models=models or [], providers=providers or [], operations=operations or [], labels=labels(pairs or [])
            )
        )


def _bare(value: int) -> str:
    return budget_pb2.OnExceed.Name(value).removeprefix("ON_EXCEED_").lower()  # type: ignore[arg-type]


def amount_text(budget: budget_pb2.Budget, value: int) -> str:
    """An amount in the budget's unit, for people."""
    if budget.dimension == budget_pb2.DIMENSION_COST:
        return str(Money(value, budget.currency_code))
    unit = budget_pb2.Dimension.Name(budget.dimension).removeprefix("DIMENSION_").replace("_", " ").lower()
    return f"{value:,} {unit}"


def _limit_text(budget: budget_pb2.Budget) -> str:
    return amount_text(budget, budget.limit_amount)


def window_text(window: budget_pb2.Window) -> str:
    """A calendar in a word or two."""
    kind = budget_pb2.WindowKind.Name(window.kind).removeprefix("WINDOW_KIND_").lower()
    return f"{kind} {window.time_zone or 'UTC'}" if kind != "lifetime" else kind


def _selector_text(budget: budget_pb2.Budget) -> str:
    selector = budget.selector
    parts = [*selector.providers, *selector.models, *selector.operations]
    parts += [f"{key}={value}" for key, value in sorted(selector.labels.items())]
    return ", ".join(parts) or "every call"


def _rollover_text(budget: budget_pb2.Budget) -> str:
    return f"at most {amount_text(budget, budget.rollover.cap_amount)}" if budget.HasField("rollover") else "nothing"
