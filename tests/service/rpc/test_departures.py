"""Callers who leave as their answer goes out are no errors; what else gRPC logs stays."""

import logging

import pytest
from grpc._cython import cygrpc  # type: ignore[attr-defined]

from service.rpc.departures import expect_departures

GRPC = logging.getLogger("grpc._cython.cygrpc")


def logged(error: Exception) -> None:
    """Log an error as grpc.aio does that of a servicer method."""
    try:
        raise error
    except Exception:
        GRPC.exception("%s raised in core by servicer method [%s]", type(error).__name__, "/a.B/C")


def test_departures_are_told_of_and_are_no_errors(caplog: pytest.LogCaptureFixture) -> None:
    expect_departures()
    expect_departures()
    caplog.set_level(logging.INFO)
    logged(cygrpc.ExecuteBatchError("execute_batch failed"))
    logged(cygrpc.InternalError("something else"))
    assert [(record.levelname, record.name, bool(record.exc_info)) for record in caplog.records] == [
        ("INFO", "service.rpc.departures", False),
        ("ERROR", GRPC.name, True),
    ]
    assert "/a.B/C" in caplog.text
