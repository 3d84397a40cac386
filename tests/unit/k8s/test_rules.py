"""What is wrong in a copy of the manifests is found and named."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from scripts.k8s import code, network, processes, rules
from scripts.k8s.code import CHECKOUT
from scripts.k8s.manifests import Manifests, example_secrets, render

Document = dict[str, Any]
Break = Callable[[Manifests], None]


@pytest.fixture(scope="module")
def overlays() -> dict[str, Manifests]:
    return {name: render(CHECKOUT / "k8s/overlays" / name) for name in ("dev", "production")}


def named(manifests: Manifests, kind: str, name: str) -> Document:
    return next(one for one in manifests.of(kind) if one["metadata"]["name"] == name)


def pod(manifests: Manifests, name: str) -> Document:
    found: Document = named(manifests, "Deployment", name)["spec"]["template"]["spec"]
    return found


def container(manifests: Manifests, name: str) -> Document:
    found: Document = pod(manifests, name)["containers"][0]
    return found


def variable(manifests: Manifests, process: str, name: str) -> Document:
    found: Document = next(one for one in container(manifests, process)["env"] if one["name"] == name)
    return found


def settings(manifests: Manifests) -> Document:
    found: Document = named(manifests, "ConfigMap", "settings")["data"]
    return found


@pytest.mark.parametrize("overlay", ["dev", "production"])
def test_the_overlays_as_they_are_fit_the_code(overlays: dict[str, Manifests], overlay: str) -> None:
    secrets = example_secrets()
    found = [one for rule in rules.RULES if rule is not rules.schemas for one in rule(overlays[overlay], secrets)]
    assert found == []


def unset(manifests: Manifests, name: str) -> None:
    settings(manifests).pop(name)


BREAKS: dict[str, tuple[Break, str]] = {
    "a misspelt setting": (
        lambda m: settings(m).update(PURSE_SHUTDOWN_GRACE_SECONDS="20"),
        "Deployment budget, container budget: PURSE_SHUTDOWN_GRACE_SECONDS is set, and nothing reads it",
    ),
    "a setting of another process": (
        lambda m: container(m, "gateway")["env"].append({"name": "PURSE_BATCH_MAX", "value": "5"}),
        "Deployment gateway, container gateway: PURSE_BATCH_MAX is set, and nothing reads it",
    ),
    "a value out of range": (
        lambda m: settings(m).update(PURSE_SHUTDOWN_GRACE_S="1000"),
        "PURSE_SHUTDOWN_GRACE_S: Input should be less than or equal to 300",
    ),
    "a required setting that is not given": (
        lambda m: container(m, "wallet")["env"].remove(variable(m, "wallet", "PURSE_WALLET_DSN")),
        "Deployment wallet, container wallet: PURSE_WALLET_DSN is not set, and the process cannot do without",
    ),
    "a secret's key that nobody fills in": (
        lambda m: variable(m, "worker", "PURSE_STRIPE_API_KEY")["valueFrom"]["secretKeyRef"].update(key="apikey"),
        "PURSE_STRIPE_API_KEY comes from the key apikey of the Secret stripe, which nobody is asked for",
    ),
    "a file that is not in the secret": (
        lambda m: settings(m).update(PURSE_AUTH_PUBLIC_KEY_FILE="/etc/pursestrings/tokens/key.pem"),
        "/etc/pursestrings/tokens/key.pem, and the Secret mounted there has no key key.pem",
    ),
    "a file where nothing is mounted": (
        lambda m: settings(m).update(PURSE_SERVICE_TOKEN_FILE="/run/service.token"),
        "PURSE_SERVICE_TOKEN_FILE is /run/service.token, and nothing is mounted at /run",
    ),
    "a ConfigMap that does not exist": (
        lambda m: container(m, "budget")["envFrom"].append({"configMapRef": {"name": "more"}}),
        "its settings come from the ConfigMap more, which does not exist",
    ),
    "a probe for a service that does not exist": (
        lambda m: container(m, "budget")["readinessProbe"]["grpc"].update(service="pursestrings.budget.v2.Budget"),
        "readinessProbe asks for the service pursestrings.budget.v2.Budget; the process answers for live, ",
    ),
    "a probe on another port": (
        lambda m: container(m, "metering")["livenessProbe"]["grpc"].update(port=7401),
        "livenessProbe asks port 7401, and health is answered on 0.0.0.0:7421",
    ),
    "a probe on a port that is not declared": (
        lambda m: container(m, "worker")["livenessProbe"]["httpGet"].update(port="http"),
        "livenessProbe asks the port http, which is not declared",
    ),
    "a port that the process does not answer on": (
        lambda m: variable(m, "wallet", "PURSE_BIND").update(value="0.0.0.0:7500"),
        "port grpc is declared as 7403, and the process answers on 0.0.0.0:7500",
    ),
    "a service that leads to another port": (
        lambda m: named(m, "Service", "budget")["spec"]["ports"][0].update(port=7409),
        "PURSE_BUDGET_ADDRESS is dns:///budget:7402, and the Service budget has no port 7402",
    ),
    "an address of no service": (
        lambda m: settings(m).update(PURSE_WALLET_ADDRESS="dns:///purse:7403"),
        "PURSE_WALLET_ADDRESS is dns:///purse:7403, and there is no Service purse",
    ),
    "a service that hides its pods": (
        lambda m: named(m, "Service", "wallet")["spec"].pop("clusterIP"),
        "PURSE_WALLET_ADDRESS balances over all pods, so the Service wallet must be headless",
    ),
    "a command that is not in the image": (
        lambda m: container(m, "budget").update(command=["python", "-m", "services.budgets.main"]),
        "Deployment budget, container budget: no such command: services.budgets.main is no module that runs",
    ),
    "migrations of a database that does not exist": (
        lambda m: pod(m, "budget")["initContainers"][0].update(
            command=["python", "-m", "services.kit.migrate", "--wait", "ledger"]
        ),
        "services.kit.migrate takes one of metering, budget, wallet or all, not ['ledger']",
    ),
    "plain connections to other machines": (
        lambda m: unset(m, "PURSE_ALLOW_PLAINTEXT"),
        "it would refuse to serve 0.0.0.0:7402 without TLS",
    ),
    "a drain that is cut short": (
        lambda m: pod(m, "metering").update(terminationGracePeriodSeconds=25),
        "it is killed after 25 s, but pauses 5 s and drains for 20 s",
    ),
    "a container that writes to its root": (
        lambda m: container(m, "gateway")["securityContext"].pop("readOnlyRootFilesystem"),
        "Deployment gateway, container gateway, can write to its root",
    ),
    "a pod that may be root": (
        lambda m: pod(m, "worker")["securityContext"].update(runAsNonRoot=False),
        "Deployment worker may run as root",
    ),
    "a pod with a token": (
        lambda m: pod(m, "wallet").pop("automountServiceAccountToken"),
        "Deployment wallet mounts a token of Kubernetes",
    ),
    "a deployment that a drain may stop": (
        lambda m: m.documents.remove(named(m, "PodDisruptionBudget", "budget")),
        "Deployment budget has no PodDisruptionBudget",
    ),
    "a path that is open to the world": (
        lambda m: named(m, "Ingress", "webhooks")["spec"]["rules"][0]["http"]["paths"][0].update(path="/"),
        "Ingress webhooks opens /: only /webhooks/stripe, exactly, is meant for the world",
    ),
    "an arrow that is not open": (
        lambda m: m.documents.remove(named(m, "NetworkPolicy", "worker")),
        "no NetworkPolicy lets worker speak to wallet, which the code does",
    ),
    "an arrow that is not in the picture": (
        lambda m: named(m, "NetworkPolicy", "stripe")["spec"]["podSelector"]["matchExpressions"][0]["values"].append(
            "budget"
        ),
        "a NetworkPolicy lets budget speak to stripe, which docs/architecture.md does not show",
    ),
    "a network that is open by default": (
        lambda m: m.documents.remove(named(m, "NetworkPolicy", "nothing-by-default")),
        "no NetworkPolicy denies by default",
    ),
}


@pytest.mark.parametrize("name", BREAKS)
def test_what_is_broken_is_named(overlays: dict[str, Manifests], name: str) -> None:
    breaks, expected = BREAKS[name]
    manifests = Manifests(copy.deepcopy(overlays["dev"].documents))
    breaks(manifests)
    found = [
        problem
        for rule in (rules.restricted, rules.watched, rules.webhooks_only, processes.check, network.check)
        for problem in rule(manifests, example_secrets())
    ]
    assert any(expected in problem for problem in found), found


def test_a_field_that_kubernetes_does_not_know_is_named(overlays: dict[str, Manifests]) -> None:
    document = copy.deepcopy(named(overlays["dev"], "Deployment", "budget"))
    document["spec"]["template"]["spec"]["containers"][0]["livenessprobe"] = {}
    (problem,) = rules.schemas(Manifests([document]), {})
    assert problem.startswith("Deployment budget is refused by Kubernetes 1.35 at spec.template.spec.containers.0")
    assert "livenessprobe" in problem


def test_the_example_secrets_cannot_be_applied() -> None:
    for one in yaml.safe_load_all((CHECKOUT / "k8s/secrets.yaml.example").read_text()):
        assert one["metadata"]["namespace"] == "FILL_ME_IN"  # no name that Kubernetes takes


def test_a_call_that_the_picture_does_not_show_is_named(
    overlays: dict[str, Manifests], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "calls", lambda: code.calls() | {("wallet", "metering")})
    found = list(network.check(overlays["dev"], {}))
    assert found == ["docs/architecture.md does not show that wallet speaks to metering, which the code does"]


def test_the_picture_is_read() -> None:
    assert {
        ("metering", "budget"),
        ("gateway", "wallet"),
        ("worker", "temporal"),
        ("wallet", "stripe"),
    } <= code.arrows()
