"""No secret reaches a log."""

import json
from collections.abc import Iterator

import pytest
import structlog

from services.kit.telemetry import configure_logging, get_logger


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def test_secrets_are_hidden_by_name_and_by_look(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "test")

    get_logger("t").info(
        "started",
        service_token="abc",
        dsn="postgresql://u:hunter2@h/db",
        note="key sk_test_51abcdefgh and postgresql://u:hunter2@h/db and Bearer eyJ0",
        port=7402,
    )

    line = json.loads(capsys.readouterr().err.splitlines()[-1])
    assert ("[hidden]", "[hidden]", 7402) == (line["service_token"], line["dsn"], line["port"])
    assert "hunter2" not in line["note"]
    assert "51abcdefgh" not in line["note"]
    assert "eyJ0" not in line["note"]


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(KeyError):
        configure_logging("loud", "test")
