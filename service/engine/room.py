"""What requests hold while they run: rows of the state pool and of the attention memory, and the queue for them.

First come, first served, but for the head start that a priority gives: nobody else overtakes, or wide beams would wait
for ever.
"""

from collections.abc import Collection, Iterable

from service.engine.integrity import IntegrityError, check_holdings
from service.engine.interface import Priority, RequestId
from service.engine.pages import PAGE_ROWS, MemoryPages
from service.engine.slots import Slot, SlotTable
from service.engine.tasks.task import Task


class Room:
    """Hands out slots and memory together.

    Args:
        slots: Hands out rows of the state pool.
        num_slots: Most of them that requests may hold; the others are for sessions.
        num_memory_rows: Rows of the attention memory.
    """

    def __init__(self, slots: SlotTable, num_slots: int, num_memory_rows: int) -> None:
        self.slots = slots
        self.num_slots = num_slots
        self._num_held = 0
        self.pages = MemoryPages(num_memory_rows)
        self._waiting: dict[Priority, dict[RequestId, tuple[float, Task]]] = {priority: {} for priority in Priority}

    @property
    def num_waiting(self) -> int:
        """Tasks that wait."""
        return sum(map(len, self._waiting.values()))

    @property
    def num_held(self) -> int:
        """Slots that requests hold."""
        return self._num_held

    @property
    def can_start(self) -> bool:
        """Whether there is room for whose turn it is."""
        task = self._next
        if task is None or task.num_slots > self.num_slots - self._num_held:
            return False
        return self.pages.num_pages(task.num_positions) * PAGE_ROWS <= self.pages.num_free_rows

    @property
    def _next(self) -> Task | None:
        heads = [next(iter(queue.values())) for queue in self._waiting.values() if queue]
        return min(heads, key=lambda head: head[0])[1] if heads else None

    def wait(self, task: Task, key: float = 0.0) -> None:
        """Queue for what a task needs.

        Args:
            task: Who.
            key: Smaller goes first; of one priority they come in order of their keys, as `WorkItem.key` does.
        """
        self._waiting[task.request.priority][task.request.id] = (key, task)

    def start(self, most_slots: int | None = None) -> list[Task]:
        """Begin the tasks that there is room for, in order, with at most so many slots together (but at least one)."""
        started: list[Task] = []
        num_slots = 0
        while self.can_start and (task := self._next) is not None:
            num_slots += task.num_slots
            if started and most_slots is not None and num_slots > most_slots:
                break
            del self._waiting[task.request.priority][task.request.id]
            slots = self.slots.allocate(task.num_slots)
            assert slots is not None
            self._num_held += len(slots)
            task.begin(slots, self.pages.allocate(task.num_positions) if task.num_positions else None)
            started.append(task)
        return started

    def leave(self, task: Task) -> None:
        """Take back what an ended task held, or its place in the queue."""
        self._waiting[task.request.priority].pop(task.request.id, None)
        if task.slots:
            self.slots.free(task.slots)
            self._num_held -= len(task.slots)
        if task.memory is not None:
            self.pages.free(task.memory)

    def check_integrity(self, tasks: Collection[Task], session_slots: Iterable[Slot]) -> None:
        """Prove that every slot and page is either free or held by exactly one task or session.

        Raises:
            IntegrityError: Something was lost or given out twice.
        """
        slots = [slot.row for task in tasks for slot in task.slots] + [slot.row for slot in session_slots]
        pages = [page for task in tasks if task.memory for page in task.memory.pages]
        check_holdings("slots", slots, self.slots.num_free, self.slots.num_usable)
        num_pages = (self.pages.num_free_rows // PAGE_ROWS, self.pages.num_usable_rows // PAGE_ROWS)
        check_holdings("pages", pages, *num_pages)
        waiting = {request for queue in self._waiting.values() for request in queue}
        if stray := waiting - {task.request.id for task in tasks}:
            raise IntegrityError(f"expected those who wait to be known, got {sorted(stray)}")
