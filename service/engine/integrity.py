"""Do the books balance?"""

from collections.abc import Sequence


class IntegrityError(Exception):
    """Something was lost or given out twice. A bug of ours."""


def check_holdings(what: str, held: Sequence[int], num_free: int, num_usable: int) -> None:
    """Prove that everything is either free or held exactly once.

    Args:
        what: For the message.
        held: By everybody together.
        num_free: In the hands of the allocator.
        num_usable: In all.

    Raises:
        IntegrityError: The numbers do not add up, or something is held twice.
    """
    if len(set(held)) != len(held) or len(held) + num_free != num_usable:
        got = f"{num_free} free and {len(held)} held, of which {len(set(held))} differ"
        raise IntegrityError(f"{what}: expected {num_usable} in all, each once, got {got}")
