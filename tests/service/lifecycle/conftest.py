from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service.lifecycle.shelf import Shelf, shelf_in


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    with shelf_in(tmp_path / "repository") as made:
        yield made
