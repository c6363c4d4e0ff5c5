"""How the client connects: TLS, message sizes, and which calls gRPC may repeat by itself."""

import json
import secrets
from dataclasses import dataclass

import grpc

DEFAULT_ADDRESS = "127.0.0.1:8001"
DEFAULT_TIMEOUT_S = 30.0
MAX_TIMEOUT_S = 366 * 86400.0  # of a call; gRPC takes much longer ones for no time at all
MAX_MESSAGE_BYTES = 64 * 2**20  # of one answer
CALLER_KEY = "carryover-caller"  # of the call metadata of a Session stream
CALLER_CHARACTERS = (16, 128)
HEALTH_CHECK = "/grpc.health.v1.Health/Check"

# Calls that change nothing and are answered in one message: repeating them is safe. A stream is never repeated.
_REPEATABLE = ("Tag", "Score", "ListModels", "GetModel")
_SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [{"service": "carryover.v1.Carryover", "method": method} for method in _REPEATABLE],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.1s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}


@dataclass(frozen=True)
class Tls:
    """Encrypt the connection.

    Args:
        root_certificates: PEM certificates to trust; None trusts gRPC's own roots.
        private_key: PEM key of this client, for mutual TLS.
        certificate_chain: PEM certificate of this client, for mutual TLS.
        server_name: Name to expect in the server's certificate where it is not the host of the address.
    """

    root_certificates: bytes | None = None
    private_key: bytes | None = None
    certificate_chain: bytes | None = None
    server_name: str | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """Build gRPC's credentials."""
        return grpc.ssl_channel_credentials(self.root_certificates, self.private_key, self.certificate_chain)


def checked_caller(caller: str | None) -> str:
    """Pass the name of a caller on, or make one up that nobody guesses.

    Raises:
        ValueError: It is not 16 to 128 printable ASCII characters.
    """
    if caller is None:
        return secrets.token_urlsafe(32)
    low, high = CALLER_CHARACTERS
    if not (low <= len(caller) <= high and caller.isascii() and caller.isprintable()):
        raise ValueError(f"caller: expected {low} to {high} printable ASCII characters, got {len(caller)} or others")
    return caller


def checked_timeout(timeout_s: float) -> float:
    """Pass a timeout on, in seconds.

    Raises:
        ValueError: It is not a number above 0 and up to `MAX_TIMEOUT_S`.
    """
    if not 0 < timeout_s <= MAX_TIMEOUT_S:
        raise ValueError(f"timeout_s: expected more than 0 and at most {MAX_TIMEOUT_S:g} seconds, got {timeout_s!r}")
    return timeout_s


def channel_options(tls: Tls | None) -> list[tuple[str, str | int]]:
    """Give the options of a channel, the same for both clients."""
    options: list[tuple[str, str | int]] = [
        ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", -1),  # the server's limit counts, and its error says so
        # Calls fail at once between two tries to connect; by default these come to lie two minutes apart.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2_000),
    ]
    if tls is not None and tls.server_name is not None:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    return options
