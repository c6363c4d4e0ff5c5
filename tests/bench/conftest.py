"""What the benchmarks run on, small: a language model as `bench.step_model` publishes it."""

from pathlib import Path

import pytest

from bench import step_model


@pytest.fixture(scope="package")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The benchmark's model with 30 words and layers of 8, published in a repository of its own."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("VOCABULARY", 30), ("EMBEDDING", 6), ("HIDDEN", 8)):
            patch.setattr(step_model, name, value)
        return step_model.publish(tmp_path_factory.mktemp("bench") / "repository")
