"""Errors of the Open Inference Protocol, in the words that its clients match on."""

from typing import Literal

Code = Literal[
    "invalid_argument", "not_found", "unavailable", "unimplemented", "already_exists", "cancelled", "internal",
    "deadline_exceeded", "permission_denied",
]  # fmt: skip


class OipError(Exception):
    """What a client of the protocol is told.

    Args:
        code: Which gRPC status, and by it which HTTP one.
        message: In the reference server's words where it has some: see docs/oip.md.
    """

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
