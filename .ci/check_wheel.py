"""Build the wheel and prove that it installs our top-level names alone, and none that a dependency ships too."""

import csv
import io
import subprocess
import sys
import tempfile
import zipfile
from importlib import metadata
from pathlib import Path

OURS = {"carryover", "export", "importing", "models", "protos", "service"}
ROOT = Path(__file__).resolve().parent.parent


def top_level(paths: list[str]) -> set[str]:
    """Names that files of a wheel or an installed package take directly under site-packages."""
    first = {Path(path).parts[0] for path in paths}
    return {name.removesuffix(".py") for name in first if not name.endswith((".dist-info", ".data")) and name != ".."}


def wheel_names(wheel: Path) -> set[str]:
    """Top-level names of a wheel's RECORD."""
    with zipfile.ZipFile(wheel) as archive:
        record = next(name for name in archive.namelist() if name.endswith(".dist-info/RECORD"))
        rows = csv.reader(io.StringIO(archive.read(record).decode()))
        return top_level([row[0] for row in rows if row])


def main() -> int:
    """Build, compare, say."""
    with tempfile.TemporaryDirectory() as folder:
        # no build isolation: hatchling is installed at the version that pyproject.toml names
        build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, str(ROOT)]
        subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
        (wheel,) = Path(folder).glob("*.whl")
        names = wheel_names(wheel)
    if names != OURS:
        print(f"wheel: expected the top-level names {sorted(OURS)}, got {sorted(names)}", file=sys.stderr)
        return 1
    for package in metadata.distributions():
        shipped = top_level([str(path) for path in package.files or []])
        if package.name != "carryover" and shipped & OURS:
            print(f"wheel: {package.name} ships {sorted(shipped & OURS)}, which are ours", file=sys.stderr)
            return 1
    print(f"the wheel installs {', '.join(sorted(names))}, and no installed package ships any of them")
    return 0


if __name__ == "__main__":
    sys.exit(main())
