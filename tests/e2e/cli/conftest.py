"""`purse` of the running suite, for every test of the command line."""

import json
import uuid
from typing import Any

import pytest

from pursestrings.cli.app import run
from tests.e2e.conftest import RunningSuite


class Purse:
    """`purse` of the suite, in process."""

    def __init__(self, suite: RunningSuite, capsys: pytest.CaptureFixture[str]) -> None:
        self._data = str(suite.data)
        self._capsys = capsys

    def __call__(self, *arguments: str, code: int = 0) -> Any:
        """The object that a command prints."""
        self._capsys.readouterr()
        ended = run(["--data", self._data, "--timeout", "30", *arguments, "--json"])
        printed = self._capsys.readouterr()
        assert code == ended, printed
        assert "Traceback" not in printed.err
        [line] = printed.out.splitlines()
        return json.loads(line)

    def text(self, *arguments: str, code: int = 0) -> str:
        """What a person sees."""
        self._capsys.readouterr()
        ended = run(["--data", self._data, "--timeout", "30", *arguments])
        printed = self._capsys.readouterr()
        assert code == ended, printed
        return printed.out + printed.err


@pytest.fixture
def purse(suite: RunningSuite, capsys: pytest.CaptureFixture[str]) -> Purse:
    return Purse(suite, capsys)


@pytest.fixture
def org() -> str:
    return f"orgs/p-{uuid.uuid4().hex[:12]}"
