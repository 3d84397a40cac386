"""Starts the suite's processes as a cluster would: the manifests' own commands, environment, files and probes.

    unshare --mount --net python -m tests.support.cluster OVERLAY [PYTHON]

PYTHON is the interpreter that the processes run in, for example of an environment with the image's lock alone. It
needs a mount and a network namespace of its own, in which it may name hosts, put files where Secrets are mounted
and make the root read-only. PostgreSQL and Temporal answer under the names and ports that the manifests give them.
Prints one line a process, and ends with 0 when every probe was answered and every process ended in its grace.
"""

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from grpc_health.v1 import health_pb2, health_pb2_grpc

from embedded import temporal
from embedded.postgres import Cluster
from pursestrings.budget.v1 import budget_pb2, budget_pb2_grpc
from scripts.k8s.code import CHECKOUT
from scripts.k8s.manifests import Manifests, Workload, render
from services.kit import auth
from services.kit.channel import channel
from tests.support.databases import TEST_SETTINGS
from tests.support.processes import accepts, running

_NAMES: Final = ("metering", "budget", "wallet", "gateway", "postgres", "temporal")
_POSTGRES_PORT: Final = 5432
_TEMPORAL_PORT: Final = 7233
_READY_TIMEOUT_S: Final = 60
_SIOCSIFFLAGS: Final = 0x8914
_UP: Final = 0x1 | 0x40
_ORDER: Final = ("wallet", "budget", "metering", "gateway", "worker")

Secrets = dict[str, dict[str, bytes]]


def _bring_loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        fcntl.ioctl(one, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _UP))


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


@contextlib.contextmanager
def _private_etc(directory: Path) -> Iterator[None]:
    """An /etc of this namespace: names of hosts and mounted Secrets go there, and nowhere else."""
    directory.mkdir()
    _mount("--make-rprivate", "/")
    _mount("-t", "tmpfs", "tmpfs", str(directory))
    upper, work = directory / "upper", directory / "work"
    upper.mkdir()
    work.mkdir()
    _mount("-t", "overlay", "overlay", "-o", f"lowerdir=/etc,upperdir={upper},workdir={work}", "/etc")
    Path("/etc/hosts").write_text(f"127.0.0.1 localhost {' '.join(_NAMES)}\n")
    try:
        yield
    finally:
        for mounted in ("/etc", str(directory)):
            subprocess.run(["umount", "--lazy", mounted], check=True)


def _certificates() -> dict[str, bytes]:
    """What the Secret `tls` holds: one certificate for every name, and who signed it."""
    now = datetime.now(UTC)

    def name(common: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common)])

    def build(subject: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(name(subject))
            .issuer_name(name("authority"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=1))
            .not_valid_after(now + timedelta(hours=1))
        )

    authority, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root = build("authority", authority).add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    names = x509.SubjectAlternativeName([x509.DNSName(one) for one in _NAMES])
    pem = serialization.Encoding.PEM
    suite = build("suite", key).add_extension(names, critical=False)
    return {
        "ca.crt": root.sign(authority, hashes.SHA256()).public_bytes(pem),
        "tls.crt": suite.sign(authority, hashes.SHA256()).public_bytes(pem),
        "tls.key": key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    }


def _secrets(cluster: Cluster, signing_key: bytes, public_key: bytes) -> Secrets:
    def dsn(database: str, role: Any) -> bytes:
        return cluster.dsn(database, role).replace("127.0.0.1", "postgres").encode()

    token = auth.mint(signing_key, auth.ANY_ORG, ["service"], 3600, datetime.now(UTC))
    databases = ("metering", "budget", "wallet")
    return {
        **{f"{one}-database": {"dsn": dsn(one, "service")} for one in databases},
        "database-owners": {f"{one}-dsn": dsn(one, "owner") for one in databases},
        "tokens": {"public.pem": public_key, "service.token": token.encode()},
        "stripe": {"api-key": b"sk_test_0", "webhook-secret": b"whsec_0"},
        "temporal": {"address": b"temporal:7233", "namespace": b"default", "api-key": b"key"},
        "tls": _certificates(),
    }


def _environment(manifests: Manifests, container: Mapping[str, Any], secrets: Secrets) -> dict[str, str]:
    """What Kubernetes would set, and what the image does."""
    given = {"PATH": os.environ["PATH"], "PYTHONPATH": str(CHECKOUT), "PYTHONDONTWRITEBYTECODE": "1"}
    for source in container.get("envFrom", ()):
        given |= manifests.config_maps[source["configMapRef"]["name"]]
    for variable in container.get("env", ()):
        wanted = variable.get("valueFrom", {}).get("secretKeyRef")
        given[variable["name"]] = secrets[wanted["name"]][wanted["key"]].decode() if wanted else variable["value"]
    return given


def _mount_secrets(workload: Workload, secrets: Secrets) -> None:
    volumes = {volume["name"]: volume["secret"]["secretName"] for volume in workload.pod.get("volumes", ())}
    for mount in workload.pod["containers"][0].get("volumeMounts", ()):
        directory = Path(mount["mountPath"])
        directory.mkdir(parents=True, exist_ok=True)
        for key, value in secrets[volumes[mount["name"]]].items():
            (directory / key).write_bytes(value)


def _argv(container: Mapping[str, Any], python: str) -> list[str]:
    """The container's command, on a root that nothing can be written to."""
    first, *rest = container["command"]
    assert first == "python"
    read_only = 'mount -o remount,bind,ro / && exec "$0" "$@"'
    return ["unshare", "--mount", "sh", "-c", read_only, python, *rest]


def _answers(probe: Mapping[str, Any], ports: Mapping[str, int]) -> bool:
    if "grpc" in probe:
        with grpc.insecure_channel(f"127.0.0.1:{probe['grpc']['port']}") as one:
            request = health_pb2.HealthCheckRequest(service=probe["grpc"].get("service", ""))
            try:
                answer = health_pb2_grpc.HealthStub(one).Check(request, timeout=probe.get("timeoutSeconds", 1))
            except grpc.RpcError:
                return False
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
    if "httpGet" in probe:
        get = probe["httpGet"]
        url = f"{get.get('scheme', 'HTTP').lower()}://127.0.0.1:{ports[get['port']]}{get['path']}"
        # Kubernetes does not verify certificates either.
        asked = subprocess.run(
            [sys.executable, "-c", "import httpx,sys; httpx.get(sys.argv[1], verify=False).raise_for_status()", url],
            stderr=subprocess.DEVNULL,
            check=False,
        )
        return asked.returncode == 0
    return accepts(ports[probe["tcpSocket"]["port"]])


def _start(workload: Workload, environ: Mapping[str, str], python: str, log: Path) -> subprocess.Popen[bytes]:
    container = workload.pod["containers"][0]
    with log.open("ab") as output:
        process = subprocess.Popen(
            _argv(container, python), env=dict(environ), cwd=CHECKOUT, stdout=output, stderr=output
        )
    ports = {port["name"]: port["containerPort"] for port in container.get("ports", ())}
    for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
        deadline = time.monotonic() + _READY_TIMEOUT_S
        while not _answers(container[kind], ports):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{workload.name}: {kind} is not answered:\n{log.read_text()[-3000:]}")
            time.sleep(0.1)
    return process


def _stop(workload: Workload, process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    code = process.wait(workload.pod.get("terminationGracePeriodSeconds", 30))
    if code != 0:
        raise RuntimeError(f"{workload.name} ended with {code}")


async def _spend(environ: Mapping[str, str], signing_key: bytes) -> None:
    """One decision, as an agent in the cluster asks for it."""
    token = auth.mint(signing_key, "orgs/acme", ["agent"], 600, datetime.now(UTC))
    ca = environ.get("PURSE_TLS_CA_FILE")
    address = environ["PURSE_BUDGET_ADDRESS"]
    async with channel(address, token, ca_file=Path(ca) if ca else None, allow_plaintext=ca is None) as one:
        stub: Any = budget_pb2_grpc.BudgetServiceStub(one)
        request = budget_pb2.ReserveRequest(subject="orgs/acme/agents/a", request_id="1")
        request.estimate.cost.currency_code = "USD"
        request.estimate.cost.amount_nanos = 1
        answer = await stub.Reserve(request, timeout=20, wait_for_ready=True)
        assert answer.decision.outcome == budget_pb2.OUTCOME_ALLOW, answer


@contextlib.contextmanager
def _infrastructure(directory: Path) -> Iterator[Cluster]:
    cluster = Cluster(directory / "postgres", _POSTGRES_PORT, settings=TEST_SETTINGS)
    cluster.prepare()
    (directory / "temporal").mkdir()
    with (
        running(
            cluster.argv(),
            environ={"PATH": os.defpath},
            cwd=directory,
            log=directory / "postgres.log",
            is_ready=cluster.is_ready,
            identity=cluster.run_as,
            stop_signal=signal.SIGINT,
        ),
        running(
            temporal.argv(_TEMPORAL_PORT, None, database=None),
            environ=temporal.environ(directory / "temporal"),
            cwd=directory,
            log=directory / "temporal.log",
            is_ready=lambda _pid: accepts(_TEMPORAL_PORT),
        ),
    ):
        cluster.provision()
        yield cluster


def _resident_mib(pid: int) -> int:
    line = next(one for one in Path(f"/proc/{pid}/status").read_text().splitlines() if one.startswith("VmRSS"))
    return int(line.split()[1]) // 1024


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(overlay: str, python: str = sys.executable) -> None:
    """Starts everything that the overlay would, asks for a decision, and stops it."""
    manifests = render(CHECKOUT / "k8s/overlays" / overlay)
    workloads = {one.name: one for one in manifests.workloads}
    # Temporal's development server speaks no TLS, so a worker that must finds nothing to talk to.
    wanted = [name for name in _ORDER if overlay == "dev" or name != "worker"]
    _bring_loopback_up()
    with tempfile.TemporaryDirectory() as kept, _infrastructure(Path(kept)) as pg, _private_etc(Path(kept) / "etc"):
        signing_key, public_key = auth.generate_key()
        secrets = _secrets(pg, signing_key, public_key)
        migrate = workloads["migrate"].pod["containers"][0]
        subprocess.run(_argv(migrate, python), env=_environment(manifests, migrate, secrets), cwd=CHECKOUT, check=True)
        started: dict[str, subprocess.Popen[bytes]] = {}
        try:
            for name in wanted:
                workload = workloads[name]
                _mount_secrets(workload, secrets)
                for first in workload.pod.get("initContainers", ()):
                    environ = _environment(manifests, first, secrets)
                    subprocess.run(_argv(first, python), env=environ, cwd=CHECKOUT, check=True, timeout=60)
                environ = _environment(manifests, workload.pod["containers"][0], secrets)
                started[name] = _start(workload, environ, python, Path(kept) / f"{name}.log")
                _say(f"{name}: every probe is answered, {_resident_mib(started[name].pid)} MiB resident")
            asyncio.run(_spend(_environment(manifests, workloads["budget"].pod["containers"][0], secrets), signing_key))
            for name in reversed(wanted):
                _stop(workloads[name], started.pop(name))
            _say(f"{overlay}: allowed a spend, and everything ended in its grace")
        finally:
            for process in started.values():
                process.kill()
                process.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
