"""Export with its report on the terminal, passed or not; for `export` and `demo`."""

from pathlib import Path

from rich.console import Console
from rich.markup import escape

from export.manifest import Precision
from export.pipeline import PublishedBundle, export_run
from export.report import ParityError, ParityReport
from export.triton.repository import write_repository


def publish(
    run: Path, repository: Path, precision: Precision, name: str | None, console: Console, for_cuda: bool = False
) -> PublishedBundle:
    """Export a run and print each stage, the parity report, and where the bundle is.

    Args:
        run: Run folder.
        repository: Model repository.
        precision: Of the weights.
        name: To serve it by; None is the run's.
        console: Where to print.
        for_cuda: Whether the variants of a step are exported as well.

    Raises:
        ParityError: The report was printed; nothing was published.
    """

    def show(report: ParityReport) -> None:
        for table in report.tables():
            console.print(table)

    def tell(line: str) -> None:
        console.print(escape(line))

    try:
        bundle = export_run(run, repository, precision, name, on_progress=tell, for_cuda=for_cuda)
    except ParityError as error:
        show(error.report)
        raise
    show(bundle.report)
    console.print(escape(f"{bundle.report.verdict()}; published as {bundle.folder}"), soft_wrap=True)
    return bundle


def publish_for_triton(bundle: Path, directory: Path, console: Console) -> None:
    """Write a published bundle into a repository of the reference server and say what it will not do there.

    Args:
        bundle: Folder of the version.
        directory: The other repository.
        console: Where to print.

    Raises:
        TritonError: The model cannot be expressed there; what was published stays.
    """
    written = write_repository(bundle, directory)
    console.print(escape(f"wrote {written.folder} for Triton"), soft_wrap=True)
    for note in written.notes:
        console.print(escape(f"for Triton: {note}"), soft_wrap=True)
