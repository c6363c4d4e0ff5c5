"""Which graph of a step is chosen from given figures."""

import pytest

from export.manifest import Variant
from service.measuring.variant import Candidate, quickest


@pytest.mark.parametrize(
    ("step_seconds", "best"),
    [
        ({"node": {1: 1.0}, "primitive": {1: 0.9}, "folded": {1: 0.8}}, "folded"),
        ({"node": {1: 1.0}, "primitive": {1: 1.1}, "folded": {1: 1.2}}, None),
        ({"node": {1: 1.0}, "primitive": {1: 0.92}}, None),
        ({"node": {1: 1.0}, "primitive": {1: 0.9}}, "primitive"),
        # One size of several is not enough, however much is gained there: something may have disturbed.
        ({"node": {1: 1.0, 4: 1.0, 16: 9.0}, "primitive": {1: 0.95, 4: 0.95, 16: 1.0}}, None),
        ({"node": {1: 1.0, 4: 1.0, 16: 9.0}, "primitive": {1: 0.9, 4: 0.9, 16: 1.0}}, "primitive"),
        (
            {
                "node": {1: 1.0, 4: 1.0, 16: 1.0},
                "primitive": {1: 1.0, 4: 1.0, 16: 0.1},
                "folded": {1: 0.8, 4: 0.8, 16: 0.8},
            },
            "folded",
        ),
        # Twice as quick at one size outweighs a third slower at another, and not three times slower.
        ({"node": {1: 1.0, 64: 10.0}, "primitive": {1: 0.5, 64: 15.0}}, "primitive"),
        ({"node": {1: 1.0, 64: 10.0}, "primitive": {1: 0.5, 64: 30.0}}, None),
        # Sums would say otherwise: the large batch is not the only one that counts.
        ({"node": {1: 1.0, 64: 10.0}, "primitive": {1: 0.5, 64: 11.0}}, "primitive"),
        # What only some were timed at says nothing.
        ({"node": {1: 1.0, 64: 10.0}, "primitive": {1: 2.0}}, None),
        ({"node": {1: 1.0, 64: 1.0}, "primitive": {1: 0.5}}, "primitive"),
        ({"node": {}, "primitive": {1: 0.5}}, None),
        ({"primitive": {1: 0.5}, "folded": {1: 0.4}}, "folded"),
    ],
)
def test_the_quickest_over_all_rows_is_taken(
    step_seconds: dict[Candidate, dict[int, float]], best: Variant | None
) -> None:
    assert quickest(step_seconds) == best
