"""What must be true of a rendered overlay. Each rule yields sentences that name what is wrong."""

from collections.abc import Callable, Iterator, Mapping
from typing import Final

import kubernetes_validate

from scripts.k8s import network, processes
from scripts.k8s.code import routes
from scripts.k8s.manifests import Document, Manifests

VERSIONS: Final = ("1.35", "1.36", "1.37")
"""The Kubernetes versions whose strict schemas the manifests fit."""

_WEBHOOKS: Final = "/webhooks/stripe"

Secrets = Mapping[str, frozenset[str]]
Rule = Callable[[Manifests, Secrets], Iterator[str]]


def problems(manifests: Manifests, secrets: Secrets) -> list[str]:
    """Everything that is wrong, in the order of the rules."""
    return [problem for rule in RULES for problem in rule(manifests, secrets)]


def _named(document: Document) -> str:
    return f"{document['kind']} {document['metadata']['name']}"


def schemas(manifests: Manifests, _secrets: Secrets) -> Iterator[str]:
    """Every document is one of Kubernetes, in each version, without a field that it does not know."""
    for document in manifests.documents:
        for version in VERSIONS:
            try:
                kubernetes_validate.validate(document, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                path = ".".join(str(part) for part in error.path)
                yield f"{_named(document)} is refused by Kubernetes {version} at {path}: {error.message}"
                break


def restricted(manifests: Manifests, _secrets: Secrets) -> Iterator[str]:
    """Pod Security `restricted` in full, a read-only root, no token, bounded memory."""
    for workload in manifests.workloads:
        pod, name = workload.pod, f"{workload.kind} {workload.name}"
        context = pod.get("securityContext", {})
        if context.get("runAsNonRoot") is not True or not context.get("runAsUser"):
            yield f"{name} may run as root: set runAsNonRoot and runAsUser"
        if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            yield f"{name} has no seccomp profile: set RuntimeDefault"
        if pod.get("automountServiceAccountToken") is not False:
            yield f"{name} mounts a token of Kubernetes: set automountServiceAccountToken to false"
        if set(pod) & {"hostNetwork", "hostPID", "hostIPC"} or any("hostPath" in v for v in pod.get("volumes", ())):
            yield f"{name} reaches into its host"
        for container in workload.containers:
            yield from _contained(f"{name}, container {container['name']},", container)


def _contained(name: str, container: Document) -> Iterator[str]:
    context = container.get("securityContext", {})
    if context.get("readOnlyRootFilesystem") is not True:
        yield f"{name} can write to its root: set readOnlyRootFilesystem, and mount an emptyDir where it must write"
    if context.get("allowPrivilegeEscalation") is not False:
        yield f"{name} may gain privileges: set allowPrivilegeEscalation to false"
    if context.get("capabilities", {}).get("drop") != ["ALL"] or context.get("capabilities", {}).get("add"):
        yield f"{name} keeps capabilities: drop ALL"
    if context.get("privileged"):
        yield f"{name} is privileged"
    resources = container.get("resources", {})
    if not {"cpu", "memory"} <= resources.get("requests", {}).keys() or "memory" not in resources.get("limits", {}):
        yield f"{name} says not what it needs: give requests of cpu and memory and a limit of memory"


def watched(manifests: Manifests, _secrets: Secrets) -> Iterator[str]:
    """Every Deployment survives a drain, follows its load and spreads; every probe is there."""
    kept = [one["spec"]["selector"]["matchLabels"] for one in manifests.of("PodDisruptionBudget")]
    scaled = {one["spec"]["scaleTargetRef"]["name"] for one in manifests.of("HorizontalPodAutoscaler")}
    accounts = {one["metadata"]["name"] for one in manifests.of("ServiceAccount")}
    for workload in manifests.workloads:
        account = workload.pod.get("serviceAccountName")
        if account is not None and account not in accounts:
            yield f"{workload.kind} {workload.name} runs as the account {account}, which does not exist"
        if workload.kind != "Deployment":
            continue
        if not any(labels.items() <= workload.labels.items() for labels in kept):
            yield f"Deployment {workload.name} has no PodDisruptionBudget"
        if workload.name not in scaled:
            yield f"Deployment {workload.name} has no HorizontalPodAutoscaler"
        if not workload.pod.get("topologySpreadConstraints"):
            yield f"Deployment {workload.name} does not spread: give topologySpreadConstraints"
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            if any(probe not in container for container in workload.pod["containers"]):
                yield f"Deployment {workload.name} has no {probe}"


def webhooks_only(manifests: Manifests, _secrets: Secrets) -> Iterator[str]:
    """From outside, one path of the gateway can be reached, and the gateway answers it."""
    for ingress in manifests.of("Ingress"):
        paths = [path for rule in ingress["spec"]["rules"] for path in rule["http"]["paths"]]
        for path in paths:
            if (path["path"], path["pathType"]) != (_WEBHOOKS, "Exact"):
                yield f"{_named(ingress)} opens {path['path']}: only {_WEBHOOKS}, exactly, is meant for the world"
            if path["path"] not in routes():
                yield f"{_named(ingress)} opens {path['path']}, which the gateway does not answer"
            service = path["backend"]["service"]
            if not processes.has_service_port(manifests, service["name"], service["port"].get("name")):
                yield f"{_named(ingress)} leads to {service['name']}, port {service['port']}, which does not exist"


RULES: Final[tuple[Rule, ...]] = (
    schemas,
    restricted,
    watched,
    webhooks_only,
    processes.check,
    network.check,
)
"""Every rule, in the order in which its problems are told."""
