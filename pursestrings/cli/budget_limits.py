"""`purse budget status`, `allocate`, `override` and `overrides`: where budgets stand, and what moves their limits."""

from typing import Annotated
from uuid import uuid4

import typer
from google.protobuf.timestamp_pb2 import Timestamp

from pursestrings._errors import amount_of
from pursestrings.budget.v1 import budget_pb2, limits_pb2
from pursestrings.cli.budget import Name, amount_text, unit_amount, window_text
from pursestrings.cli.connection import Suite, pages, with_suite
from pursestrings.cli.failures import CliError
from pursestrings.cli.options import Json, Limit, RequestId, begin, instant, seconds, split_name
from pursestrings.cli.output import bar, to_plain, when

_PAGE_MAX = 1_000


def status(
    context: typer.Context,
    *,
    name: Annotated[str, typer.Argument(help="A budget, or a subject: then all its budgets and those below it.")],
    limit: Limit = 100,
    totals: Annotated[bool, typer.Option(help="Sum up all of them, at most 10,000.")] = True,
    as_json: Json = False,
) -> None:
    """Show what the current windows have used, hold and leave, as a tree with totals."""
    where, output = begin(context, as_json=as_json)

    async def work(suite: Suite) -> budget_pb2.ListBudgetStatusesResponse:
        found = budget_pb2.ListBudgetStatusesResponse()
        if "/budgets/" in name:
            one = budget_pb2.GetBudgetStatusRequest(name=name)
            found.statuses.append((await suite.budget("GetBudgetStatus", one)).status)
            return found
        request = budget_pb2.ListBudgetStatusesRequest(parent=name, page_size=min(limit, _PAGE_MAX), with_totals=totals)
        while True:
            page = await suite.budget("ListBudgetStatuses", request)
            found.statuses.extend(page.statuses)
            found.totals.extend(page.totals)
            request.page_token = page.next_page_token
            if not request.page_token or len(found.statuses) >= limit:
                del found.statuses[limit:]
                return found

    found = with_suite(where, work)
    if output.as_json:
        output.object(to_plain(found))
        return
    tree = sorted(found.statuses, key=lambda one: (_subject(one).split("/"), one.budget.name))
    root = name.split("/budgets/")[0].count("/")
    output.table(
        ("budget", "window", "used", "", "spent", "held", "left", "of", "besides", "ends"),
        [_row(one, root) for one in tree],
        right=("used", "spent", "held", "left", "of"),
    )
    for total in found.totals:
        output.say(_total_text(total))


def allocate(
    context: typer.Context,
    *,
    name: Name,
    to: Annotated[
        list[str], typer.Option("--to", help="BUDGET=AMOUNT, for example orgs/acme/teams/a/budgets/m='20 USD'. Repeat.")
    ],
    etag: Annotated[str, typer.Option("--etag", help="Only if the budget is still this one.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only check.")] = False,
    request_id: RequestId = None,
    as_json: Json = False,
) -> None:
    """Carve budgets of subjects below out of a budget, or move amounts between them, all or nothing."""
    where, output = begin(context, as_json=as_json)
    shares = [_share(text) for text in to]

    async def work(suite: Suite) -> budget_pb2.AllocateResponse:
        parent = (await suite.budget("GetBudget", budget_pb2.GetBudgetRequest(name=name))).budget
        request = budget_pb2.AllocateRequest(
            budget=name, request_id=request_id or str(uuid4()), etag=etag, validate_only=dry_run
        )
        for subject, budget_id, text in shares:
            request.allocations.add(subject=subject, budget_id=budget_id, amount=unit_amount(parent, text, "--to"))
        done: budget_pb2.AllocateResponse = await suite.budget("Allocate", request)
        return done

    done = with_suite(where, work)
    if output.as_json:
        output.object(done)
        return
    for child in done.allocated:
        output.say(f"{child.name}: {amount_text(child, child.limit_amount)}")
    parent = done.budget
    output.say(
        f"{'would have ' if dry_run else ''}allocated {amount_text(parent, done.allocated_amount)} of "
        f"{amount_text(parent, parent.limit_amount)}, {amount_text(parent, done.unallocated_amount)} left"
    )


def override(
    context: typer.Context,
    *,
    name: Name,
    amount: Annotated[str, typer.Option("--amount", help="By how much: '20 USD', or a count.")],
    reason: Annotated[str, typer.Option("--reason", help="Why.")],
    by: Annotated[str, typer.Option("--by", help="Who grants it, an address for example.")],
    until: Annotated[str | None, typer.Option("--until", help="Until when: 2026-12-01, 2026-12-01T12:00:00Z.")] = None,
    lasting: Annotated[str | None, typer.Option("--for", help="For how long: 90m, 12h, 7d.")] = None,
    request_id: RequestId = None,
    as_json: Json = False,
) -> None:
    """Raise a budget's limit for a time; the raise ends by itself."""
    where, output = begin(context, as_json=as_json)
    if (until is None) == (lasting is None):
        raise CliError("say until when", "give either --until 2026-12-01 or --for 12h")
    end = instant(until) if until is not None else Timestamp()
    if lasting is not None:
        end.GetCurrentTime()
        end.seconds += seconds(lasting)

    async def work(suite: Suite) -> tuple[budget_pb2.Budget, limits_pb2.Override]:
        budget = (await suite.budget("GetBudget", budget_pb2.GetBudgetRequest(name=name))).budget
        request = budget_pb2.GrantOverrideRequest(
            budget=name,
            amount=unit_amount(budget, amount, "--amount"),
            end_time=end,
            reason=reason,
            granted_by=by,
            request_id=request_id or str(uuid4()),
        )
        return budget, (await suite.budget("GrantOverride", request)).override

    budget, granted = with_suite(where, work)
    if output.as_json:
        output.object(granted)
        return
    output.say(f"raised {name} by {amount_text(budget, granted.amount)} until {when(granted.end_time)}: {granted.name}")


def overrides(context: typer.Context, *, name: Name, limit: Limit = 100, as_json: Json = False) -> None:
    """List a budget's temporary raises, the newest first."""
    where, output = begin(context, as_json=as_json)

    async def work(suite: Suite) -> tuple[budget_pb2.Budget, list[limits_pb2.Override]]:
        budget = (await suite.budget("GetBudget", budget_pb2.GetBudgetRequest(name=name))).budget
        request = budget_pb2.ListOverridesRequest(budget=name)
        return budget, await pages(
            lambda page: suite.budget("ListOverrides", page), request, lambda page: page.overrides, limit
        )

    budget, found = with_suite(where, work)
    if output.as_json:
        output.object({"overrides": [to_plain(one) for one in found]})
        return
    output.table(
        ("override", "amount", "left", "from", "until", "granted by", "reason"),
        [
            (
                one.name,
                amount_text(budget, one.amount),
                amount_text(budget, one.remaining_amount) if one.active else "over",
                when(one.start_time),
                when(one.end_time),
                one.approval or one.granted_by,
                one.reason,
            )
            for one in found
        ],
        right=("amount", "left"),
    )


def _share(text: str) -> tuple[str, str, str]:
    budget, sign, value = text.partition("=")
    if not sign or not value:
        raise CliError(f"{text!r} is no share", "write BUDGET=AMOUNT")
    return (*split_name(budget, "budgets"), value)


def _subject(status: budget_pb2.BudgetStatus) -> str:
    return status.budget.name.partition("/budgets/")[0]


def _row(status: budget_pb2.BudgetStatus, root: int) -> tuple[str, ...]:
    use, budget = status.use, status.budget
    subject = _subject(status)
    depth = max(0, (subject.count("/") - root) // 2)
    place = "/".join(subject.split("/")[-2:]) if depth else subject
    share = (use.spent_amount + use.reserved_amount) / use.limit_amount if use.limit_amount else 1.0
    besides = [
        f"{words} {amount_text(budget, value)}"
        for words, value in (
            ("carried", status.carried_amount),
            ("override", status.override_amount),
            ("allocated", status.allocated_amount),
        )
        if value
    ]
    return (
        f"{'  ' * depth}{place} {budget.name.rpartition('/')[2]}",
        window_text(budget.window),
        f"{status.used_bps / 100:.1f} %",
        bar(share),
        amount_of(use, use.spent_amount),
        amount_of(use, use.reserved_amount),
        amount_of(use, use.remaining_amount),
        amount_of(use, use.limit_amount),
        ", ".join(besides),
        when(use.window_end_time) or "never",
    )


def _total_text(total: budget_pb2.BudgetTotals) -> str:
    unit = budget_pb2.Budget(dimension=total.dimension, currency_code=total.currency_code)
    selected = " for some calls" if total.HasField("selector") else ""
    return (
        f"{window_text(total.window)}{selected}: {total.budgets} budgets, {total.exhausted_budgets} exhausted; "
        f"{total.counted_budgets} at the top have spent {amount_text(unit, total.spent_amount)} and hold "
        f"{amount_text(unit, total.reserved_amount)} of {amount_text(unit, total.limit_amount)}"
    )
