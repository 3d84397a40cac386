"""Where a client looks for its services and its credential."""

import os
from pathlib import Path

import pytest

from pursestrings import _channel
from pursestrings._channel import Credential, is_loopback
from pursestrings._settings import Settings, from_environment


def test_the_defaults_are_those_of_one_machine() -> None:
    assert Settings() == from_environment({})
    assert ("127.0.0.1:7402", "127.0.0.1:7401", "127.0.0.1:7403") == (
        Settings().budget,
        Settings().metering,
        Settings().wallet,
    )


def test_the_environment_is_read_and_arguments_win() -> None:
    env = {
        "PURSE_BUDGET_ADDRESS": "127.0.0.1:1",
        "PURSE_METERING_ADDRESS": "127.0.0.1:2",
        "PURSE_WALLET_ADDRESS": "127.0.0.1:3",
        "PURSE_TOKEN": "t",
        "PURSE_CA_FILE": "/ca.pem",
        "PURSE_ALLOW_PLAINTEXT": "True",
    }
    found = from_environment(env, budget="127.0.0.1:9", allow_plaintext=False)
    assert ("127.0.0.1:9", "127.0.0.1:2", "127.0.0.1:3", "t", Path("/ca.pem"), False) == (
        found.budget,
        found.metering,
        found.wallet,
        found.token,
        found.ca_file,
        found.allow_plaintext,
    )
    assert from_environment(env).allow_plaintext


def test_a_token_file_that_is_given_beats_a_token_that_lies_about() -> None:
    found = from_environment({"PURSE_TOKEN": "t"}, token_file="f")
    assert (None, Path("f")) == (found.token, found.token_file)
    found = from_environment({"PURSE_TOKEN_FILE": "f"}, token="t")
    assert ("t", None) == (found.token, found.token_file)


def test_a_token_file_is_read_again_when_it_changes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(_channel, "_TOKEN_FILE_CHECK_S", 0.0)
    file = tmp_path / "token"
    file.write_text("one\n")
    credential = Credential(Settings(token_file=file))
    assert ("authorization", "Bearer one") == credential.header()
    file.write_text("two\n")
    os.utime(file, ns=(1, 1))
    assert ("authorization", "Bearer two") == credential.header()
    file.unlink()
    assert ("authorization", "Bearer two") == credential.header()


def test_a_missing_token_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Credential(Settings(token_file=tmp_path / "none")).header()


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:1", True),
        ("localhost:1", True),
        ("[::1]:1", True),
        ("10.0.0.1:1", False),
        ("dns:///budget:7402", False),
        ("localhost.example:1", False),
    ],
)
def test_loopback(address: str, *, expected: bool) -> None:
    assert expected == is_loopback(address)
