"""Who may speak to whom: the policies against the arrows of the architecture's picture."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from scripts.k8s.code import UnknownCommandError, arrows, calls, process
from scripts.k8s.manifests import Document, Manifests, Workload, is_ours

_STRIPE_PORT: Final = 443
_POSTGRES_PORT: Final = 5432
_TEMPORAL_PORT: Final = 7233
_SUITE: Final = ("metering", "budget", "wallet", "gateway", "worker")
_CALLED: Final = ("metering", "budget", "wallet")
_CALLER: Final = {"pursestrings/caller": "true"}
_OUTSIDE: Final = {"temporal": _TEMPORAL_PORT, "postgres": _POSTGRES_PORT, "stripe": _STRIPE_PORT}

Arrow = tuple[str, str]


def check(manifests: Manifests, _secrets: object) -> Iterator[str]:
    """The picture shows the code's calls, exactly its arrows are open, and nothing is by default."""
    for caller, called in sorted(calls() - arrows()):
        yield f"docs/architecture.md does not show that {caller} speaks to {called}, which the code does"
    if not any(_is_default_deny(policy) for policy in manifests.of("NetworkPolicy")):
        yield "no NetworkPolicy denies by default"
    wanted, found = _wanted(manifests), _open(manifests)
    for caller, called in sorted(wanted - found):
        yield f"no NetworkPolicy lets {caller} speak to {called}, which the code does"
    for caller, called in sorted(found - wanted):
        yield f"a NetworkPolicy lets {caller} speak to {called}, which docs/architecture.md does not show"


def _wanted(manifests: Manifests) -> set[Arrow]:
    nodes = {*_SUITE, "temporal", "stripe"}
    found = {arrow for arrow in arrows() if arrow[0] in _SUITE and arrow[1] in nodes}
    # A person reaches the three that answer gRPC; an agent, what the picture shows.
    found |= {("caller", called) for called in _CALLED}
    found |= {("caller", called) for caller, called in arrows() if caller == "agent"}
    for workload in manifests.workloads:
        needs = [name for one in workload.containers if is_ours(one) for name in _required(one)]
        if any(name.endswith("_DSN") for name in needs):
            found.add((workload.name, "postgres"))
    return found


def _required(container: Document) -> frozenset[str]:
    try:
        return process(container["command"]).required
    except UnknownCommandError:
        return frozenset()  # said elsewhere


def _is_default_deny(policy: Document) -> bool:
    spec = policy["spec"]
    both = sorted(spec.get("policyTypes", ())) == ["Egress", "Ingress"]
    return not spec["podSelector"] and both and not spec.get("ingress") and not spec.get("egress")


def _open(manifests: Manifests) -> set[Arrow]:
    workloads = {workload.name: workload for workload in manifests.workloads}
    found: set[Arrow] = set()
    for name, workload in workloads.items():
        for other, target in workloads.items():
            ports = _declared(target)
            leaves = _reach(manifests, workload, "egress", target.labels, ports)
            arrives = _reach(manifests, target, "ingress", workload.labels, ports)
            if leaves and arrives and name != other:
                found.add((name, other))
        found |= {(name, outside) for outside, port in _OUTSIDE.items() if _leaves_cluster(manifests, workload, port)}
        if _reach(manifests, workload, "ingress", _CALLER, _declared(workload), namespaced=True):
            found.add(("caller", name))
    return found


def _declared(workload: Workload) -> set[int]:
    # Probes and metrics are read by Kubernetes and the monitoring, which no picture shows.
    return {
        port["containerPort"]
        for container in workload.containers
        for port in container.get("ports", ())
        if port["name"] not in ("metrics", "health", "ui")
    }


def _policies(manifests: Manifests, workload: Workload, direction: str) -> Iterator[dict[str, Any]]:
    for policy in manifests.of("NetworkPolicy"):
        if _selects(policy["spec"]["podSelector"], workload.labels):
            yield from policy["spec"].get(direction, ())


def _reach(
    manifests: Manifests,
    workload: Workload,
    direction: str,
    labels: Mapping[str, str],
    ports: set[int],
    *,
    namespaced: bool = False,
) -> bool:
    peers = "to" if direction == "egress" else "from"
    return any(
        ("namespaceSelector" in peer) == namespaced and _selects(peer["podSelector"], labels)
        for rule in _policies(manifests, workload, direction)
        if not rule.get("ports") or ports & {port["port"] for port in rule["ports"]}
        for peer in rule.get(peers, ())
        if "podSelector" in peer
    )


def _leaves_cluster(manifests: Manifests, workload: Workload, port: int) -> bool:
    return any(
        "ipBlock" in peer
        for rule in _policies(manifests, workload, "egress")
        if port in [one["port"] for one in rule.get("ports", ())]
        for peer in rule.get("to", ())
    )


def _selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    exact = selector.get("matchLabels", {}).items() <= labels.items()
    among = [one for one in selector.get("matchExpressions", ()) if one["operator"] == "In"]
    return exact and all(labels.get(one["key"]) in one["values"] for one in among)
