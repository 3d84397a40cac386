"""`purse audit`: proves the books of a running system."""

from typing import Annotated, Any

import typer

from pursestrings.cli.asking import AUDIT_TIMEOUT_S, run_audit
from pursestrings.cli.books import Check
from pursestrings.cli.connection import Suite, with_suite
from pursestrings.cli.failures import CHECK_FAILED
from pursestrings.cli.options import Json, begin
from pursestrings.cli.output import Output
from pursestrings.metering.v1 import metering_pb2


def audit(
    context: typer.Context,
    org: Annotated[str, typer.Option("--org", help="Only this organisation, orgs/ID. Default: all.")] = "",
    deep: Annotated[
        bool, typer.Option("--deep", help="Also read every event of metering again. Takes minutes for millions.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Prove the books of the running system; ends with 1 where something does not hold."""
    where, output = begin(context, as_json=as_json)
    checks = with_suite(where, lambda suite: run_audit(suite, org))
    if deep:
        checks += with_suite(where, lambda suite: run_deep_audit(suite, org))
    show(output, checks)
    if not all(check.ok for check in checks):
        raise typer.Exit(CHECK_FAILED)


async def run_deep_audit(suite: Suite, org: str = "") -> list[Check]:
    """Has metering read every event again, part after part; of each check the first part that fails is told."""
    found: dict[str, Check] = {}
    parts, token = 0, ""
    while token or not parts:
        request = metering_pb2.AuditRequest(org=org, deep=True, page_token=token)
        answer = await suite.metering("Audit", request, AUDIT_TIMEOUT_S)
        for check in answer.checks:
            name = f"metering.deep.{check.name}"
            if name not in found or found[name].ok:
                found[name] = Check(name, check.ok, check.detail)
        parts, token = parts + 1, answer.next_page_token
    return [Check(one.name, one.ok, f"{parts} parts" if one.ok else one.detail) for one in found.values()]


def show(output: Output, checks: list[Check]) -> None:
    """Prints what was verified."""
    ok = all(check.ok for check in checks)
    if output.as_json:
        output.object(as_object(checks))
        return
    output.table(("holds", "check", "detail"), [("yes" if c.ok else "NO", c.name, c.detail) for c in checks])
    failed = sum(not check.ok for check in checks)
    output.say(f"{len(checks)} checks hold" if ok else f"{failed} of {len(checks)} checks DO NOT HOLD")


def as_object(checks: list[Check]) -> dict[str, Any]:
    """What `--json` prints."""
    return {
        "ok": all(check.ok for check in checks),
        "checks": [{"name": check.name, "ok": check.ok, "detail": check.detail} for check in checks],
    }
