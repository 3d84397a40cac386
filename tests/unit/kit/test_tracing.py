"""Where traces may go."""

from pathlib import Path

import pytest

from services.kit.settings import ServiceSettings
from services.kit.tracing import traced


@pytest.mark.parametrize(
    ("endpoint", "said"),
    [
        ("http://collector.example:4318", "another machine"),
        ("http://192.0.2.7:4318", "another machine"),
        ("collector:4318", "give it as https://host:port"),
        ("grpc://collector:4317", "give it as https://host:port"),
    ],
)
def test_a_collector_that_is_refused(endpoint: str, said: str) -> None:
    with pytest.raises(SystemExit, match=said), traced(ServiceSettings(otlp_endpoint=endpoint), "worker"):
        pass


def test_no_collector_no_traces(tmp_path: Path) -> None:
    with traced(ServiceSettings(), "worker"):
        assert not list(tmp_path.iterdir())
