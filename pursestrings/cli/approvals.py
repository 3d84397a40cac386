"""`purse approvals`: what waits for a person, and what persons have decided."""

from typing import Annotated
from uuid import uuid4

import typer
from google.protobuf.duration_pb2 import Duration

from pursestrings.budget.v1 import approvals_pb2 as pb
from pursestrings.budget.v1 import budget_pb2
from pursestrings.cli.budget import enum_value, unit_amount
from pursestrings.cli.connection import Suite, pages, with_suite
from pursestrings.cli.failures import CliError
from pursestrings.cli.options import Json, Limit, RequestId, amount, begin, instant, seconds
from pursestrings.cli.output import Output, money, to_plain, when

app = typer.Typer(help="What a person must decide before it is spent.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The approval, as `list` names it.")]
Urgency = Annotated[str, typer.Option("--urgency", help="low, medium or high.")]
Why = Annotated[str, typer.Option("--why", help="Whoever decides reads it.")]


@app.command()
def request(
    context: typer.Context,
    *,
    target: Annotated[str, typer.Argument(help="A subject for a spend; a budget for a raise; a wallet for recharges.")],
    why: Why,
    operation: Annotated[str, typer.Option("--operation", help="A spend: what it is.")] = "",
    cost: Annotated[str | None, typer.Option("--cost", help="A spend: what it costs, for example '25 USD'.")] = None,
    ttl: Annotated[
        str | None, typer.Option("--ttl", help="A spend: how long it may be spent once it is approved.")
    ] = None,
    by: Annotated[str | None, typer.Option("--amount", help="A raise, or more to recharge: how much.")] = None,
    count: Annotated[int, typer.Option("--count", min=0, help="How many more recharges.")] = 0,
    until: Annotated[str | None, typer.Option("--until", help="A raise or recharges: until when.")] = None,
    urgency: Urgency = "medium",
    expires: Annotated[str | None, typer.Option("--expires", help="After which time nobody may decide.")] = None,
    request_id: RequestId = None,
    as_json: Json = False,
) -> None:
    """Ask for a spend, which is held meanwhile, for a raise of a budget, or for recharges beyond a wallet's caps."""
    where, output = begin(context, as_json=as_json)
    ask = budget_pb2.RequestApprovalRequest(
        request_id=request_id or str(uuid4()),
        justification=why,
        urgency=enum_value(pb.Urgency, "URGENCY_", urgency, "--urgency"),
    )
    if expires is not None:
        ask.ttl.CopyFrom(Duration(seconds=seconds(expires)))

    async def work(suite: Suite) -> budget_pb2.RequestApprovalResponse:
        if "/wallets/" in target:
            _fill_recharges(ask, target, by, count, until)
        elif "/budgets/" in target:
            await _fill_raise(suite, ask, target, by, until)
        else:
            _fill_operation(ask, target, operation, cost, ttl)
        answer: budget_pb2.RequestApprovalResponse = await suite.budget("RequestApproval", ask)
        return answer

    answer = with_suite(where, work)
    if output.as_json:
        output.object(answer)
    elif not answer.HasField("approval"):
        reason = budget_pb2.DeniedReason.Name(answer.decision.denied_reason).removeprefix("DENIED_REASON_")
        output.say(f"denied: {reason}; nothing is held, and nobody is asked")
    else:
        _say(output, answer.approval)


def _fill_operation(
    ask: budget_pb2.RequestApprovalRequest, subject: str, operation: str, cost: str | None, ttl: str | None
) -> None:
    if not operation or cost is None:
        raise CliError("a spend needs --operation and --cost", "or name a budget or a wallet")
    ask.subject = subject
    ask.operation.operation = operation
    ask.operation.spend.estimate.cost.CopyFrom(amount(cost).to_proto())
    if ttl is not None:
        ask.operation.spend.ttl.CopyFrom(Duration(seconds=seconds(ttl)))


async def _fill_raise(
    suite: Suite, ask: budget_pb2.RequestApprovalRequest, name: str, by: str | None, until: str | None
) -> None:
    if by is None or until is None:
        raise CliError("a raise needs --amount and --until", "it ends by itself")
    budget = (await suite.budget("GetBudget", budget_pb2.GetBudgetRequest(name=name))).budget
    raised = unit_amount(budget, by, "--amount")
    ask.budget_raise.CopyFrom(pb.BudgetRaise(budget=name, amount=raised, end_time=instant(until)))


def _fill_recharges(
    ask: budget_pb2.RequestApprovalRequest, wallet: str, by: str | None, count: int, until: str | None
) -> None:
    ask.recharges.wallet, ask.recharges.extra_count = wallet, count
    if by is not None:
        ask.recharges.extra_amount.CopyFrom(amount(by).to_proto())
    if until is not None:
        ask.recharges.until_time.CopyFrom(instant(until))


@app.command("list")
def list_(
    context: typer.Context,
    *,
    subject: Annotated[str, typer.Argument(help="Whose approvals; those below it too.")],
    state: Annotated[
        str, typer.Option("--state", help="pending, approved, denied, expired, canceled, or all.")
    ] = "pending",
    limit: Limit = 100,
    as_json: Json = False,
) -> None:
    """List approvals by when they expire, the earliest first; those that wait unless told otherwise."""
    where, output = begin(context, as_json=as_json)
    ask = pb.ListApprovalsRequest(parent=subject)
    if state != "all":
        ask.state = enum_value(pb.ApprovalState, "APPROVAL_STATE_", state, "--state")

    async def work(suite: Suite) -> list[pb.Approval]:
        return await pages(lambda page: suite.budget("ListApprovals", page), ask, lambda page: page.approvals, limit)

    found = with_suite(where, work)
    if output.as_json:
        output.object({"approvals": [to_plain(one) for one in found]})
        return
    output.table(
        ("expires", "state", "urgency", "approval", "what", "asked by"),
        [(when(a.expire_time), _state(a), _urgency(a), a.name, _what(a), a.requested_by) for a in found],
    )


@app.command()
def show(context: typer.Context, *, name: Name, as_json: Json = False) -> None:
    """Show an approval: what is asked for, by whom and why, and what was decided."""
    where, output = begin(context, as_json=as_json)
    ask = pb.GetApprovalRequest(name=name)
    found = with_suite(where, lambda suite: suite.budget("GetApproval", ask)).approval
    if output.as_json:
        output.object(found)
        return
    pairs = {
        "approval": found.name,
        "state": _state(found),
        "what": _what(found),
        "why": found.justification,
        "urgency": _urgency(found),
        "asked by": f"{found.requested_by}, {when(found.create_time)}",
        "expires": when(found.expire_time),
        "told": f"subscribers of {found.told}; {found.reminders} reminders, {found.escalations} escalations",
        "next told": when(found.next_step_time) if found.HasField("next_step_time") else "",
        "hold": found.operation.hold_trouble,
        "decided": f"{found.decided_by or 'by itself'}, {when(found.decide_time)}: {found.reason}"
        if found.HasField("decide_time")
        else "",
        "outcome": found.outcome,
    }
    output.pairs({name: value for name, value in pairs.items() if value})


@app.command()
def decide(
    context: typer.Context,
    *,
    name: Name,
    approve: Annotated[bool, typer.Option("--approve/--deny", help="What you say.")],
    reason: Annotated[str, typer.Option("--reason", help="Whoever asked reads it.")],
    request_id: RequestId = None,
    as_json: Json = False,
) -> None:
    """Approve or deny. Nobody decides his own request, and what is decided stays."""
    where, output = begin(context, as_json=as_json)
    verdict = pb.APPROVAL_VERDICT_APPROVE if approve else pb.APPROVAL_VERDICT_DENY
    ask = pb.DecideApprovalRequest(name=name, verdict=verdict, reason=reason, request_id=request_id or str(uuid4()))
    found = with_suite(where, lambda suite: suite.budget("DecideApproval", ask)).approval
    output.object(found) if output.as_json else _say(output, found)


@app.command()
def cancel(
    context: typer.Context,
    *,
    name: Name,
    reason: Annotated[str, typer.Option("--reason", help="For the history.")] = "",
    as_json: Json = False,
) -> None:
    """Give a request up that you made; what it holds is given back."""
    where, output = begin(context, as_json=as_json)
    ask = pb.CancelApprovalRequest(name=name, reason=reason)
    found = with_suite(where, lambda suite: suite.budget("CancelApproval", ask)).approval
    output.object(found) if output.as_json else _say(output, found)


@app.command()
def policy(
    context: typer.Context,
    *,
    subject: Annotated[str, typer.Argument(help="Whose policy; it holds for those below it too.")],
    above: Annotated[
        list[str], typer.Option("--above", help="What costs more needs an approval; once a currency.")
    ] = [],  # noqa: B006 - read only, and what typer wants
    held_max: Annotated[
        list[str], typer.Option("--held-max", help="The most that may be held for approvals; once a currency.")
    ] = [],  # noqa: B006
    times: Annotated[
        list[str], typer.Option("--times", help="URGENCY=REMIND,ESCALATE,EXPIRE, for example high=15m,30m,4h.")
    ] = [],  # noqa: B006
    none: Annotated[bool, typer.Option("--none", help="Ask for nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Show when a subject must ask; or set it, in place of what was there."""
    where, output = begin(context, as_json=as_json)
    ask = pb.GetApprovalPolicyRequest(subject=subject)
    if above or held_max or times or none:
        wanted = pb.ApprovalPolicy(subject=subject, times=[_times(text) for text in times])
        wanted.approval_above.extend(amount(text).to_proto() for text in above)
        wanted.held_max.extend(amount(text).to_proto() for text in held_max)
        change = pb.SetApprovalPolicyRequest(policy=wanted)
        made = with_suite(where, lambda suite: suite.budget("SetApprovalPolicy", change)).policy
        output.object(made) if output.as_json else _say_policy(output, "set", made)
        return
    found = with_suite(where, lambda suite: suite.budget("GetApprovalPolicy", ask))
    if output.as_json:
        output.object(found)
        return
    _say_policy(output, "its own", found.policy)
    _say_policy(output, "in force", found.in_force)


def _times(text: str) -> pb.ApprovalTimes:
    urgency, sign, spans = text.partition("=")
    parts = spans.split(",")
    if not sign or len(parts) != 3:
        raise CliError(f"{text!r} are no times", "write URGENCY=REMIND,ESCALATE,EXPIRE, for example high=15m,30m,4h")
    remind, escalate, expire = (Duration(seconds=seconds(part)) for part in parts)
    return pb.ApprovalTimes(
        urgency=enum_value(pb.Urgency, "URGENCY_", urgency, "--times"),
        remind_after=remind,
        escalate_after=escalate,
        expire_after=expire,
    )


def _say_policy(output: Output, label: str, found: pb.ApprovalPolicy) -> None:
    above = ", ".join(money(one) for one in found.approval_above) or "nothing"
    held = ", ".join(money(one) for one in found.held_max) or "no limit of its own"
    output.say(f"{found.subject}, {label}: above {above}; held at most: {held}")
    for one in found.times:
        name = pb.Urgency.Name(one.urgency).removeprefix("URGENCY_").lower()
        spans = (one.remind_after, one.escalate_after, one.expire_after)
        remind, escalate, expire = (str(span.ToTimedelta()) for span in spans)
        output.say(f"  {name}: remind after {remind}, escalate after {escalate}, expire after {expire}")


def _say(output: Output, found: pb.Approval) -> None:
    if found.state == pb.APPROVAL_STATE_PENDING:
        output.say(f"{found.name} waits until {when(found.expire_time)}: {_what(found)}")
        return
    who = f" by {found.decided_by}" if found.decided_by else ""
    output.say(f"{found.name} is {_state(found)}{who}: {found.reason or 'no reason given'}")
    if found.outcome:
        output.say(f"outcome: {found.outcome}")


def _state(found: pb.Approval) -> str:
    return pb.ApprovalState.Name(found.state).removeprefix("APPROVAL_STATE_").lower()


def _urgency(found: pb.Approval) -> str:
    return pb.Urgency.Name(found.urgency).removeprefix("URGENCY_").lower()


def _what(found: pb.Approval) -> str:
    if found.HasField("operation"):
        return f"{found.operation.operation}, {money(found.operation.cost)}"
    if found.HasField("budget_raise"):
        raised = found.budget_raise
        return f"raise {raised.budget} by {raised.amount:,} until {when(raised.end_time)}"
    more = [f"{found.recharges.extra_count} more recharges"] if found.recharges.extra_count else []
    if found.recharges.HasField("extra_amount"):
        more.append(f"{money(found.recharges.extra_amount)} more to recharge")
    return f"{' and '.join(more)} for {found.recharges.wallet}"
