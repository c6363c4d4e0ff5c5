"""Which node needs which: cycles, and values that two nodes give."""

from export.graph.walk import reads
from importing.errors import ImportRefused
from importing.reading.walk import Scope
from importing.reading.words import quote


def check_order(scope: Scope) -> None:
    """Check that each node stands after those that it reads from.

    Raises:
        ImportRefused: It cannot, since there is a cycle; or it does not; or a value is given twice.
    """
    makers: dict[str, int] = {}
    own = list(scope.nodes)
    for index, node in enumerate(own):
        for name in node.output:
            if name and (name in makers or name in scope.given):
                raise ImportRefused(f"{scope.name}: value {quote(name)} is given twice")
            makers[name] = index
    needs = [{makers[name] for name in reads(node) if name in makers} for node in own]
    if all(need < index for index, found in enumerate(needs) for need in found):
        return
    users: list[list[int]] = [[] for _ in own]
    for index, found in enumerate(needs):
        for need in found:
            users[need].append(index)
    counts = [len(found) for found in needs]
    ready = [index for index, count in enumerate(counts) if count == 0]
    num_done = 0
    while ready:
        num_done += 1
        for user in users[ready.pop()]:
            counts[user] -= 1
            if counts[user] == 0:
                ready.append(user)
    if num_done < len(own):
        # From one that waits to what it waits for, until one comes again: that is on a cycle, not just behind it.
        index, seen = next(index for index, count in enumerate(counts) if count), set[int]()
        while index not in seen:
            seen.add(index)
            index = next(need for need in needs[index] if counts[need])
        raise ImportRefused(f"{scope.name} has a cycle: node {index} ({own[index].op_type}) waits for itself")
    raise ImportRefused(f"{scope.name}: nodes: expected each after those that it reads from")
