"""Is it ready? Probes that a supervisor polls; each answers within two seconds and never raises."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

# Called with the pid of the child; True once the child does its work.
Probe = Callable[[int], Awaitable[bool]]

_ATTEMPT_TIMEOUT_S = 2.0
_STATUS_LINE_BYTES_MAX = 1024


def tcp(host: str, port: int) -> Probe:
    """Ready when something accepts connections."""

    async def probe(_pid: int) -> bool:
        return await _accepts(host, port)

    return probe


def http(host: str, port: int, path: str) -> Probe:
    """Ready when GET `path` answers 200. Plain sockets: no HTTP client is loaded only to wait."""

    async def probe(_pid: int) -> bool:
        with contextlib.suppress(OSError, TimeoutError, IndexError):
            async with asyncio.timeout(_ATTEMPT_TIMEOUT_S):
                reader, writer = await asyncio.open_connection(host, port, limit=_STATUS_LINE_BYTES_MAX)
                try:
                    request = f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n"
                    writer.write(request.encode())
                    status_line = await reader.readline()
                    return status_line.split()[1] == b"200"
                except ValueError:  # a first line longer than the limit: not HTTP
                    return False
                finally:
                    writer.close()
        return False

    return probe


def grpc_health(host: str, port: int, service: str = "") -> Probe:
    """Ready when the standard health service says SERVING for `service` ("" is the server as a whole)."""

    async def probe(_pid: int) -> bool:
        # A closed port is noticed without gRPC, whose channels back off for seconds after a refusal.
        if not await _accepts(host, port):
            return False
        import grpc
        from grpc_health.v1 import health_pb2, health_pb2_grpc

        # A proxy that the environment names is not for the machine itself.
        options = [("grpc.enable_http_proxy", 0)]
        async with grpc.aio.insecure_channel(f"{host}:{port}", options=options) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            request = health_pb2.HealthCheckRequest(service=service)
            try:
                answer = await stub.Check(request, timeout=_ATTEMPT_TIMEOUT_S)
            except grpc.aio.AioRpcError:
                return False
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    return probe


async def _accepts(host: str, port: int) -> bool:
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(_ATTEMPT_TIMEOUT_S):
            _, writer = await asyncio.open_connection(host, port)
            writer.close()
            return True
    return False
