"""Whether an address can be listened on."""

import socket

import pytest

from service.listening import check_address


def test_a_free_address_is_left_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    check_address("127.0.0.1", 0)
    check_address("127.0.0.1", port)
    check_address("localhost", port)
    with socket.create_server(("127.0.0.1", port)):
        pass


def test_what_cannot_be_listened_on_is_said_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(OSError, match="in use") as caught:
            check_address("127.0.0.1", port)
        assert str(caught.value) == f"127.0.0.1:{port}: expected an address to listen on, got: Address already in use"
    with pytest.raises(OSError, match=r"^203\.0\.113\.1:0: expected an address to listen on, got: Cannot assign"):
        check_address("203.0.113.1", 0)
    with pytest.raises(OSError, match=r"^no-such-host\.invalid:1: expected an address to listen on, got: "):
        check_address("no-such-host.invalid", 1)
