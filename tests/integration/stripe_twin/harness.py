"""The twin as a real process, and a webhook receiver, for tests."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

import httpx
import stripe

ROOT = Path(__file__).parents[3]
DEADLINE_S = 20.0
TEST_KEY = "sk_test_contract"
SECRET = "whsec_harness"

T = TypeVar("T")


async def eventually(probe: Callable[[], Awaitable[T | None]], deadline_s: float = DEADLINE_S) -> T:
    """The first result of `probe` that is neither None nor False; fails after the deadline."""
    end = time.monotonic() + deadline_s
    while True:
        result = await probe()
        if result is not None and result is not False:
            return result
        assert time.monotonic() < end, f"{probe} came to nothing within {deadline_s} s"
        await asyncio.sleep(0.05)


class TwinProcess:
    """`python -m embedded.stripe_twin` on a free port, which it keeps over restarts."""

    def __init__(self, data: Path, *, webhook_url: str | None = None) -> None:
        self.data = data
        self.webhook_url = webhook_url
        self.url = ""
        self._port = 0
        self._process: subprocess.Popen[str] | None = None
        self._http = httpx.Client(trust_env=False)

    def start(self) -> TwinProcess:
        """Start it and wait until it listens."""
        command = [sys.executable, "-m", "embedded.stripe_twin", "--port", str(self._port), "--data", str(self.data)]
        if self.webhook_url:
            command += ["--webhook-url", self.webhook_url, "--webhook-secret", SECRET]
        self._process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert "listening on" in line, f"the twin did not start: {line!r}"
        self.url = line.split()[-1]
        self._port = int(self.url.rsplit(":", 1)[1])
        return self

    def _end(self, number: signal.Signals) -> int:
        assert self._process is not None
        assert self._process.stdout is not None
        self._process.send_signal(number)
        code = self._process.wait(DEADLINE_S)
        self._process.stdout.close()
        self._process = None
        return code

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        return self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self._end(signal.SIGKILL)

    def close(self) -> None:
        """Stop it if it still runs."""
        self._http.close()
        if self._process is not None:
            self.stop()

    def send(self, method: str, path: str, **request: Any) -> httpx.Response:
        """A request of any form; its answer."""
        url = path if path.startswith("http") else self.url + path
        return self._http.request(method, url, **request)

    def control(self, path: str, body: dict[str, Any] | None = None, *, method: str = "POST") -> Any:
        """Call `/_twin/{path}`; its answer, which must be a success."""
        response = self.send(method, f"/_twin/{path}", json=body if method == "POST" else None)
        assert response.status_code == 200, response.text
        return response.json()

    def state(self) -> Any:
        """`GET /_twin/state`."""
        return self.control("state", method="GET")

    def fault(self, kind: str, match: str = "*", **more: Any) -> int:
        """Arm a fault; its id."""
        return int(self.control("faults", {"kind": kind, "match": match, **more})["id"])


def stripe_client(url: str | None, key: str = TEST_KEY, *, timeout_s: float = 10.0) -> stripe.StripeClient:
    """The real SDK, without retries of its own so that tests see every answer."""
    return stripe.StripeClient(
        key,
        base_addresses={"api": url} if url else {},
        http_client=stripe.HTTPXClient(timeout=timeout_s, allow_sync_methods=True),
        max_network_retries=0,
    )


@dataclass(frozen=True)
class Received:
    """One webhook as it arrived."""

    body: bytes
    signature: str

    @property
    def event(self) -> Any:
        """The body, read without checking the signature."""
        return json.loads(self.body)


class Receiver:
    """An HTTP server that records what is posted to it; `status` is what it answers."""

    def __init__(self) -> None:
        self.status = 200
        self._received: list[Received] = []
        self._arrived = threading.Condition()
        receiver = self

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64  # the default of 5 loses connections when eight events come at once

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                body = self.rfile.read(length)
                if len(body) < length:
                    # Its sender was killed in the middle: nothing has arrived, and it will be sent again.
                    return
                self.send_response(receiver.status)
                self.send_header("Content-Length", "0")
                self.end_headers()
                with receiver._arrived:
                    receiver._received.append(Received(body, self.headers["Stripe-Signature"]))
                    receiver._arrived.notify_all()

            def log_message(self, *_args: object) -> None:
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/webhooks/stripe"

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def wait_for(self, enough: Callable[[list[Received]], bool], deadline_s: float = DEADLINE_S) -> list[Received]:
        """Everything received, once it is enough."""
        with self._arrived:
            arrived = self._arrived.wait_for(lambda: enough(self._received), deadline_s)
            types = [item.event["type"] for item in self._received]
            assert arrived, f"not enough arrived within {deadline_s} s: {types}"
            return list(self._received)

    def wait_for_types(self, *types: str) -> list[Received]:
        """Everything received, once each of these event types is among it."""
        return self.wait_for(lambda all_: set(types) <= {item.event["type"] for item in all_})

    def of_type(self, event_type: str) -> list[Received]:
        """What has arrived of one type so far."""
        with self._arrived:
            return [item for item in self._received if item.event["type"] == event_type]
