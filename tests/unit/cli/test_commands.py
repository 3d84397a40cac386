"""Commands without a suite: what they refuse, and how they end."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Coroutine
from pathlib import Path

import pytest

from pursestrings._errors import Denied, Rejected, Unavailable
from pursestrings.cli import app as app_module
from pursestrings.cli.app import run
from pursestrings.cli.connection import Where, settings
from pursestrings.cli.failures import CliError, explain
from pursestrings.cli.options import amount, instant, labels, seconds, split_name
from pursestrings.cli.sample_log import sample_calls
from services.kit import auth
from tests.unit.client.servicer import DENIAL

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


@pytest.fixture(autouse=True)
def somewhere_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No suite here, and nothing in the environment that leads to one."""
    monkeypatch.chdir(tmp_path)
    for name in ("BUDGET_ADDRESS", "METERING_ADDRESS", "WALLET_ADDRESS", "TOKEN", "TOKEN_FILE", "DATA", "DEBUG"):
        monkeypatch.delenv(f"PURSE_{name}", raising=False)


def nowhere(*arguments: str) -> list[str]:
    """A command on addresses where nobody answers."""
    dead = "127.0.0.1:1"
    return ["--timeout", "0.1", "--budget", dead, "--metering", dead, "--wallet", dead, *arguments]


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == run(["--help"])
    shown = capsys.readouterr().out
    for command in ("up", "status", "demo", "replay", "audit", "budget", "reservations", "wallet", "usage", "token"):
        assert f"\n  {command} " in shown


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == run(["--version"])
    assert capsys.readouterr().out.startswith("purse 0.")


@pytest.mark.parametrize(
    "arguments",
    [
        ["wallet", "balance", "orgs/a/wallets/b"],
        ["budget", "list", "orgs/a"],
        ["usage", "today", "orgs/a"],
        ["audit"],
        ["status"],
        ["usage", "record", "orgs/a", "--input", "5"],
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_a_suite_out_of_reach_ends_with_3(
    capsys: pytest.CaptureFixture[str], arguments: list[str], *, as_json: bool
) -> None:
    assert 3 == run(nowhere(*arguments, *(["--json"] if as_json else [])))
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    if as_json:
        json.loads(printed.out)
    elif arguments != ["status"]:
        assert "error: " in printed.err
        assert "purse up" in printed.err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nonsense"], "nonsense"),
        (["budget", "create", "orgs/a", "--limit", "1"], "no name of this kind"),
        (["budget", "create", "orgs/a/wallets/b", "--limit", "1"], "no name of this kind"),
        (["budget", "create", "orgs/a/budgets/b", "--limit", "lots"], "no amount"),
        (["budget", "create", "orgs/a/budgets/b", "--limit", "1.5", "--dimension", "tokens"], "no count"),
        (["budget", "create", "orgs/a/budgets/b", "--limit", "1", "--window", "year"], "day, week, month"),
        (["budget", "create", "orgs/a/budgets/b", "--limit", "1", "--on-exceed", "shrug"], "block, warn"),
        (["budget", "create", "orgs/a/budgets/b", "--limit", "1", "--label", "x"], "key=value"),
        (["usage", "query", "orgs/a", "--by", "mood"], "choose from day"),
        (["usage", "query", "orgs/a", "--from", "someday"], "no instant"),
        (["usage", "record", "orgs/a"], "nothing to record"),
        (["usage", "runs", "orgs/a", "--sort", "mood"], "choose from time, cost, tokens"),
        (["usage", "estimate", "orgs/a", "--model", "m", "--input", "-1"], "--input"),
        (["replay", "absent.csv"], "absent.csv: No such file"),
        (["replay", "log.csv", "--speed", "soon"], "no speed"),
        (["replay", "log.csv", "--subjects", "0"], "--subjects"),
        (["token", "mint", "orgs/a", "--ttl", "soon"], "no length of time"),
        (["token", "mint", "orgs/a"], "no signing key"),
        (["--budget", "nowhere", "budget", "list", "orgs/a"], "host:port"),
        (["--token-file", "absent", "budget", "list", "orgs/a"], "absent: No such file"),
    ],
)
def test_wrong_commands_end_with_2_and_say_what_to_do(
    capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    Path("log.csv").write_text(HEADER + "2023-11-16 00:00:00,1,1\n")
    assert 2 == run(["--timeout", "0.1", *arguments])
    printed = capsys.readouterr().err
    assert expected in printed
    assert "Traceback" not in printed


def test_a_strict_replay_plays_nothing_when_a_row_is_bad(capsys: pytest.CaptureFixture[str]) -> None:
    Path("log.csv").write_text(HEADER + "2023-11-16 00:00:00,1,1\nx,y,z\n")
    assert 1 == run(nowhere("replay", "log.csv", "--strict"))
    assert "line 3: TIMESTAMP 'x' is no time" in capsys.readouterr().err


def test_keys_for_a_suite_elsewhere_sign_its_tokens(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    keys = str(tmp_path / "keys")
    assert 0 == run(["token", "keys", keys])
    public = (tmp_path / "keys" / "public.pem").read_bytes()
    assert 0 == run(["token", "keys", keys])
    assert public == (tmp_path / "keys" / "public.pem").read_bytes(), "made once"
    assert ["public.pem", "signing.pem"] == sorted(path.name for path in (tmp_path / "keys").iterdir())
    capsys.readouterr()
    assert 0 == run(["token", "mint", "orgs/-", "--role", "service", "--ttl", "365d", "--keys", keys])
    who = auth.Verifier(public).verify(capsys.readouterr().out.strip(), time.time())
    assert ("orgs/-", {"service"}) == (who.subject, set(who.roles))


def test_a_token_is_minted_with_the_suites_key(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from services.kit import auth

    private, public = auth.generate_key()
    keys = tmp_path / ".purse" / "keys"
    keys.mkdir(parents=True)
    (keys / "signing.pem").write_bytes(private)
    assert 0 == run(["token", "mint", "orgs/acme", "--role", "agent", "--role", "auditor", "--ttl", "2h", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert (7200, ["agent", "auditor"]) == (told["ttl_s"], told["roles"])
    who = auth.Verifier(public).verify(told["token"], time.time())
    assert ("orgs/acme", frozenset({"agent", "auditor"})) == (who.subject, who.roles)
    assert 2 == run(["token", "mint", "orgs/acme", "--role", "king"])
    assert 2 == run(["token", "mint", "acme"])


def test_the_suites_state_file_is_found(tmp_path: Path) -> None:
    folder = tmp_path / ".purse"
    folder.mkdir()
    state = {
        "endpoints": {"budget": {"kind": "grpc", "address": "127.0.0.1:5"}},
        "files": {"token": str(folder / "dev.token")},
    }
    (folder / "suite.json").write_text(json.dumps(state))
    found = settings(Where())
    assert ("127.0.0.1:5", None, folder / "dev.token") == (found["budget"], found["wallet"], found["token_file"])
    assert "127.0.0.1:9" == settings(Where(budget="127.0.0.1:9"))["budget"]


def test_the_environment_beats_the_state_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / ".purse"
    folder.mkdir()
    (folder / "suite.json").write_text(
        json.dumps({"endpoints": {"budget": {"kind": "grpc", "address": "127.0.0.1:5"}}, "files": {"token": "t"}})
    )
    monkeypatch.setenv("PURSE_BUDGET_ADDRESS", "127.0.0.1:6")
    monkeypatch.setenv("PURSE_TOKEN", "mine")
    found = settings(Where())
    assert ("127.0.0.1:6", None) == (found["budget"], found["token_file"])


def test_a_broken_state_file_is_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / ".purse").mkdir()
    (tmp_path / ".purse" / "suite.json").write_text("{")
    assert 2 == run(["status"])
    assert "no state file" in capsys.readouterr().err


def test_status_probes_what_it_lists(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = tmp_path / ".purse"
    folder.mkdir()
    endpoints = {
        "gateway": {"kind": "http", "address": "127.0.0.1:1", "url": "http://127.0.0.1:1"},
        "postgres": {"kind": "postgres", "address": "127.0.0.1:1"},
        "temporal": {"kind": "grpc", "address": "127.0.0.1:1"},
    }
    (folder / "suite.json").write_text(json.dumps({"endpoints": endpoints, "files": {}, "status": "ready"}))
    assert 3 == run(nowhere("status", "--json"))
    told = json.loads(capsys.readouterr().out)
    assert (False, "ready") == (told["ok"], told["status"])
    assert {"gateway", "postgres", "temporal", "budget", "metering", "wallet"} == {e["name"] for e in told["endpoints"]}
    assert not any(endpoint["ok"] for endpoint in told["endpoints"])
    assert all(endpoint["detail"] for endpoint in told["endpoints"])


@pytest.mark.parametrize(
    ("error", "code", "expected"),
    [
        (CliError("m", "h", 7), 7, "m"),
        (Denied(DENIAL), 4, "orgs/acme/budgets/tight"),
        (Rejected("INVALID_ARGUMENT", "UNKNOWN_MODEL", "no such model"), 2, "no such model"),
        (Rejected("NOT_FOUND", "NOT_FOUND", "absent"), 2, "absent"),
        (Rejected("PERMISSION_DENIED", "ROLE_MISSING", "no"), 4, "no"),
        (Rejected("UNAUTHENTICATED", "UNAUTHENTICATED", "who"), 4, "who"),
        (Rejected("RESOURCE_EXHAUSTED", "QUEUE_FULL", "full"), 3, "full"),
        (Unavailable("away"), 3, "away"),
        (FileNotFoundError(2, "No such file", "x"), 2, "x: No such file"),
        (ZeroDivisionError("oh"), 1, "ZeroDivisionError"),
    ],
)
def test_every_error_has_a_code_and_words(error: Exception, code: int, expected: str) -> None:
    found, told = explain(error)
    assert code == found
    assert expected in told["message"]
    json.dumps(told)


def test_an_unforeseen_error_is_no_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(app_module, "app", broken)
    assert 1 == run(["status"])
    printed = capsys.readouterr().err
    assert "unforeseen ZeroDivisionError: oh" in printed
    assert "Traceback" not in printed
    monkeypatch.setenv("PURSE_DEBUG", "1")
    assert 1 == run(["status"])
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("kind", [KeyboardInterrupt, asyncio.CancelledError])
def test_an_interrupt_ends_with_130(monkeypatch: pytest.MonkeyPatch, kind: type[BaseException]) -> None:
    def interrupted(work: Coroutine[object, object, object]) -> None:
        work.close()
        raise kind

    monkeypatch.setattr(asyncio, "run", interrupted)
    assert 130 == run(nowhere("wallet", "balance", "orgs/a/wallets/b"))


def test_the_command_says_what_it_lacks() -> None:
    code = (
        "import sys\n"
        "sys.modules['typer'] = None\n"
        "from pursestrings.cli import main\n"
        "try:\n    main()\nexcept SystemExit as ended:\n    print(ended.code)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60)
    assert "2" == done.stdout.strip()
    assert "pip install 'pursestrings[cli]'" in done.stderr


@pytest.mark.parametrize(("text", "expected"), [("90", 90), ("90s", 90), ("15m", 900), ("2h", 7200), ("7d", 604_800)])
def test_lengths_of_time(text: str, expected: int) -> None:
    assert expected == seconds(text)


def test_small_readers() -> None:
    assert ("orgs/a/teams/b", "c") == split_name("orgs/a/teams/b/budgets/c", "budgets")
    assert {"a": "b=c", "d": ""} == labels(["a=b=c", "d="])
    assert 5_000_000_000 == amount("5").amount_nanos
    assert 1_780_272_000 == instant("2026-06-01").seconds == instant("2026-06-01T02:00:00+02:00").seconds


def test_the_sample_log_is_the_same_every_time() -> None:
    one, two = sample_calls(5), sample_calls(5)
    first = [next(one) for _ in range(500)]
    assert first == [next(two) for _ in range(500)]
    assert {0, 1, 2, 3, 4} == {call.agent for call in first}
    assert all(0 <= call.cached_tokens <= call.input_tokens <= 20_000 for call in first)
    other = sample_calls(5, seed=1)
    assert first != [next(other) for _ in range(500)]
