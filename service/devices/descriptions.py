"""Descriptions of sessions that live on several devices, put together in the order in which they were asked for."""

from collections.abc import Sequence

from service.engine.interface import DescribeSessions, Failed, Finished, SessionDescription
from service.errors import ServiceError


class Gathering:
    """One request, and the parts of its answer so far.

    Args:
        request: What was asked.
        num_parts: Devices that were asked.
    """

    def __init__(self, request: DescribeSessions, num_parts: int) -> None:
        self._request, self._num_missing = request, num_parts
        self._found: list[SessionDescription] = []
        self._error: ServiceError | None = None

    def add(self, answer: Sequence[SessionDescription] | ServiceError) -> Finished | Failed | None:
        """Take the part of a device; gives the answer once it is whole."""
        self._num_missing -= 1
        if isinstance(answer, ServiceError):
            self._error = self._error or answer
        else:
            self._found.extend(answer)
        if self._num_missing:
            return None
        if self._error is not None:
            return Failed(self._request.id, self._error)
        by_session = {described.session: described for described in self._found}
        # As an engine does: in the order asked, one that is asked for twice is told twice.
        told = tuple(by_session[session] for session in self._request.sessions if session in by_session)
        return Finished(self._request.id, told)
