"""Real servers for a test session, started without an event loop: a fixture may outlive any loop."""

import contextlib
import http
import http.client
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from embedded import process
from embedded.ports import LOOPBACK

_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 20.0
_POLL_S = 0.01


@contextlib.contextmanager
def running(
    argv: Sequence[str],
    *,
    environ: Mapping[str, str],
    cwd: Path,
    log: Path,
    is_ready: Callable[[int], bool],
    identity: str = "same",
    stop_signal: signal.Signals = signal.SIGTERM,
) -> Iterator[int]:
    """Run a server that ends with this process whatever happens; gives its pid once `is_ready(pid)`."""
    with log.open("ab") as output:
        server = subprocess.Popen(
            process.guarded(argv, identity=identity),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=dict(environ),
            cwd=cwd,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not is_ready(server.pid):
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{argv[0]} did not become ready: {log.read_text()[-4000:]}")
            time.sleep(_POLL_S)
        yield server.pid
    finally:
        server.send_signal(stop_signal)
        try:
            server.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def accepts(port: int) -> bool:
    """Whether something on this machine accepts connections on the port."""
    with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, port), timeout=1):
        return True
    return False


def answers(port: int, path: str) -> bool:
    """Whether the HTTP server on the port answers GET `path` with 200."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def serves(port: int, service: str = "") -> bool:
    """Whether the gRPC server on the port says SERVING."""
    if not accepts(port):
        return False
    with grpc.insecure_channel(f"{LOOPBACK}:{port}") as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=2)
        except grpc.RpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
