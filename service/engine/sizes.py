"""Whether a shape is one that a model declares."""

from collections.abc import Sequence


def fits(shape: Sequence[int], dims: Sequence[int | str], sizes: dict[str, int]) -> bool:
    """Compare a shape with what is declared; a symbol has one size throughout a request.

    Args:
        shape: As it came.
        dims: Sizes, and symbols of those that each request chooses.
        sizes: By symbol, those met so far; added to.
    """
    if len(shape) != len(dims):
        return False
    for size, dim in zip(shape, dims, strict=True):
        if size != (dim if isinstance(dim, int) else sizes.setdefault(dim, size)):
            return False
    return True
