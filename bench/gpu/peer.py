"""PyTorch on the same shapes: embedding, cuDNN's LSTM, output, log-softmax, the best token; eager and captured.

A step takes the tokens from page-locked memory of the host and gives the best tokens and their log-probabilities back
there, as a step of the service does. Its states are those of the B rows, dense, and copied to where the next step wants
them: it has no pool and gathers nothing, so that it is about the best that PyTorch can do. fp16 is `model.half()`,
states too; the softmax is in fp32.
"""

from functools import partial
from typing import Final

import torch

from bench.gpu import models
from bench.gpu.cards import Card
from bench.gpu.figures import CAPTURED, CARD, EAGER, TORCH, row_of
from bench.gpu.journal import NOTE, reason_of
from bench.gpu.plan import Context, Size
from bench.gpu.timing import seconds_each
from bench.report import Cell, Row

_DIMENSIONS: Final = (8192, 256)  # of the matrices by which operations are measured: on a card, in a trial
_COPIED: Final = (2**30, 2**20)  # bytes by whose copy the memory is measured


def show(context: Context) -> None:
    """The part."""
    journal, size = context.journal, context.size
    if context.on_card and not torch.cuda.is_available():
        journal.note(f"torch {torch.__version__} sees no card: no figures of PyTorch, a floor of known cards only")
        return
    torch.set_num_threads(1)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    device = torch.device("cuda" if context.on_card else "cpu")
    journal.note(f"torch {torch.__version__}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}")  # type: ignore[no-untyped-call]
    journal.attempt(CARD, {"by": "measured"}, lambda: row_of(measured(device, size.seconds)))
    for rows in size.sessions:
        for hidden in size.hiddens:
            for precision in models.PRECISIONS:
                head: Row = {"hidden": hidden, "precision": precision, "sessions": rows}
                journal.attempt(TORCH, head, partial(_row, context, device, hidden, precision, rows))


def measured(device: torch.device, seconds: float) -> Card:
    """What a large product of matrices and a large copy reach; a copy reads and writes."""
    trial = device.type == "cpu"

    def operations(dtype: torch.dtype) -> float:
        dimension = _DIMENSIONS[trial]
        factors = [torch.randn(dimension, dimension, device=device).to(dtype) for _ in range(2)]
        return 2 * dimension**3 / seconds_each(lambda: _ended(device, torch.mm(*factors)), seconds)

    source = torch.zeros(_COPIED[trial], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copied = seconds_each(lambda: _ended(device, target.copy_(source)), seconds)
    name = torch.cuda.get_device_name() if not trial else "this processor"
    return Card(name, operations(torch.float32), operations(torch.float16), 2 * source.numel() / copied)


def _ended(device: torch.device, _: object) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _row(context: Context, device: torch.device, hidden: int, precision: str, rows: int) -> Row:
    context.budget.need(4 * context.size.seconds)
    steps = TorchSteps(context.size, hidden, precision, rows, device)
    eager = seconds_each(steps.eager, context.size.seconds)
    found: dict[str, Cell] = {EAGER: eager * 1e6, CAPTURED: None, "eager steps/s": rows / eager}
    if device.type == "cuda":
        try:
            steps.capture()
            captured = seconds_each(steps.captured, context.size.seconds)
            found |= {CAPTURED: captured * 1e6, "captured steps/s": rows / captured}
        except RuntimeError as error:  # what is eager was measured all the same
            found[NOTE] = reason_of(error)
        torch.cuda.empty_cache()
    return found


class TorchSteps:
    """Steps of one batch; see the module docstring.

    Args:
        size: Of the model.
        hidden: Units of a layer.
        precision: fp32 or fp16.
        rows: B.
        device: Where.
    """

    @torch.inference_mode()
    def __init__(self, size: Size, hidden: int, precision: str, rows: int, device: torch.device) -> None:
        torch.manual_seed(0)
        dtype = torch.float16 if precision == "fp16" else torch.float32
        self.device = device
        self.embedding = torch.nn.Embedding(size.vocabulary, size.embedding).to(device, dtype)
        self.lstm = torch.nn.LSTM(size.embedding, hidden, size.layers).to(device, dtype).eval()
        self.output = torch.nn.Linear(hidden, size.vocabulary).to(device, dtype)
        self.states = [torch.zeros(size.layers, rows, hidden, device=device, dtype=dtype) for _ in range(2)]
        self.tokens = torch.zeros(rows, dtype=torch.int64, device=device)
        pinned = device.type == "cuda"
        self.host_tokens = torch.randint(4, size.vocabulary, (rows,)).to(torch.int64)
        self.host_log_probs = torch.empty(rows)
        self.host_best = torch.empty(rows, dtype=torch.int64)
        if pinned:
            self.host_tokens, self.host_log_probs, self.host_best = (
                one.pin_memory() for one in (self.host_tokens, self.host_log_probs, self.host_best)
            )
        self._graph: torch.cuda.CUDAGraph | None = None
        self._given: tuple[torch.Tensor, torch.Tensor] | None = None

    def _compute(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probability and id of the best token of each row, (B,) each; the states go on."""
        embedded = self.embedding(self.tokens)[None]  # (1, B, E)
        output, after = self.lstm(embedded, (self.states[0], self.states[1]))
        for state, new in zip(self.states, after, strict=True):
            state.copy_(new)
        log_probs = torch.log_softmax(self.output(output[0]).float(), dim=-1)  # (B, V)
        best = log_probs.max(dim=-1)
        return best.values, best.indices

    @torch.inference_mode()
    def eager(self) -> None:
        """Step once, operator by operator."""
        self.tokens.copy_(self.host_tokens, non_blocking=True)
        self._answer(self._compute())

    @torch.inference_mode()
    def capture(self) -> None:
        """Capture a step."""
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):
                self._compute()
        torch.cuda.current_stream().wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._given = self._compute()

    @torch.inference_mode()
    def captured(self) -> None:
        """Step once, replaying what was captured."""
        assert self._graph is not None and self._given is not None
        self.tokens.copy_(self.host_tokens, non_blocking=True)
        self._graph.replay()
        self._answer(self._given)

    def _answer(self, given: tuple[torch.Tensor, torch.Tensor]) -> None:
        self.host_log_probs.copy_(given[0], non_blocking=True)
        self.host_best.copy_(given[1], non_blocking=True)
        _ended(self.device, None)
