"""What the inputs of a request take of the service's memory."""

import numpy as np

from service.oip.held import held_bytes
from service.oip.messages import Parameters, Tensor

REGION: Parameters = {"shared_memory_region": "r", "shared_memory_byte_size": 800}


def test_numbers_count_as_they_are_and_nothing_where_they_are_somebody_elses() -> None:
    numbers = np.zeros((2, 50))
    assert held_bytes([]) == 0
    assert held_bytes([Tensor("x", "FP64", numbers)]) == 800
    assert held_bytes([Tensor("x", "FP64", numbers, REGION)]) == 0
    assert held_bytes([Tensor("x", "FP64", numbers), Tensor("y", "INT8", np.zeros(7, np.int8))]) == 807


def test_texts_count_with_what_python_makes_of_them_wherever_they_come_from() -> None:
    texts = np.array([b"abc", b"", b"x" * 1000], np.object_)
    expected = 3 * 8 + sum(text.__sizeof__() for text in texts)
    assert held_bytes([Tensor("x", "BYTES", texts)]) == expected
    assert held_bytes([Tensor("x", "BYTES", texts, REGION)]) == expected
    empty = np.empty(100_000, np.object_)
    empty[:] = [b""] * 100_000
    assert held_bytes([Tensor("x", "BYTES", empty)]) > 4_000_000  # though nothing was sent but 400,000 lengths of 0
