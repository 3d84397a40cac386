"""What manifests say of the suite's processes, against what the code reads and serves."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from scripts.k8s.code import Process, UnknownCommandError, process
from scripts.k8s.manifests import Document, Manifests, Workload, is_ours
from services.kit.channel import is_loopback
from services.kit.settings import ServiceSettings

_ONLY_THE_CLUSTER_KNOWS: Final = "<from a secret>"
_ADDRESSES: Final = ("metering_address", "budget_address", "wallet_address")

Secrets = Mapping[str, frozenset[str]]


def check(manifests: Manifests, secrets: Secrets) -> Iterator[str]:
    """Commands, settings, secrets, files, ports, probes and pauses of every container of the suite."""
    for workload in manifests.workloads:
        for container in workload.containers:
            if is_ours(container):
                where = f"{workload.kind} {workload.name}, container {container['name']}:"
                yield from (
                    f"{where} {problem}" for problem in _container(_Place(manifests, secrets, workload, container))
                )
    yield from _services(manifests)


@dataclass(frozen=True, slots=True)
class _Place:
    """A container, where it stands, and what its secrets may be."""

    manifests: Manifests
    secrets: Secrets
    workload: Workload
    container: Document


def _container(place: _Place) -> Iterator[str]:
    container = place.container
    try:
        runs = process(container.get("command", []) + container.get("args", []))
    except UnknownCommandError as error:
        yield f"no such command: {error}"
        return
    given: dict[str, str] = {}
    yield from _environment(place, given)
    for name in sorted(given.keys() - runs.variables.keys()):
        yield f"{name} is set, and nothing reads it"
    for name in sorted(runs.required - given.keys()):
        yield f"{name} is not set, and the process cannot do without"
    if runs.settings is not None:
        yield from _with_settings(place, runs.settings, runs, given)


def _environment(place: _Place, given: dict[str, str]) -> Iterator[str]:
    manifests, secrets, container = place.manifests, place.secrets, place.container
    for source in container.get("envFrom", ()):
        name = source.get("configMapRef", {}).get("name")
        if name not in manifests.config_maps:
            yield f"its settings come from the ConfigMap {name}, which does not exist"
        given |= manifests.config_maps.get(name, {})
    for variable in container.get("env", ()):
        given[variable["name"]] = variable.get("value", _ONLY_THE_CLUSTER_KNOWS)
        wanted = variable.get("valueFrom", {}).get("secretKeyRef")
        if wanted and wanted["key"] not in secrets.get(wanted["name"], ()):
            key = f"the key {wanted['key']} of the Secret {wanted['name']}"
            yield f"{variable['name']} comes from {key}, which nobody is asked for"


def _with_settings(
    place: _Place, reads: type[ServiceSettings], runs: Process, given: Mapping[str, str]
) -> Iterator[str]:
    container = place.container
    values = {runs.variables[name]: value for name, value in given.items() if name in runs.variables}
    assert runs.settings is not None
    try:
        settings = reads(**values)  # type: ignore[arg-type]  # as the environment gives them
    except ValidationError as error:
        for one in error.errors():
            yield f"{reads.variable(str(one['loc'][0]))}: {one['msg']}"
        return
    yield from _files(place, settings)
    yield from _ports(container, runs, settings)
    yield from _addresses(place.manifests, given, settings)
    if runs.health_names and not settings.health_bind:
        yield "PURSE_HEALTH_BIND is not set, and its probes have nothing to ask"
    if not is_loopback(settings.bind) and not settings.tls_certificate_file and not settings.allow_plaintext:
        yield f"it would refuse to serve {settings.bind} without TLS: set PURSE_TLS_CERTIFICATE_FILE and its key's file"
    pause_s = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    grace_s = place.workload.pod.get("terminationGracePeriodSeconds", 30)
    if grace_s <= pause_s + settings.shutdown_grace_s:
        yield f"it is killed after {grace_s} s, but pauses {pause_s} s and drains for {settings.shutdown_grace_s:g} s"


def _files(place: _Place, settings: ServiceSettings) -> Iterator[str]:
    volumes = {volume["name"]: volume for volume in place.workload.pod.get("volumes", ())}
    mounts = {mount["mountPath"]: volumes.get(mount["name"], {}) for mount in place.container.get("volumeMounts", ())}
    for field, value in settings:
        if not isinstance(value, Path):
            continue
        volume = mounts.get(str(value.parent))
        if volume is None:
            yield f"{settings.variable(field)} is {value}, and nothing is mounted at {value.parent}"
        elif value.name not in place.secrets.get(volume.get("secret", {}).get("secretName", ""), ()):
            yield f"{settings.variable(field)} is {value}, and the Secret mounted there has no key {value.name}"


def _port(bind: str) -> int:
    return int(bind.rpartition(":")[2])


def _ports(container: Document, runs: Process, settings: ServiceSettings) -> Iterator[str]:
    declared = {port["name"]: port["containerPort"] for port in container.get("ports", ())}
    kinds = {
        "grpc": settings.bind,
        "http": settings.bind,
        "metrics": settings.metrics_bind,
        "health": settings.health_bind,
    }
    for name, port in declared.items():
        if name not in kinds or not kinds[name]:
            yield f"port {name} is declared, and the process has none of that name"
        elif port != _port(kinds[name]):
            yield f"port {name} is declared as {port}, and the process answers on {kinds[name]}"
    for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
        yield from _probe(kind, container.get(kind, {}), declared, runs, settings)


def _probe(
    kind: str, probe: Document, declared: Mapping[str, int], runs: Process, settings: ServiceSettings
) -> Iterator[str]:
    if grpc := probe.get("grpc"):
        if grpc["port"] != _port(settings.health_bind or ":0"):
            yield f"{kind} asks port {grpc['port']}, and health is answered on {settings.health_bind or 'no port'}"
        if grpc.get("service", "") not in runs.health_names:
            names = ", ".join(sorted(filter(None, runs.health_names))) or "nothing"
            yield f"{kind} asks for the service {grpc.get('service', '')}; the process answers for {names}"
    for how in ("httpGet", "tcpSocket"):
        port: Any = probe.get(how, {}).get("port")
        if port is not None and port not in declared and port not in declared.values():
            yield f"{kind} asks the port {port}, which is not declared"


def _addresses(manifests: Manifests, given: Mapping[str, str], settings: ServiceSettings) -> Iterator[str]:
    for field in (*_ADDRESSES, "temporal_address"):
        name = settings.variable(field)
        if name not in given or given[name] == _ONLY_THE_CLUSTER_KNOWS:
            continue
        host, _, port = str(getattr(settings, field)).removeprefix("dns:///").rpartition(":")
        service = next((one for one in manifests.of("Service") if one["metadata"]["name"] == host), None)
        if service is None:
            yield f"{name} is {given[name]}, and there is no Service {host}"
        elif int(port) not in [one["port"] for one in service["spec"]["ports"]]:
            yield f"{name} is {given[name]}, and the Service {host} has no port {port}"
        elif given[name].startswith("dns:///") and service["spec"].get("clusterIP") != "None":
            yield f"{name} balances over all pods, so the Service {host} must be headless"


def _services(manifests: Manifests) -> Iterator[str]:
    for service in manifests.of("Service"):
        name, selector = service["metadata"]["name"], service["spec"]["selector"]
        chosen = [one for one in manifests.workloads if selector.items() <= one.labels.items()]
        declared = {
            port["name"]: port["containerPort"]
            for workload in chosen
            for container in workload.containers
            for port in container.get("ports", ())
        }
        if not chosen:
            yield f"Service {name} selects nothing"
        for port in service["spec"]["ports"]:
            target = declared.get(port["targetPort"])
            if chosen and target != port["port"]:
                yield f"Service {name} leads {port['port']} to {port['targetPort']}, which is {target}"


def has_service_port(manifests: Manifests, name: str, port: str | None) -> bool:
    """Whether a Service of that name has a port of that name."""
    return any(
        one["metadata"]["name"] == name and port in [each.get("name") for each in one["spec"]["ports"]]
        for one in manifests.of("Service")
    )
