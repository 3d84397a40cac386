"""What a POST comes to: only 2xx in time is success, and no address but a public one is called."""

import asyncio
import contextlib
import datetime as dt
import ssl
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from embedded.ports import free_ports
from tests.support.notifying import Receiver, answer, receiving
from workflows.notify.posting import BODY_BYTES_MAX, Posted, Poster

SECRET = "whsec_" + "A" * 32
PUBLIC = "93.184.215.14"
MB = 1024 * 1024


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as one:
        yield one


@contextlib.asynccontextmanager
async def posting(*addresses: str, loopback: bool = True, timeout_s: float = 5.0) -> AsyncIterator[Poster]:
    """A poster; with addresses, every name is at these."""

    async def resolve(_host: str, _port: int) -> Sequence[str]:
        return addresses

    async with Poster(timeout_s=timeout_s, loopback=loopback, resolve=resolve if addresses else None) as poster:
        yield poster


async def post(poster: Poster, url: str) -> Posted:
    return await poster.post(url, [SECRET], "msg_1", "{}")


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (answer(200), Posted(is_taken=True)),
        (answer(204), Posted(is_taken=True)),
        (answer(500, body=b"x" * 100), Posted(error="it answered 500")),
        (answer(500, "retry-after: 60"), Posted(error="it answered 500")),
        (answer(503, "Retry-After: soon"), Posted(error="it answered 503")),
        (
            answer(429, "Retry-After: 60"),
            Posted(error="it answered 429 and asks to wait 60 s", retry_after_s=60),
        ),
        (answer(410), Posted(is_gone=True, error="it answered 410: it wants nothing any more")),
        (b"no HTTP at all\r\n\r\n", Posted(error="the connection broke: RemoteProtocolError")),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * MB, Posted(error="the connection broke: RemoteProtocolError")),
    ],
)
async def test_only_2xx_is_success(receiver: Receiver, said: bytes, expected: Posted) -> None:
    receiver.answers = [said]
    async with posting() as poster:
        assert await post(poster, receiver.url) == expected
    assert receiver.requests[0].verify(SECRET) == {}


async def test_an_answer_that_comes_too_late_is_a_failure(receiver: Receiver) -> None:
    gone = asyncio.Event()

    async def late(_writer: asyncio.StreamWriter) -> None:
        await gone.wait()

    receiver.answers = [late]
    async with posting(timeout_s=0.2) as poster:
        assert await post(poster, receiver.url) == Posted(error="no answer within 0.2 s")
        gone.set()
        assert (await post(poster, receiver.url)).is_taken


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_no_redirect_is_followed(receiver: Receiver, status: int) -> None:
    async with receiving() as other, posting() as poster:
        for location in (other.url, "http://10.0.0.1/", "http://169.254.169.254/latest/meta-data"):
            receiver.answers = [answer(status, f"location: {location}")]
            found = await post(poster, receiver.url)
            assert found == Posted(error=f"it answered {status}; redirects are not followed")
    assert other.requests == []


@pytest.mark.parametrize(
    "addresses",
    [
        ["10.0.0.1"],
        ["127.0.0.1"],
        ["169.254.169.254"],
        ["::1"],
        ["::ffff:10.0.0.1"],
        ["fe80::1%eth0"],
        ["64:ff9b::a00:1"],
        ["0.0.0.0"],  # noqa: S104 - nothing is bound
        [PUBLIC, "192.168.0.1"],
    ],
)
async def test_a_name_at_a_private_address_is_not_called(addresses: list[str]) -> None:
    async with posting(*addresses) as poster:
        found = await post(poster, "https://hooks.example.com/x")
    assert found == Posted(error="the host is at an address that is not public")


async def test_this_machine_is_called_only_where_allowed_and_by_its_own_name(receiver: Receiver) -> None:
    async with posting(loopback=False) as poster:
        assert "not public" in (await post(poster, receiver.url)).error
        assert "not public" in (await post(poster, f"http://localhost:{receiver.port}/")).error
    assert receiver.requests == []
    async with posting("127.0.0.1") as poster:
        assert "not public" in (await post(poster, f"http://rebound.example.com:{receiver.port}/")).error
        assert (await post(poster, f"http://localhost:{receiver.port}/")).is_taken


async def test_what_was_judged_is_what_is_connected_to(receiver: Receiver) -> None:
    asked = []

    async def rebinding(host: str, _port: int) -> Sequence[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["10.0.0.1"]

    async with Poster(timeout_s=5, loopback=True, resolve=rebinding) as poster:
        assert (await post(poster, f"http://localhost:{receiver.port}/")).is_taken
        # The connection is kept, and nobody is asked again for it.
        assert (await post(poster, f"http://localhost:{receiver.port}/")).is_taken
    assert asked == ["localhost"]


async def test_nobody_there_is_a_failure() -> None:
    async with posting() as poster:
        assert "no connection" in (await post(poster, f"http://127.0.0.1:{free_ports(1)[0]}/")).error
    async with posting("not an address") as poster:
        assert (await post(poster, "https://hooks.example.com/")).error == "no connection: ConnectError"


async def test_a_body_of_many_megabytes_is_not_read(receiver: Receiver) -> None:
    sent = 0

    async def flood(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(f"HTTP/1.1 200 OK\r\ncontent-length: {1_000 * MB}\r\n\r\n".encode())
        for _ in range(1_000):
            writer.write(b"x" * MB)
            await writer.drain()
            sent += MB

    receiver.answers = [flood]
    async with posting() as poster:
        assert (await post(poster, receiver.url)).is_taken
        assert (await post(poster, receiver.url)).is_taken
    # Only what the sockets' buffers hold was taken.
    assert BODY_BYTES_MAX <= sent < 64 * MB


async def test_tls_asks_for_the_name_and_not_for_the_address(tmp_path: Path) -> None:
    mine, other = certificate(tmp_path, "localhost"), certificate(tmp_path, "elsewhere.example.com")
    trusting = ssl.create_default_context()
    for file in (mine, other):
        trusting.load_verify_locations(file)
    for file, trusted, expected in ((mine, trusting, True), (other, trusting, False), (mine, None, False)):
        serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        serving.load_cert_chain(file)
        receiver = Receiver()
        server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0, ssl=serving)
        port = server.sockets[0].getsockname()[1]
        async with Poster(timeout_s=5, loopback=True, ssl_context=trusted) as poster:
            found = await post(poster, f"https://localhost:{port}/")
        server.close()
        assert (found.is_taken, len(receiver.requests)) == (expected, int(expected))


def certificate(directory: Path, name: str) -> Path:
    """A self-signed certificate and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = directory / f"{name}.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return file
