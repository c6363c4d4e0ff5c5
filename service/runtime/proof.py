"""The proof that fits a bundle's graph: see `service.runtime.probe`."""

from export.manifest import Manifest
from service.runtime.probe import Probed, ProbedPools, ProbeFailure, probe_graph
from service.runtime.probe_imported import probe_imported


def prove(name: str, graph: Probed, manifest: Manifest, pools: ProbedPools, num_turns: int = 1) -> None:
    """Prove a graph on its real pools, leaving them as they were found.

    Args:
        name: Of the graph, for the message.
        graph: To be proved.
        manifest: Of its bundle.
        pools: That it is bound to.
        num_turns: 1 or 2 runs: the second shows that what one bound, the next fills in.

    Raises:
        ProbeFailure: It reads or writes a row that it should not, or does not update in place.
    """
    try:
        if manifest.imported is None:
            probe_graph(graph, manifest.precision, pools, num_turns)
        else:
            probe_imported(graph, manifest, pools, num_turns)
    except ProbeFailure as failure:
        raise ProbeFailure(f"{name}: {failure}") from None
