"""What the suite consists of: ports, the environment of each process, and the children in order.

`VARIABLES` is the one table of the settings that the suite hands to its processes. A process gets its own
and no other's: a service never sees another's database address.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from embedded import files, ports, probes, temporal
from embedded.child import ChildSpec
from embedded.credentials import Credentials
from embedded.ports import LOOPBACK
from embedded.postgres import DATABASES, Cluster, Role
from embedded.supervisor import TaskSpec
from services.kit import migrate

CHECKOUT = Path(__file__).resolve().parents[1]
GRPC_SERVICES = DATABASES
_TWIN_API_KEY = "sk_test_twin"


class ConfigurationError(Exception):
    """The environment asks for something the suite cannot do; the text says what to set."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Every port of the suite, on 127.0.0.1. The defaults are fixed, so that addresses can be learned."""

    gateway: int = 7400
    metering: int = 7401
    budget: int = 7402
    wallet: int = 7403
    postgres: int = 7405
    temporal: int = 7406
    temporal_ui: int = 7407
    twin: int = 7408
    metering_metrics: int = 7411
    budget_metrics: int = 7412
    wallet_metrics: int = 7413
    worker_metrics: int = 7414

    @classmethod
    def free(cls) -> Self:
        """Ports that nobody holds now."""
        return cls(*ports.free_ports(len(fields(cls))))

    def address(self, name: str) -> str:
        """`host:port` of one of the fields."""
        return f"{LOOPBACK}:{getattr(self, name)}"


class Configuration:
    """What one run of the suite is made of.

    `host_environ` may name parts to use instead of the embedded ones: a database server with all of
    PURSE_{METERING,BUDGET,WALLET}_DSN and ..._OWNER_DSN, a Temporal cluster with PURSE_TEMPORAL_ADDRESS (and
    PURSE_TEMPORAL_NAMESPACE), Stripe itself with STRIPE_API_KEY (and STRIPE_WEBHOOK_SECRET).
    """

    def __init__(self, data_dir: Path, suite_ports: Ports, host_environ: Mapping[str, str]) -> None:
        self.data_dir = data_dir
        self.ports = suite_ports
        self.host_environ = host_environ
        self.credentials = Credentials(data_dir / "keys")
        self._external_dsns = _external_dsns(host_environ)
        self.cluster = None if self._external_dsns else Cluster(data_dir / "postgres", suite_ports.postgres)
        self.external_temporal = host_environ.get("PURSE_TEMPORAL_ADDRESS") or None
        self.stripe_api_key = host_environ.get("STRIPE_API_KEY") or None

    def dsn(self, database: str, role: Role) -> str:
        """The address of a service's database for its owner or the service."""
        if self.cluster is None:
            return self._external_dsns[database, role]
        files.make_private_directory(self.cluster.directory)
        return self.cluster.dsn(database, role)

    def temporal_address(self) -> str:
        """Where Temporal answers."""
        return self.external_temporal or self.ports.address("temporal")

    def webhook_secret(self) -> str:
        """What webhooks are signed with: Stripe's own, or one made for the twin on first use."""
        if self.stripe_api_key is not None:
            return self.host_environ.get("STRIPE_WEBHOOK_SECRET", "")
        files.make_private_directory(self.data_dir / "keys")
        return files.generated_secret(self.data_dir / "keys" / "stripe_webhook.secret", prefix="whsec_")

    def bind(self, process: str) -> str:
        """Where a process answers its callers."""
        return self.ports.address(process)

    def metrics_bind(self, process: str) -> str:
        """Where a process answers /metrics and /health."""
        return self.ports.address(f"{process}_metrics")

    def environ(self, process: str) -> dict[str, str]:
        """The whole environment of a process: the user's, without what the table owns, with its rows."""
        owned = {variable.name for variable in VARIABLES}
        inherited = {
            name: value
            for name, value in self.host_environ.items()
            if name not in owned and not name.startswith("STRIPE_") and not name.endswith("_OWNER_DSN")
        }
        given = {v.name: v.value(self, process) for v in VARIABLES if process in v.to}
        # Unbuffered: the last words before a crash are the ones that are wanted.
        return {**inherited, "PYTHONUNBUFFERED": "1", **given}


@dataclass(frozen=True, slots=True)
class Variable:
    """One row: a setting, the processes that get it, its value for each, and what it means."""

    name: str
    to: frozenset[str]
    value: Callable[[Configuration, str], str]
    meaning: str


def _row(name: str, to: str, value: Callable[[Configuration, str], str], meaning: str) -> Variable:
    return Variable(name, frozenset(to.split()), value, meaning)


_ALL = "metering budget wallet gateway worker"

VARIABLES = (
    _row("PURSE_METERING_DSN", "metering", lambda c, _: c.dsn("metering", "service"), "its own database, as service"),
    _row("PURSE_BUDGET_DSN", "budget", lambda c, _: c.dsn("budget", "service"), "its own database, as service"),
    _row("PURSE_WALLET_DSN", "wallet", lambda c, _: c.dsn("wallet", "service"), "its own database, as service"),
    _row("PURSE_METERING_ADDRESS", _ALL, lambda c, _: c.ports.address("metering"), "host:port that callers dial"),
    _row("PURSE_BUDGET_ADDRESS", _ALL, lambda c, _: c.ports.address("budget"), "host:port that callers dial"),
    _row("PURSE_WALLET_ADDRESS", _ALL, lambda c, _: c.ports.address("wallet"), "host:port that callers dial"),
    _row("PURSE_BIND", "metering budget wallet gateway", Configuration.bind, "host:port to answer on"),
    _row("PURSE_METRICS_BIND", "metering budget wallet worker", Configuration.metrics_bind, "/metrics and /health"),
    _row(
        "PURSE_RECORD_PROCESSES",
        "metering",
        lambda c, _: c.host_environ.get("PURSE_RECORD_PROCESSES", "0"),
        "processes that record batches; 0: metering's own",
    ),
    _row("PURSE_TEMPORAL_ADDRESS", _ALL, lambda c, _: c.temporal_address(), "host:port of Temporal"),
    _row(
        "PURSE_TEMPORAL_NAMESPACE",
        _ALL,
        lambda c, _: c.host_environ.get("PURSE_TEMPORAL_NAMESPACE", temporal.NAMESPACE),
        "namespace of the workflows",
    ),
    _row(
        "PURSE_AUTH_PUBLIC_KEY_FILE",
        "metering budget wallet gateway",
        lambda c, _: str(c.credentials.public_key),
        "PEM file of the key that verifies tokens",
    ),
    _row(
        "PURSE_SERVICE_TOKEN_FILE",
        _ALL,
        lambda c, _: str(c.credentials.service_token),
        "file of the token, role service, for calls between services",
    ),
    _row("PURSE_STRIPE_API_KEY", "wallet worker", lambda c, _: c.stripe_api_key or _TWIN_API_KEY, "secret key"),
    _row(
        "PURSE_STRIPE_BASE_URL",
        "wallet worker",
        lambda c, _: "" if c.stripe_api_key else f"http://{c.ports.address('twin')}",
        "where Stripe's API answers; empty means Stripe itself",
    ),
    _row(
        "PURSE_PAYMENTS_RETURN_URL",
        "wallet worker",
        lambda c, _: c.host_environ.get(
            "PURSE_PAYMENTS_RETURN_URL", f"http://{c.ports.address('gateway')}/payments/done"
        ),
        "where Stripe's pages go on to",
    ),
    _row(
        "PURSE_STRIPE_WEBHOOK_SECRET",
        "wallet gateway twin",
        lambda c, _: c.webhook_secret(),
        "what signs webhooks",
    ),
    _row(
        "PURSE_LOG_LEVEL",
        f"{_ALL} twin",
        lambda c, _: c.host_environ.get("PURSE_LOG_LEVEL", "info"),
        "debug, info, warning or error",
    ),
)


def build(configuration: Configuration) -> list[ChildSpec | TaskSpec]:
    """The suite's nodes; what must be up first comes first, and what can start together does."""
    infrastructure: list[ChildSpec | TaskSpec] = []
    database: tuple[str, ...] = ()
    workflows_on: tuple[str, ...] = ()
    payments: tuple[str, ...] = ()
    if configuration.cluster is not None:
        infrastructure.append(configuration.cluster.child_spec())
        database = ("postgres",)
    if configuration.external_temporal is None:
        directory = configuration.data_dir / "temporal"
        infrastructure.append(
            temporal.child_spec(directory, configuration.ports.temporal, configuration.ports.temporal_ui)
        )
        workflows_on = ("temporal",)
    infrastructure.append(TaskSpec(name="keys", run=_ensure_credentials(configuration)))
    if configuration.stripe_api_key is None:
        infrastructure.append(_twin(configuration))
        payments = ("twin",)
    migrations = [
        TaskSpec(name=f"migrate-{name}", run=_migration(configuration, name), after=database) for name in GRPC_SERVICES
    ]
    # The order of this list is also who calls whom: a caller stops before what it calls.
    services = [
        _grpc_service(configuration, "wallet", uses=(*database, *workflows_on, *payments)),
        _grpc_service(configuration, "budget", uses=(*database, *workflows_on, "wallet")),
        _grpc_service(configuration, "metering", uses=(*database, "budget")),
    ]
    gateway = ChildSpec(
        name="gateway",
        argv=_python("services.gateway.main"),
        environ=configuration.environ("gateway"),
        ready=probes.http(LOOPBACK, configuration.ports.gateway, "/health"),
        after=("keys",),
        uses=GRPC_SERVICES,
        ports={"HTTP": configuration.ports.gateway},
        cwd=CHECKOUT,
    )
    worker = ChildSpec(
        name="worker",
        argv=_python("workflows.worker"),
        environ=configuration.environ("worker"),
        ready=probes.http(LOOPBACK, configuration.ports.worker_metrics, "/health"),
        after=("keys", *workflows_on),
        uses=(*GRPC_SERVICES, *payments),
        ports={"metrics": configuration.ports.worker_metrics},
        cwd=CHECKOUT,
    )
    return [*infrastructure, *migrations, *services, gateway, worker]


def endpoints(configuration: Configuration) -> dict[str, dict[str, str]]:
    """Every address of the suite, for people and for `purse status`."""

    def http(name: str, path: str = "") -> dict[str, str]:
        address = configuration.ports.address(name)
        return {"kind": "http", "address": address, "url": f"http://{address}{path}"}

    found = {"gateway": http("gateway")}
    found |= {name: {"kind": "grpc", "address": configuration.bind(name)} for name in GRPC_SERVICES}
    if configuration.cluster is not None:
        found["postgres"] = {"kind": "postgres", "address": configuration.ports.address("postgres")}
    found["temporal"] = {"kind": "grpc", "address": configuration.temporal_address()}
    if configuration.external_temporal is None:
        found["temporal-ui"] = http("temporal_ui")
    if configuration.stripe_api_key is None:
        found["twin"] = http("twin")
    for process in (*GRPC_SERVICES, "worker"):
        found[f"{process}-metrics"] = http(f"{process}_metrics", "/metrics")
    return found


def only(specs: list[ChildSpec | TaskSpec], names: frozenset[str]) -> list[ChildSpec | TaskSpec]:
    """The named nodes and what they must wait for; what they merely call is left out unless named."""
    by_name = {spec.name: spec for spec in specs}
    if unknown := names - by_name.keys():
        raise ConfigurationError(f"no part {sorted(unknown)} in the suite; there are {', '.join(by_name)}")
    wanted: set[str] = set()
    pending = list(names)
    while pending:
        name = pending.pop()
        if name not in wanted:
            wanted.add(name)
            pending.extend(by_name[name].after)
    return [_without(spec, frozenset(by_name) - wanted) for spec in specs if spec.name in wanted]


def _without(spec: ChildSpec | TaskSpec, absent: frozenset[str]) -> ChildSpec | TaskSpec:
    if isinstance(spec, TaskSpec):
        return spec
    return replace(spec, uses=tuple(name for name in spec.uses if name not in absent))


def _grpc_service(configuration: Configuration, name: str, *, uses: tuple[str, ...]) -> ChildSpec:
    port = getattr(configuration.ports, name)
    return ChildSpec(
        name=name,
        argv=_python(f"services.{name}.main"),
        environ=configuration.environ(name),
        ready=probes.grpc_health(LOOPBACK, port),
        after=("keys", f"migrate-{name}"),
        uses=uses,
        ports={"gRPC": port, "metrics": getattr(configuration.ports, f"{name}_metrics")},
        cwd=CHECKOUT,
    )


def _twin(configuration: Configuration) -> ChildSpec:
    port, directory = configuration.ports.twin, configuration.data_dir / "twin"
    webhook_url = f"http://{configuration.ports.address('gateway')}/webhooks/stripe"
    listen = ("--host", LOOPBACK, "--port", str(port))
    arguments = (*listen, "--data", str(directory), "--webhook-url", webhook_url)
    return ChildSpec(
        name="twin",
        argv=(*_python("embedded.stripe_twin"), *arguments),
        environ=configuration.environ("twin"),
        ready=probes.http(LOOPBACK, port, "/_twin/state"),
        ports={"HTTP": port},
        before_start=lambda: files.make_private_directory(directory),
        cwd=CHECKOUT,
    )


def _python(module: str) -> tuple[str, ...]:
    return (sys.executable, "-m", module)


def _migration(configuration: Configuration, service: str) -> Callable[[], Awaitable[None]]:
    async def run() -> None:
        await migrate.migrate(service, configuration.dsn(service, "owner"))

    return run


def _ensure_credentials(configuration: Configuration) -> Callable[[], Awaitable[None]]:
    async def run() -> None:
        # In a thread: loading the cryptography takes long enough to delay the others.
        await asyncio.to_thread(configuration.credentials.ensure, datetime.now(UTC))

    return run


def _external_dsns(environ: Mapping[str, str]) -> dict[tuple[str, Role], str]:
    roles: tuple[tuple[Role, str], ...] = (("service", "DSN"), ("owner", "OWNER_DSN"))
    names = {(database, role): f"PURSE_{database.upper()}_{suffix}" for database in DATABASES for role, suffix in roles}
    found = {key: environ[name] for key, name in names.items() if environ.get(name)}
    if found and len(found) < len(names):
        missing = ", ".join(name for key, name in names.items() if key not in found)
        raise ConfigurationError(f"some databases have an address, others none: set {missing}, or none at all")
    return found
