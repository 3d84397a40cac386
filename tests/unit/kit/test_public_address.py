"""Which hosts are public, in every notation that a resolver or a URL parser takes."""

import pytest

from services.kit.public_address import is_public_host, is_this_machine


@pytest.mark.parametrize(
    "host",
    ["example.com", "hooks.EXAMPLE.co.uk", "example.com.", "8.8.8.8", "2606:4700::1", "xn--bcher-kva.org"],
)
def test_public_hosts(host: str) -> None:
    assert is_public_host(host)


@pytest.mark.parametrize(
    "host",
    [
        # Addresses that resolvers read though they are written as no address.
        *("2130706433", "0x7f000001", "0x7f.1", "127.1", "0177.0.0.1", "127.0.0.1.", "1.2.3.0x4"),
        # Private and special ones, and those that carry another inside.
        *("10.0.0.1", "169.254.169.254", "100.64.0.1", "198.18.0.1", "224.0.0.1", "::", "::1", "fe80::1"),
        *("fec0::1", "::10.0.0.1", "::ffff:0:10.0.0.1", "5f00::1", "3fff::1", "192.88.99.1"),
        *("::ffff:127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2001:0:1::", "fc00::1"),
        # Names that mean something inside a network only.
        *("localhost", "localhost.", "a.localhost.", "postgres", "kubernetes.default.svc", "metadata.google.internal."),
        *("printer.local", "x.svc.cluster.local"),
        # No names.
        *("...", "a..b", "ex%61mple.com", "127.0.0.1%2f.example.com", "-a.example.com", "", "a" * 250 + ".com"),
    ],
)
def test_hosts_that_are_not_public(host: str) -> None:
    assert not is_public_host(host)


def test_this_machine() -> None:
    assert all(is_this_machine(host) for host in ("localhost", "LOCALHOST.", "127.0.0.1", "127.9.9.9", "::1"))
    assert not any(is_this_machine(host) for host in ("localhost.example.com", "10.0.0.1", "2130706433"))
