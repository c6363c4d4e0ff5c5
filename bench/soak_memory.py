"""Whether the resident memory of a server under a soak is flat.

While two versions of the model are there, from the start of a reload until the older one has ended, memory is more by
what a version takes, and that for as long as the sessions of the older one happen to last. Such times are told apart;
what they leave behind shows in the times between them.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Memory:
    """What was seen of the server's resident memory, in bytes.

    Args:
        seconds: When, since the start.
        rss_bytes: How much then.
        reloading: Whether two versions were there then.
        windows: Means of the windows after the warm-up, of the time with one version.
        drift: The farthest of them from the first, as a share of it; 0 where there are fewer than two.
    """

    seconds: list[float]
    rss_bytes: list[int]
    reloading: list[bool]
    windows: list[float]
    drift: float


def judge_memory(
    seconds: Sequence[float], rss_bytes: Sequence[int], reloading: Sequence[bool], warm_up_s: float, window_s: float
) -> Memory:
    """Cut what comes after the warm-up into whole windows and compare their means with the first's."""
    windows: dict[int, list[int]] = {}
    for second, size, two in zip(seconds, rss_bytes, reloading, strict=True):
        if second >= warm_up_s and not two:
            windows.setdefault(int((second - warm_up_s) / window_s), []).append(size)
    whole = [number for number in sorted(windows) if warm_up_s + (number + 1) * window_s <= seconds[-1] + 1.0]
    means = [statistics.fmean(windows[number]) for number in whole]
    drift = max((mean / means[0] - 1.0 for mean in means[1:]), key=abs, default=0.0)
    return Memory(list(seconds), list(rss_bytes), list(reloading), means, drift)


def plot(memory: Memory, file: Path) -> bool:
    """Draw resident memory over time; False where matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 3))
    axes.plot(memory.seconds, [size / 2**20 for size in memory.rss_bytes])
    axes.set(xlabel="seconds", ylabel="resident memory of the server, MiB", ylim=(0, None))
    figure.tight_layout()
    figure.savefig(file)
    pyplot.close(figure)
    return True
