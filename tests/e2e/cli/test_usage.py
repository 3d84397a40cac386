"""Prices, later words on usage and exports from the command line, against the real suite."""

import json
from pathlib import Path

import pytest
from pyarrow import parquet  # type: ignore[import-untyped]

from pursestrings.cli import usage_export
from pursestrings.cli.app import run
from tests.e2e.cli.conftest import Purse
from tests.e2e.conftest import RunningSuite

LITELLM = {
    "house-model": {
        "litellm_provider": "house",
        "mode": "chat",
        "input_cost_per_token": 1e-06,
        "output_cost_per_token": 2e-06,
    },
    "free-model": {"litellm_provider": "house", "mode": "chat", "input_cost_per_token": 0, "output_cost_per_token": 0},
}


def test_prices(purse: Purse, org: str, tmp_path: Path) -> None:
    shown = purse("rates", "show", "gpt-4o-mini", "--subject", org)
    assert ("openai", 150_000_000) == (shown["price"]["provider"], shown["price"]["prices"]["input_tokens"])
    assert "openai/gpt-4o-mini standard, rate card" in purse.text("rates", "show", "gpt-4o-mini", "--subject", org)
    assert "UNKNOWN_MODEL" == purse("rates", "show", "no-such", "--subject", org, code=2)["error"]["reason"]
    assert [] == purse("rates", "list", "--org", org)["cards"]

    marked = purse("rates", "override", "--org", org, "--markup", "20")
    assert (0, [200_000]) == (marked["model_count"], [one["parts_per_million"] for one in marked["markups"]])
    prices = ("--price", "input_tokens=2.50", "--price", "output_tokens=12")
    assert "published card-" in purse.text("rates", "override", "--org", org, "--model", "gpt-4o", *prices)
    again = purse("rates", "override", "--org", org, "--model", "gpt-4o", *prices)
    assert (1, 1) == (again["model_count"], len(again["markups"]))
    assert "nothing to override" in purse.text("rates", "override", "--org", org, code=2)
    assert "cannot be read" in purse.text("rates", "override", "--org", org, "--model", "m", "--price", "x", code=2)

    card = tmp_path / "card.json"
    card.write_text(
        json.dumps({"prices": [{"provider": "lab", "model": "m-1", "prices": {"input_tokens": 2 * 10**9}}]})
    )
    published = purse("rates", "publish", str(card), "--org", org, "--description", "ours", "--request-id", "p1")
    assert (1, [], "ours") == (published["model_count"], published["markups"], published["description"])
    assert published == purse(
        "rates", "publish", str(card), "--org", org, "--description", "ours", "--request-id", "p1"
    )
    card.write_text('{"nonsense": 1}')
    assert "docs/rating.md" in purse("rates", "publish", str(card), "--org", org, code=2)["error"]["hint"]

    prices_file = tmp_path / "litellm.json"
    prices_file.write_text(json.dumps(LITELLM))
    checked = purse("rates", "import", str(prices_file), "--org", org, "--check")
    assert (1, ["free-model"]) == (checked["imported"], [one["model"] for one in checked["skipped_models"]])
    assert "1 models imported as card-" in purse.text("rates", "import", str(prices_file), "--org", org)
    listed = purse("rates", "list", "--org", org)["cards"]
    assert ["", "ours"] == [one["description"] for one in listed[:2]]
    assert 5 == len(listed)
    assert "ours" in purse.text("rates", "list", "--org", org)


def test_later_words(purse: Purse, org: str) -> None:
    bot = f"{org}/agents/bot"
    purse("usage", "record", bot, "--model", "gpt-4o-mini", "--input", "1000", "--output", "100", "--id", "1")
    of = ("usage", "correct", "--org", org, "--source", "purse-cli", "--reason", "the invoice says so")
    corrected = purse(*of, "--id", "1", "--cost", "0.01", "--request-id", f"{org}-c1")
    assert (1, 10_000_000, 9_790_000, False) == (
        corrected["n"],
        corrected["cost"]["amount_nanos"],
        corrected["cost_difference"]["amount_nanos"],
        corrected["duplicate"],
    )
    same = purse.text(*of, "--id", "1", "--cost", "0.01", "--request-id", f"{org}-c1")
    assert "which had been corrected so before" in same
    counted = purse.text(*of, "--id", "1", "--input", "2000", "--output", "100")
    assert "1 of purse-cli is" in counted
    assert "belong together" in purse.text(*of, "--id", "1", "--input", "2000", code=2)
    assert "USAGE_UNKNOWN" == purse(*of, "--id", "none", "--cost", "1", code=2)["error"]["reason"]

    today = purse("usage", "today", org)["today"]
    assert (2000, 1, 1) == (today["tokens"]["input_tokens"], today["operations"], today["requests"])

    unpriced = ("--model", "nobody-prices-this", "--input", "10", "--output", "1", "--id", "2")
    assert "unrated" in purse.text("usage", "record", bot, *unpriced)
    told = purse("usage", "unrated", "--org", org)
    assert (["2"], ["nobody-prices-this"]) == (
        [one["id"] for one in told["usage"]],
        [m["model"] for m in told["models"]],
    )
    assert "nobody-prices-this: " in purse.text("usage", "unrated", "--org", org)
    assert "0.50 USD now" in purse.text(*of, "--id", "2", "--cost", "0.5")
    assert [] == purse("usage", "unrated", "--org", org)["usage"]


def test_exports(purse: Purse, suite: RunningSuite, org: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(3):
        purse("usage", "record", f"{org}/agents/a{n}", "--model", "gpt-4o-mini", "--input", "9", "--id", str(n))
    out = tmp_path / "new" / "usage.csv"
    assert {"file": str(out), "rows": 3} == purse("usage", "export", "--subject", org, "--out", str(out))
    assert 4 == len(out.read_text().splitlines())
    assert [out] == list(out.parent.iterdir())
    assert "is there already" in purse.text("usage", "export", "--subject", org, "--out", str(out), code=2)
    assert "is not known" in purse.text(
        *("usage", "export", "--subject", org, "--out", str(tmp_path / "x"), "--format", "xls"), code=2
    )

    parts = tmp_path / "parts"
    whole = ("usage", "export", "--subject", org, "--format", "parquet", "--out", str(parts))
    assert "3 rows in" in purse.text(*whole, "--from", "2026-01-01")
    assert ["0", "1", "2"] == parquet.read_table(parts).column("id").to_pylist()

    # Cut after a piece is written and before its place is kept; then some of it is written again.
    lines = tmp_path / "usage.jsonl"
    command = ["usage", "export", "--subject", org, "--format", "jsonl", "--out", str(lines)]

    def cut(_self: usage_export.Target) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(usage_export.Target, "finish", cut)
        assert 130 == run(["--data", str(suite.data), *command])
    assert not lines.exists()
    with (tmp_path / "usage.jsonl.part").open("a") as file:
        file.write('{"half')
    other = purse("usage", "export", "--subject", org, "--format", "csv", "--out", str(lines), code=2)
    assert "of another export" in other["error"]["message"]
    assert "going on after 3 rows" in purse.text(*command)
    assert ["0", "1", "2"] == [json.loads(line)["id"] for line in lines.read_text().splitlines()]


def test_savings(purse: Purse, org: str, tmp_path: Path) -> None:
    file = tmp_path / "rules.json"
    rule = {"id": "small-talk", "operations": ["classify"], "candidate_models": ["openai/gpt-4o-mini"]}
    file.write_text(json.dumps({"rules": [rule | {"batchable": True, "labels": {"env": "prod"}, "efforts": ["low"]}]}))
    assert "0 rules" in purse.text("usage", "rules", org)
    shown = purse.text("usage", "rules", org, "--set", str(file))
    assert "operation classify; effort low; label env=prod; batchable yes" in shown
    file.write_text(json.dumps({"rules": [rule]}))
    replaced = purse("usage", "rules", org, "--set", str(file), "--etag", "1")
    assert ("2", ["small-talk"]) == (replaced["etag"], [one["id"] for one in replaced["rules"]])
    assert replaced == purse("usage", "rules", org)
    # Another's change is not overwritten.
    assert "RULES_CHANGED" == purse("usage", "rules", org, "--set", str(file), "--etag", "1", code=2)["error"]["reason"]
    assert "operation classify" in purse.text("usage", "rules", org)
    for wrong in ("{", '{"nonsense": 1}'):
        file.write_text(wrong)
        assert "docs/usage.md" in purse("usage", "rules", org, "--set", str(file), code=2)["error"]["hint"]

    work = ("--model", "gpt-4o", "--input", "1000000", "--output", "0")
    for number, operation in enumerate(("classify", "classify", "plan")):
        purse("usage", "record", f"{org}/agents/bot", *work, "--operation", operation, "--id", str(number))
    found = purse("usage", "savings", org)
    assert (3, 2, 7_500_000_000) == (found["calls"], found["rules"][0]["calls"], found["cost_nanos"])
    assert 2 * (2_500_000_000 - 150_000_000) == found["total"]["savings_nanos"]
    said = purse.text("usage", "savings", org)
    assert "67 % of the calls (2 of 3) could have been done by openai/gpt-4o-mini" in said
    assert "of 3 calls at 7.50 USD" in said
    assert 0 == purse("usage", "savings", org, "--to", "2020-01-02", "--from", "2020-01-01")["calls"]
