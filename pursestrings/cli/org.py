"""`purse org`: what holds for a whole organisation."""

from typing import Annotated, Any

import typer

from pursestrings.budget.v1 import budget_pb2, pauses_pb2
from pursestrings.cli.budget import enum_value
from pursestrings.cli.connection import Suite, with_suite
from pursestrings.cli.failures import CliError
from pursestrings.cli.options import Json, begin
from pursestrings.cli.output import to_plain

app = typer.Typer(help="Settings of an organisation.", no_args_is_help=True)

Org = Annotated[str, typer.Argument(help="The organisation, for example orgs/acme.")]


@app.command()
def settings(context: typer.Context, *, org: Org, as_json: Json = False) -> None:
    """Show the settings in force."""
    where, output = begin(context, as_json=as_json)
    request = budget_pb2.GetOrgSettingsRequest(org=org)
    found = with_suite(where, lambda suite: suite.budget("GetOrgSettings", request)).settings
    if output.as_json:
        output.object(found)
        return
    output.pairs({name.replace("_", " "): _text(value) for name, value in to_plain(found).items()})


@app.command("set")
def set_(
    context: typer.Context,
    *,
    org: Org,
    on_exceed: Annotated[str | None, typer.Option("--on-exceed", help="Of new budgets that do not say it.")] = None,
    resume: Annotated[str | None, typer.Option("--resume", help="manual or window-end; likewise.")] = None,
    threshold: Annotated[list[int] | None, typer.Option("--threshold", help="Percent; may be repeated.")] = None,
    unbudgeted: Annotated[
        bool | None, typer.Option("--allow-unbudgeted/--deny-unbudgeted", help="Spends that no budget counts.")
    ] = None,
    require_wallet: Annotated[
        bool | None, typer.Option("--require-wallet/--no-require-wallet", help="Deny spends without a wallet.")
    ] = None,
    expired_hold: Annotated[
        str | None, typer.Option("--expired-hold", help="release or charge-estimate: what nobody settled in time.")
    ] = None,
    unrated_model: Annotated[
        str | None, typer.Option("--unrated-model", help="allow or block: models that no rate card prices.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Change the settings that are named; the rest stays."""
    where, output = begin(context, as_json=as_json)

    async def work(suite: Suite) -> budget_pb2.OrgSettings:
        seen = (await suite.budget("GetOrgSettings", budget_pb2.GetOrgSettingsRequest(org=org))).settings
        wanted = budget_pb2.OrgSettings()
        wanted.CopyFrom(seen)
        mask = []
        if on_exceed is not None:
            wanted.default_on_exceed = enum_value(budget_pb2.OnExceed, "ON_EXCEED_", on_exceed, "--on-exceed")
            mask.append("default_on_exceed")
        if resume is not None:
            wanted.default_resume = enum_value(pauses_pb2.ResumeMode, "RESUME_MODE_", resume, "--resume")
            mask.append("default_resume")
        if threshold:
            wanted.default_thresholds_percent[:] = threshold
            mask.append("default_thresholds_percent")
        if unbudgeted is not None:
            wanted.deny_unbudgeted = not unbudgeted
            mask.append("deny_unbudgeted")
        if require_wallet is not None:
            wanted.require_wallet = require_wallet
            mask.append("require_wallet")
        if expired_hold is not None:
            wanted.expired_hold = enum_value(budget_pb2.ExpiredHold, "EXPIRED_HOLD_", expired_hold, "--expired-hold")
            mask.append("expired_hold")
        if unrated_model is not None:
            wanted.unrated_model = enum_value(
                budget_pb2.UnratedModel, "UNRATED_MODEL_", unrated_model, "--unrated-model"
            )
            mask.append("unrated_model")
        if not mask:
            raise CliError("nothing to change", "name what to change, for example --deny-unbudgeted")
        request = budget_pb2.UpdateOrgSettingsRequest(settings=wanted)
        request.update_mask.paths.extend(mask)
        answer: budget_pb2.UpdateOrgSettingsResponse = await suite.budget("UpdateOrgSettings", request)
        return answer.settings

    changed = with_suite(where, work)
    output.object(changed) if output.as_json else output.say(f"changed the settings of {changed.org}")


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
