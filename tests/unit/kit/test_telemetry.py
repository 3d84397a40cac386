"""No secret reaches a log."""

import json
from collections.abc import Iterator

import pytest
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from services.kit.telemetry import configure_logging, get_logger, summed


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


def test_metrics_of_several_processes_are_summed() -> None:
    own = b"""# HELP purse_x_total X.
# TYPE purse_x_total counter
purse_x_total{kind="a"} 1.0
# TYPE purse_x_created gauge
purse_x_created{kind="a"} 5.0
# HELP purse_s S.
# TYPE purse_s histogram
purse_s_bucket{le="1.0"} 1.0
purse_s_bucket{le="+Inf"} 2.0
purse_s_count 2.0
purse_s_sum 9.0
# TYPE process_resident_memory_bytes gauge
process_resident_memory_bytes 100.0
"""
    other = own.replace(b'{kind="a"} 1.0', b'{kind="b"} 4.0') + b"# TYPE purse_new gauge\npurse_new 7.0\n"

    lines = summed(text_string_to_metric_families(own.decode()), [other, other]).decode().splitlines()

    assert {
        'purse_x_total{kind="a"} 1.0',
        'purse_x_total{kind="b"} 8.0',
        'purse_x_created{kind="a"} 5.0',
        'purse_s_bucket{le="1.0"} 3.0',
        'purse_s_bucket{le="+Inf"} 6.0',
        "purse_s_count 6.0",
        "purse_s_sum 27.0",
        "purse_new 14.0",
        "process_resident_memory_bytes 100.0",
        "# TYPE purse_s histogram",
    } <= set(lines)
    assert len(lines) == len(set(lines))


def test_metrics_as_they_are_collected_are_summed_with_what_others_say() -> None:
    registry = CollectorRegistry()
    Counter("purse_x", "X.", ["kind"], registry=registry).labels('a"\\\n').inc(2)
    Histogram("purse_s", "S.", buckets=(1,), registry=registry).observe(3)
    Gauge("purse_g", "G.", registry=registry).set(5)
    own = generate_latest(registry)

    tripled = summed(registry.collect(), [own, own]).decode()

    assert summed(registry.collect(), []) == own
    assert 'purse_x_total{kind="a\\"\\\\\\n"} 6.0' in tripled
    assert {"purse_s_count 3.0", "purse_s_sum 9.0", "purse_g 15.0"} <= set(tripled.splitlines())
    assert tripled.count("_created") == own.decode().count("_created")
