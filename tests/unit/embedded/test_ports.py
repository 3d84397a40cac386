import os
import socket

import pytest

from embedded import ports


def test_free_ports_differ_and_can_be_bound() -> None:
    found = ports.free_ports(20)
    assert 20 == len(set(found))
    assert all(ports.is_free(port) for port in found)


def test_a_taken_port_is_named_with_its_holder_and_the_way_out() -> None:
    with socket.socket() as taken:
        taken.bind((ports.LOOPBACK, 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert os.getpid() == ports.holder(port)
        with pytest.raises(ports.PortTakenError) as caught:
            ports.require_free([("budget (gRPC)", port), ("wallet (gRPC)", ports.free_ports(1)[0])])
    text = str(caught.value)
    assert f"port {port} for budget (gRPC) is held by pid {os.getpid()}" in text
    assert "free_ports" in text
    assert "wallet" not in text


def test_nobody_holds_a_free_port() -> None:
    assert ports.holder(ports.free_ports(1)[0]) is None
