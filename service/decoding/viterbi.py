"""The best path through a linear-chain CRF.

Source: Viterbi 1967; Lafferty et al. 2001 for the model. The oracle in the tests enumerates every path.
"""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


def viterbi(emissions: Floats, start: Floats, end: Floats, transitions: Floats) -> list[int]:
    """Find the tags of the highest total score; ties go to the lower tag.

    Args:
        emissions: (T, K) scores of each tag at each position, T at least 1.
        start: (K,) scores of beginning with a tag.
        end: (K,) scores of ending with a tag.
        transitions: (K, K) scores, from -> to.

    Returns:
        T tags.
    """
    num_tags = emissions.shape[1] if emissions.ndim == 2 else -1
    if len(emissions) == 0 or (start.shape, end.shape, transitions.shape) != (
        (num_tags,),
        (num_tags,),
        (num_tags, num_tags),
    ):
        shapes = (emissions.shape, start.shape, end.shape, transitions.shape)
        raise ValueError(f"viterbi: expected (T, K), (K,), (K,), (K, K) with T at least 1, got {shapes}")
    scores = start + emissions[0]  # (K,) best score of a path that ends here with each tag
    came_from = []
    for emission in emissions[1:]:
        candidates = scores[:, None] + transitions  # (from, to)
        came_from.append(candidates.argmax(axis=0))
        scores = candidates.max(axis=0) + emission
    path = [int((scores + end).argmax())]
    for origins in reversed(came_from):
        path.append(int(origins[path[-1]]))
    return path[::-1]
