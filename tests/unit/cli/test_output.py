"""What commands print."""

import json

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from pursestrings.budget.v1 import budget_pb2
from pursestrings.cli.output import Output, bar, to_plain, when
from pursestrings.type.v1 import type_pb2
from pursestrings.wallet.v1 import wallet_pb2


def test_a_message_becomes_plain_values() -> None:
    budget = budget_pb2.Budget(
        name="orgs/a/budgets/b",
        dimension=budget_pb2.DIMENSION_COST,
        limit_amount=2**62,
        window=budget_pb2.Window(kind=budget_pb2.WINDOW_KIND_DAY, time_zone="UTC"),
        thresholds_percent=[50, 100],
        selector=budget_pb2.Selector(models=["gpt-*"], labels={"env": "prod"}),
        create_time=Timestamp(seconds=1_780_272_000, nanos=5000),
    )
    plain = to_plain(budget)
    assert 2**62 == plain["limit_amount"]
    assert ("COST", "UNSPECIFIED") == (plain["dimension"], plain["on_exceed"])
    assert ("DAY", "UTC") == (plain["window"]["kind"], plain["window"]["time_zone"])
    assert [50, 100] == plain["thresholds_percent"]
    assert {"env": "prod"} == plain["selector"]["labels"]
    assert "2026-06-01T00:00:00.000005Z" == plain["create_time"]
    assert "update_time" not in plain
    json.dumps(plain)


def test_durations_are_seconds_and_unknown_enums_are_numbers() -> None:
    policy = wallet_pb2.RechargePolicy(cooldown=Duration(seconds=90, nanos=500_000_000))
    assert 90.5 == to_plain(policy)["cooldown"]
    unknown = budget_pb2.Budget.FromString(b"\x18\x63")
    assert 99 == to_plain(unknown)["dimension"]


def test_json_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(as_json=True)
    output.note("not for programs")
    output.object(type_pb2.Money(currency_code="USD", amount_nanos=5))
    printed = capsys.readouterr()
    assert {"currency_code": "USD", "amount_nanos": 5} == json.loads(printed.out)
    assert (1, "") == (printed.out.count("\n"), printed.err)


def test_text_is_not_markup(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(as_json=False)
    output.table(("name",), [("[red]x[/red]",), ("[/]",)])
    output.say("[bold]y")
    printed = capsys.readouterr().out
    assert "[red]x[/red]" in printed
    assert "[bold]y" in printed


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, "░" * 20), (0.5, "█" * 10 + "░" * 10), (1.0, "█" * 20), (7.0, "█" * 20 + "!")]
)
def test_bars(share: float, expected: str) -> None:
    assert expected == bar(share)


def test_an_absent_instant_is_empty() -> None:
    assert "" == when(None) == when(Timestamp())
    assert "2026-06-01 00:00Z" == when(Timestamp(seconds=1_780_272_000))
