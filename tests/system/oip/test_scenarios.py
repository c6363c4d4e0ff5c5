"""The table of scenarios names tests that exist."""

import re
from pathlib import Path

from tests.system.conftest import ROOT

HERE = Path(__file__).parent


def test_every_test_that_the_table_names_exists() -> None:
    text = (ROOT / "docs" / "oip-scenarios.md").read_text()
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", text)
    assert len(named) > 80
    for file, name in named:
        source = (HERE / file).read_text()
        assert re.search(rf"^(async )?def {name}\(", source, re.MULTILINE), f"{file}::{name}"
