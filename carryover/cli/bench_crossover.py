"""`carryover bench crossover`: from how many rows on the GPU is quicker."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from carryover.cli.help import flow

if TYPE_CHECKING:
    from export.bundle import BundlePath
    from export.manifest import GraphKind, Manifest
    from service.measuring.crossover import Crossover, Rate
    from service.settings import Settings

HELP = """Measure a model on the CPU and on the GPU, for more and more rows that are ready at a time.

On the CPU as many runners as the service has share the rows; the GPU takes them in one run. What is found is kept in
the bundle's folder, and a service whose provider is `auto` then runs the model where it does more. CARRYOVER_THREADS,
CARRYOVER_RUNNERS, CARRYOVER_TF32 and CARRYOVER_CUDA_GRAPHS count here as there.

\b
Examples:
  carryover bench crossover shakespeare --repository repository
  carryover bench crossover shakespeare --repository repository --rows 1,64,1024 --seconds 0.2
"""
MOST_ROWS = 65_536
NO_CUDA = (
    "this ONNX Runtime has no CUDA; pip install 'carryover[serve-gpu]' brings it, in a checkout make RUNTIME=serve-gpu"
)


def crossover(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the model; `carryover models` lists them.")],
    repository: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of the model bundles.", show_default="as `serve` has it"),
    ] = None,
    model_version: Annotated[
        int, typer.Option(metavar="N", min=0, help="Version of the model.", show_default="the newest")
    ] = 0,
    rows: Annotated[
        str, typer.Option(metavar="N,N,...", help="Rows that are ready at a time.")
    ] = "1,4,16,64,256,1024,4096",
    seconds: Annotated[
        float, typer.Option(metavar="S", min=0.001, max=600, help="Of each measurement, two for each number of rows.")
    ] = 1,
) -> None:
    """Measure; see HELP."""
    from service.settings import load_settings

    sizes = _sizes(rows)
    settings = load_settings(None, repository=repository)
    _measure(_find(settings.repository, name, model_version), settings, sizes, seconds)


def _sizes(text: str) -> list[int]:
    """Read numbers between commas."""
    sizes = [int(part) if part.strip().isdecimal() else 0 for part in text.split(",")]
    if not all(1 <= size <= MOST_ROWS for size in sizes):
        raise typer.BadParameter(
            f"expected numbers from 1 to {MOST_ROWS} between commas, got {text!r}", param_hint="--rows"
        )
    return sizes


def _find(repository: Path, name: str, version: int) -> "BundlePath":
    """The bundle of a version, or of the newest one."""
    from carryover.cli.errors import CommandError
    from export.bundle import list_versions

    found = {bundle.version: bundle for bundle in list_versions(repository) if bundle.name == name}
    if not found or (version and version not in found):
        got = f"versions {', '.join(map(str, sorted(found)))} of it" if found else "none of that name"
        wanted = f"version {version} of {name!r}" if version else f"a model {name!r}"
        raise CommandError(f"expected {wanted} in {repository}, got {got}")
    return found[version or max(found)]


def _measure(bundle: "BundlePath", settings: "Settings", sizes: list[int], seconds: float) -> None:
    from contextlib import closing
    from dataclasses import replace

    from carryover.cli.errors import CommandError
    from export.bundle import load_manifest
    from service.lifecycle.launching import default_runners, runner_config
    from service.measuring.crossover import host_of, keep, load, measure, sizes_of, slots_for
    from service.measuring.host import describe_host
    from service.repository import open_graphs
    from service.runtime.driver import name_of_gpu
    from service.runtime.providers import CPU, CUDA, available

    manifest = load_manifest(bundle.folder)
    fitting = sizes_of(manifest, sizes)
    if not fitting:
        raise CommandError(
            f"--rows: expected one of as few as {bundle.name!r} takes in a run, got {min(sizes)} or more"
        )
    config = replace(runner_config(settings), num_slots=slots_for(fitting))
    runners = settings.runners or default_runners(CPU)
    with (
        closing(open_graphs(bundle.folder, manifest, replace(config, provider="cpu"))) as on_cpu,
        closing(open_graphs(bundle.folder, manifest, replace(config, provider="auto"))) as on_cuda,
    ):
        gpu = None if on_cuda.provider == CPU else name_of_gpu(config.device_id) or "a GPU without a name"
        host = host_of(config, gpu or "no GPU")
        of_threads = f"{_count(runners, 'runner')} of {_count(config.threads, 'thread')}"
        print(f"{bundle.name} version {bundle.version}, CPU: {of_threads}")
        # As a key of what is kept the text stays as it is.
        print(f"on {host if gpu else describe_host(CPU, config)}".replace(", 1 threads", ", 1 thread"))
        if gpu is None:
            reason = "; ".join(on_cuda.warnings) if CUDA in available() else NO_CUDA
            print(f"GPU: not measured: {reason}")
        print(f"{'rows':>6}{'CPU runs/s':>14}{'rows/s':>12}{'GPU runs/s':>14}{'rows/s':>12}  quicker")
        found = measure(on_cpu, None if gpu is None else on_cuda, fitting, seconds, runners, host, _tell)
        forms = f"{_form(on_cpu.manifest, found.graph)} on the CPU"
        if gpu is not None:
            forms += f", {_form(on_cuda.manifest, found.graph)} on the GPU"
        print(f"measured of the graph {found.graph}: {forms}")
    if gpu is None:
        print("nothing to compare: nothing is kept")
        return
    found = found.on_top_of(load(bundle.folder, manifest, found.host))
    if earlier := sorted(found.cuda.keys() - set(fitting)):
        print(f"with what was measured before at {', '.join(f'{rows:,}' for rows in earlier)} rows")
    _conclude(found)
    print(f"kept in {keep(bundle.folder, manifest, found)}")


def _tell(rows: int, cpu: "Rate", cuda: "Rate | None") -> None:
    """Print the line of a number of rows."""
    line = f"{rows:>6}{cpu.runs_per_s:>14,.0f}{cpu.rows_per_s:>12,.0f}"
    if cuda is None:
        print(f"{line}{'-':>14}{'-':>12}  -", flush=True)
    else:
        quicker = "GPU" if cuda.rows_per_s >= cpu.rows_per_s else "CPU"
        print(f"{line}{cuda.runs_per_s:>14,.0f}{cuda.rows_per_s:>12,.0f}  {quicker}", flush=True)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _form(manifest: "Manifest", kind: "GraphKind") -> str:
    """Which form of a graph a runner has opened, of those that the bundle has."""
    graph = manifest.graphs[kind]
    return next((f"form {name!r}" for name, file in graph.variants.items() if file == graph.file), "as it is")


def _conclude(found: "Crossover") -> None:
    """Print from where on the GPU is quicker, and what that means."""
    from service.measuring.crossover import REACH, ROWS

    best = found.best()
    assert best is not None  # both were measured
    if found.row is None:
        print(f"crossover: none; the CPU is quicker at {max(found.cuda):,} rows")
    else:
        print(f"crossover: {found.row:,} rows, from which on the GPU is quicker")
    where = "CPU" if best.on_cpu else "GPU"
    print(f"auto: the {where}, with {best.cpu:,.0f} rows/s at best on the CPU and {best.cuda:,.0f} on the GPU")
    if (most := REACH * max(found.cuda)) < max(ROWS):
        print(f"for services in which up to {most:,} rows can be ready at a time")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(help=flow(HELP))(crossover)
