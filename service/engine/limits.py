"""How much one engine takes on."""

from dataclasses import dataclass, field
from typing import Literal

from service.engine.schedule import ScheduleLimits

Batching = Literal["step", "request"]


@dataclass(frozen=True)
class EngineLimits:
    """Bounds of one engine; what runs is bounded by the runner's slots and memory rows.

    Args:
        session_slots: Most slots that sessions hold, of a model that callers can step. The others are for requests:
            sessions stay as long as their callers like, requests are short.
        max_sessions: Most sessions open at a time.
        max_host_bytes: Most bytes of session states in host memory, for those that have no slot.
        max_marks: Most marks of a session.
        kept_answers: Answers of a session that are kept for steps that are sent again.
        max_waiting: Most requests for new work that wait to run.
        max_queue_delay_s: Longest that new work or a step may have to wait by the measured pace; more is refused at
            once.
        fill_delay_s: Longest that a step waits for others to share its run while other runs are under way.
        max_run_s: Longest that a run of an imported model may take; then it is ended, and who is in it is told.
        batching: "step": requests join and leave the batch at every step. "request": a batch is decoded to its end
            before the next one starts; for comparison only.
        batch: Bounds of one batch.
    """

    session_slots: int
    max_sessions: int
    max_host_bytes: int = 0
    max_marks: int = 8
    kept_answers: int = 4
    max_waiting: int = 1024
    max_queue_delay_s: float = 60.0
    fill_delay_s: float = 0.0
    max_run_s: float = 30.0
    batching: Batching = "step"
    batch: ScheduleLimits = field(default_factory=ScheduleLimits)
