"""Bad input: each its own error, naming the field, and nothing changed."""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

from google.protobuf.duration_pb2 import Duration

from pursestrings.budget.v1 import budget_pb2
from tests.support.budget import BOT, ORG, ask, refusal_of, refusals, rows, running_budget, usage

DEEP = "orgs/a" + "".join(f"/teams/t{i}" for i in range(8))

WRONG: dict[str, tuple[Callable[[], budget_pb2.ReserveRequest], str, str]] = {
    "malformed subject": (lambda: ask(subject="acme"), "subject", "MALFORMED_SUBJECT"),
    "too deep subject": (lambda: ask(subject=DEEP), "subject", "MALFORMED_SUBJECT"),
    "no request id": (lambda: ask(request_id=""), "request_id", "REQUEST_ID_REQUIRED"),
    "bad request id": (lambda: ask(request_id="a/b"), "request_id", "INVALID_ARGUMENT"),
    "long request id": (lambda: ask(request_id="a" * 64), "request_id", "INVALID_ARGUMENT"),
    "negative cost": (lambda: ask(cost=-1), "estimate.cost.amount_nanos", "AMOUNT_OUT_OF_RANGE"),
    "unknown currency": (lambda: ask(currency="ABC"), "estimate.cost.currency_code", "UNKNOWN_CURRENCY"),
    "negative tokens": (lambda: ask(input_tokens=-1), "estimate.input_tokens", "AMOUNT_OUT_OF_RANGE"),
    "too many tokens": (lambda: ask(max_output_tokens=2**62), "estimate.max_output_tokens", "AMOUNT_OUT_OF_RANGE"),
    "negative requests": (lambda: ask(requests=-1), "estimate.requests", "AMOUNT_OUT_OF_RANGE"),
    "short life": (lambda: ask(ttl=Duration(nanos=1)), "ttl", "INVALID_ARGUMENT"),
    "long life": (lambda: ask(ttl=Duration(seconds=86_401)), "ttl", "INVALID_ARGUMENT"),
    "long operation": (lambda: ask(operation="x" * 64), "call.operation", "INVALID_ARGUMENT"),
    "many labels": (lambda: ask(labels={str(i): "" for i in range(17)}), "call.labels", "INVALID_ARGUMENT"),
    "long label": (lambda: ask(labels={"k": "v" * 256}), "call.labels", "INVALID_ARGUMENT"),
    "zero byte": (lambda: ask(model="m\x00"), "call.model", "INVALID_ARGUMENT"),
    "control character in the model": (lambda: ask(model="m\x01"), "call.model", "INVALID_ARGUMENT"),
    "control character in the provider": (lambda: ask(provider="p\x00"), "call.provider", "INVALID_ARGUMENT"),
    "control character in the operation": (lambda: ask(operation="o\x00"), "call.operation", "INVALID_ARGUMENT"),
    "control character in a label's key": (lambda: ask(labels={"k\x00": "v"}), "call.labels", "INVALID_ARGUMENT"),
    "control character in a label": (lambda: ask(labels={"k": "v\x00"}), "call.labels.k", "INVALID_ARGUMENT"),
    "long model": (lambda: ask(model="m" * 257), "call.model", "INVALID_ARGUMENT"),
}


async def test_each_wrong_request_names_its_field(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        for name, (make, field, reason) in WRONG.items():
            refusal = await refusal_of(budget.admin.Reserve(make()))
            assert (name, refusal.field, refusal.reason) == (name, field, reason)
            assert refusal.code.name == "INVALID_ARGUMENT"
        assert await rows(budget.database, "SELECT FROM reservations") == []


async def test_an_estimate_past_what_can_be_counted_is_refused(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        await budget.create(ORG, "warn", on_exceed=budget_pb2.ON_EXCEED_WARN)
        assert (await budget.reserve(cost=2**63 - 1)).outcome == budget_pb2.OUTCOME_ALLOW
        refusal = await refusal_of(budget.reserve(cost=1))
        assert refusal.reason == "AMOUNT_OUT_OF_RANGE"


async def test_batches_have_a_limit(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        for count in (0, 1001):
            requests = [ask() for _ in range(count)]
            refusal = await refusal_of(budget.admin.BatchReserve(budget_pb2.BatchReserveRequest(requests=requests)))
            assert (refusal.field, refusal.reason) == ("requests", "BATCH_TOO_LARGE")


async def test_unknown_reservations_are_said_to_be_unknown(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        held = await budget.reserve(cost=1)
        elsewhere = held.reservation.replace("agents/bot", "agents/other")
        for name in (f"{BOT}/reservations/none", elsewhere):
            assert (await refusal_of(budget.release(name))).reason == "RESERVATION_UNKNOWN"
            assert (await refusal_of(budget.get(name))).reason == "RESERVATION_UNKNOWN"
        refusal = await refusal_of(budget.release("none"))
        assert (refusal.field, refusal.reason) == ("name", "MALFORMED_NAME")
        assert (await budget.get(held.reservation)).state == budget_pb2.RESERVATION_STATE_OPEN


async def test_control_characters_are_refused_wherever_text_is_kept(database: Any, tmp_path: Path) -> None:
    async with running_budget(database("budget"), tmp_path) as budget:
        token = base64.urlsafe_b64encode(f"{ORG}\nb\x00".encode()).decode()
        point = budget_pb2.LeasePoint(wallet="a\x00")
        wrong: dict[str, Any] = {
            "budget.display_name": budget.create(ORG, "b", display_name="a\x00b"),
            "budget.selector.models": budget.create(ORG, "b", selector=budget_pb2.Selector(models=["a\x00"])),
            "budget.selector.labels": budget.create(ORG, "b", selector=budget_pb2.Selector(labels={"a": "\x00"})),
            "page_token": budget.admin.ListBudgets(budget_pb2.ListBudgetsRequest(parent=ORG, page_token=token)),
            "relay": budget.admin.ApplyUsage(budget_pb2.ApplyUsageRequest(relay="a\x00")),
            "lease_points.wallet": budget.admin.Audit(budget_pb2.AuditRequest(lease_points=[point])),
        }
        for field, call in wrong.items():
            refusal = await refusal_of(call)
            assert (refusal.field, refusal.code.name) == (field, "INVALID_ARGUMENT")
        (result,) = await budget.apply(usage(currency="US\x00"))
        assert refusals([result]) == ["INVALID_ARGUMENT"]
