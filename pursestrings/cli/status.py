"""`purse status`: what of the suite answers."""

import asyncio
import contextlib
import http.client
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import grpc
import grpc.aio
import typer

from pursestrings.cli import connection
from pursestrings.cli.connection import Where, read_suite
from pursestrings.cli.failures import CHECK_FAILED, UNAVAILABLE
from pursestrings.cli.options import Json, begin
from pursestrings.cli.output import Output

PROBE_TIMEOUT_S = 2.0
_SERVING = b"\x08\x01"
_HEALTH_PATHS = {"gateway": "/health", "twin": "/_twin/state", "temporal-ui": "/"}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address of the suite and whether it answers."""

    name: str
    kind: str
    address: str
    url: str | None
    ok: bool = False
    detail: str = ""


def status(
    context: typer.Context,
    data: Annotated[
        Path | None, typer.Option("--data", help="The suite's data folder. Default: .purse of the current folder.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Every address of the suite and whether it answers. Ends with 1 where one does not, 3 where none does."""
    where, output = begin(context, as_json=as_json)
    if data is not None:
        where.data = data
    suite = read_suite(where.data)
    probed = asyncio.run(_probe_all(_endpoints(where, suite)))
    _print(output, suite, probed)
    if not all(endpoint.ok for endpoint in probed):
        raise typer.Exit(CHECK_FAILED if any(endpoint.ok for endpoint in probed) else UNAVAILABLE)


def _endpoints(where: Where, suite: dict[str, Any] | None) -> list[Endpoint]:
    named = {} if suite is None else suite["endpoints"]
    found = {name: Endpoint(name, entry["kind"], entry["address"], entry.get("url")) for name, entry in named.items()}
    said = connection.settings(where)
    defaults = {"metering": "127.0.0.1:7401", "budget": "127.0.0.1:7402", "wallet": "127.0.0.1:7403"}
    for name, default in defaults.items():
        address = said[name] or default
        found[name] = Endpoint(name, "grpc", address, None)
    return list(found.values())


async def _probe_all(endpoints: list[Endpoint]) -> list[Endpoint]:
    return list(await asyncio.gather(*map(_probe, endpoints)))


async def _probe(endpoint: Endpoint) -> Endpoint:
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            if endpoint.kind == "grpc":
                ok, detail = await _probe_grpc(endpoint)
            elif endpoint.kind == "http":
                ok, detail = await asyncio.to_thread(_probe_http, endpoint)
            else:
                ok, detail = await _probe_tcp(endpoint)
    except TimeoutError:
        ok, detail = False, "no answer in time"
    except (OSError, http.client.HTTPException) as error:
        ok, detail = False, getattr(error, "strerror", None) or type(error).__name__
    return Endpoint(endpoint.name, endpoint.kind, endpoint.address, endpoint.url, ok, detail)


async def _probe_grpc(endpoint: Endpoint) -> tuple[bool, str]:
    """The standard health check. Its two messages are small enough to write by hand."""
    service = "temporal.api.workflowservice.v1.WorkflowService" if endpoint.name == "temporal" else ""
    request = b"" if not service else b"\x0a" + bytes([len(service)]) + service.encode()
    async with grpc.aio.insecure_channel(endpoint.address, options=(("grpc.enable_http_proxy", 0),)) as channel:
        check: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/grpc.health.v1.Health/Check")
        try:
            answer = await check(request, timeout=PROBE_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            return False, error.code().name.lower().replace("_", " ")
    return (True, "serving") if answer == _SERVING else (False, "not serving")


def _probe_http(endpoint: Endpoint) -> tuple[bool, str]:
    host, _, port = endpoint.address.rpartition(":")
    path = _HEALTH_PATHS.get(endpoint.name, "/health" if endpoint.name.endswith("-metrics") else "/")
    with contextlib.closing(http.client.HTTPConnection(host, int(port), timeout=PROBE_TIMEOUT_S)) as http_connection:
        http_connection.request("GET", path)
        code = http_connection.getresponse().status
    return code < 400, f"HTTP {code}"


async def _probe_tcp(endpoint: Endpoint) -> tuple[bool, str]:
    host, _, port = endpoint.address.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.close()
    return True, "accepts"


def _print(output: Output, suite: dict[str, Any] | None, endpoints: list[Endpoint]) -> None:
    if output.as_json:
        output.object(
            {
                "ok": all(endpoint.ok for endpoint in endpoints),
                "status": None if suite is None else suite.get("status"),
                "data_dir": None if suite is None else suite.get("data_dir"),
                "endpoints": [
                    {
                        "name": one.name,
                        "kind": one.kind,
                        "address": one.address,
                        "url": one.url,
                        "ok": one.ok,
                        "detail": one.detail,
                    }
                    for one in endpoints
                ],
                "parts": [] if suite is None else suite.get("children", []),
            }
        )
        return
    restarts = {part["name"]: part["restarts"] for part in ({} if suite is None else suite).get("children", [])}
    output.table(
        ("part", "address", "answers", "detail", "restarts"),
        [
            (
                one.name,
                one.url or one.address,
                "yes" if one.ok else "NO",
                one.detail,
                str(restarts.get(one.name, "")),
            )
            for one in endpoints
        ],
        right=("restarts",),
    )
    if suite is None:
        output.note(
            "no suite.json here: these are the addresses that are set or the defaults; `purse up` starts a suite"
        )
