"""Rendered manifests, and how their parts are found."""

import os
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import yaml

from scripts.k8s.code import CHECKOUT

Document = dict[str, Any]
_WORKLOADS: Final = ("Deployment", "StatefulSet", "Job")
_RENDER_TIMEOUT_S: Final = 60
IMAGE: Final = "pursestrings"


class RenderError(Exception):
    """An overlay cannot be rendered; the text is kubectl's."""


def render(overlay: Path) -> "Manifests":
    """An overlay as it would be applied; nothing leaves the machine."""
    beside = Path(sysconfig.get_path("scripts")) / "kubectl"
    kubectl = str(beside) if beside.is_file() else shutil.which("kubectl")
    if kubectl is None:
        raise RenderError("kubectl is not installed; it comes with the locked dependencies")
    done = subprocess.run(
        [kubectl, "kustomize", str(overlay)],
        env={"PATH": os.defpath, "KUBERC": "off"},
        capture_output=True,
        text=True,
        timeout=_RENDER_TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        raise RenderError(done.stderr.strip())
    return Manifests([document for document in yaml.safe_load_all(done.stdout) if document])


def example_secrets() -> Mapping[str, frozenset[str]]:
    """The keys of every Secret that an operator is asked for."""
    text = (CHECKOUT / "k8s/secrets.yaml.example").read_text()
    return {one["metadata"]["name"]: frozenset(one["stringData"]) for one in yaml.safe_load_all(text)}


@dataclass(frozen=True)
class Workload:
    """A Deployment, StatefulSet or Job."""

    document: Document

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.document["metadata"]["name"])

    @property
    def kind(self) -> str:
        """Its kind."""
        return str(self.document["kind"])

    @property
    def template(self) -> Document:
        """The pod's metadata and spec."""
        found: Document = self.document["spec"]["template"]
        return found

    @property
    def pod(self) -> Document:
        """The pod's spec."""
        found: Document = self.template["spec"]
        return found

    @property
    def labels(self) -> Mapping[str, str]:
        """What selectors find the pod by."""
        found: Mapping[str, str] = self.template["metadata"]["labels"]
        return found

    @property
    def containers(self) -> list[Document]:
        """Its containers, those that run first included."""
        return [*self.pod.get("initContainers", ()), *self.pod["containers"]]


def is_ours(container: Document) -> bool:
    """Whether it runs the suite's own image."""
    return str(container["image"]).partition(":")[0] == IMAGE


class Manifests:
    """All documents of a rendered overlay."""

    def __init__(self, documents: list[Document]) -> None:
        self.documents = documents

    def of(self, kind: str) -> Iterator[Document]:
        """Every document of a kind."""
        return (document for document in self.documents if document["kind"] == kind)

    @property
    def workloads(self) -> list[Workload]:
        """Everything that runs."""
        return [Workload(document) for document in self.documents if document["kind"] in _WORKLOADS]

    @cached_property
    def config_maps(self) -> Mapping[str, Mapping[str, str]]:
        """The data of each ConfigMap."""
        return {one["metadata"]["name"]: one.get("data", {}) for one in self.of("ConfigMap")}
