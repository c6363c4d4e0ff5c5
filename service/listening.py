"""Whether an address can be listened on, found out before anything else takes its time."""

import socket


def check_address(host: str, port: int) -> None:
    """Try an address, and let go of it.

    Args:
        host: Name or address.
        port: Its port; 0 is any, which there always is.

    Raises:
        OSError: It cannot be listened on: one line with expected and got.
    """
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in infos[:1]:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # of connections that ended just now
                probe.bind(address)
                probe.listen(1)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(f"{shown}: expected an address to listen on, got: {reason}") from None
