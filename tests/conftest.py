"""Real parts for tests: one PostgreSQL, one Temporal and one Stripe twin a session, a fresh database a test."""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from embedded import temporal
from embedded.ports import LOOPBACK, free_ports
from embedded.postgres import Cluster
from services.kit.telemetry import configure_logging
from tests.support.databases import CHECKOUT, Database, Databases, running_cluster
from tests.support.processes import answers, running, serves

# How fast the machine is decides no test.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


# As in the services: unconfigured, structlog draws every traceback with its locals, which takes a second each.
configure_logging("warning", "tests")


@dataclass(frozen=True, slots=True)
class TwinServer:
    """A running Stripe twin.

    Attributes:
        url: Where its API answers.
        port: Its port, on 127.0.0.1.
        pid: Its process.
    """

    url: str
    port: int
    pid: int


@pytest.fixture(scope="session")
def session_dir() -> Iterator[Path]:
    """A private folder of the session, removed at its end."""
    with tempfile.TemporaryDirectory(prefix="purse-tests-") as directory:
        yield Path(directory)


@pytest.fixture(scope="session")
def postgres_cluster(session_dir: Path) -> Iterator[Cluster]:
    """The session's PostgreSQL; tests take a `database` of it."""
    with running_cluster(session_dir / "postgres") as cluster:
        yield cluster


@pytest.fixture(scope="session")
def databases(postgres_cluster: Cluster) -> Iterator[Databases]:
    """Makes databases, for fixtures of a wider scope than a test; whoever creates one drops it."""
    made = Databases(postgres_cluster)
    yield made
    made.close()


@pytest.fixture
def database(databases: Databases) -> Iterator[Callable[[str], Database]]:
    """`database("budget")` is a fresh, migrated database of that service, dropped after the test."""
    created: list[Database] = []

    def create(service: str) -> Database:
        created.append(databases.create(service))
        return created[-1]

    yield create
    for one in created:
        databases.drop(one)


@pytest.fixture(scope="session")
def temporal_address(session_dir: Path) -> Iterator[str]:
    """`host:port` of a Temporal server with our search attributes, in memory, shared by the session."""
    directory = session_dir / "temporal"
    directory.mkdir()
    port = free_ports(1)[0]
    with running(
        temporal.argv(port, None, database=None),
        environ=temporal.environ(directory),
        cwd=directory,
        log=directory / "temporal.log",
        is_ready=lambda _pid: serves(port, temporal.HEALTH_SERVICE),
    ):
        yield f"{LOOPBACK}:{port}"


@pytest.fixture(scope="session")
def twin(session_dir: Path) -> Iterator[TwinServer]:
    """A Stripe twin of the session, without a webhook endpoint: a test that wants events adds its own."""
    directory = session_dir / "twin"
    directory.mkdir()
    port = free_ports(1)[0]
    with running(
        (
            sys.executable,
            "-m",
            "embedded.stripe_twin",
            "--host",
            LOOPBACK,
            "--port",
            str(port),
            "--data",
            str(directory),
        ),
        environ={"PATH": os.defpath},
        cwd=CHECKOUT,
        log=directory / "twin.log",
        is_ready=lambda _pid: answers(port, "/_twin/state"),
    ) as pid:
        yield TwinServer(f"http://{LOOPBACK}:{port}", port, pid)
