"""Greedy and beam search with an encoder-decoder, many sources at a time.

Used by evaluation and by the export's parity checks; the service has its own, on numpy and the step graph, which must
give the same answers.
"""

import torch
from torch import Tensor

from models.beam import Beam, Hypothesis, length_penalty
from models.encoder_decoder import EncoderDecoder
from models.symbols import BOS_ID, EOS_ID


@torch.inference_mode()
def greedy_search(
    model: EncoderDecoder, source: Tensor, lengths: Tensor, max_tokens: int, alpha: float = 0.0
) -> list[Hypothesis]:
    """Take the best next token until the end symbol; among equals, the lowest id.

    Args:
        model: In eval mode.
        source: (B, S) int64.
        lengths: (B,) int64, 1 to S.
        max_tokens: Most target tokens, at least 1.
        alpha: Exponent of the length penalty, for the score only.

    Returns:
        One hypothesis a source.
    """
    if max_tokens < 1:
        raise ValueError(f"max_tokens: expected at least 1, got {max_tokens}")
    memory, keys, states = model.encode(source, lengths)
    tokens = torch.full_like(lengths, BOS_ID)
    ended = torch.zeros_like(lengths, dtype=torch.bool)
    chosen, chosen_log_probs = [], []
    for _ in range(max_tokens):
        log_probs, states = model.step(tokens, states, memory, keys, lengths)
        tokens = _top(log_probs, 1)[1].squeeze(1)
        gained = log_probs.gather(1, tokens[:, None]).squeeze(1)
        chosen.append(tokens.masked_fill(ended, EOS_ID))
        chosen_log_probs.append(gained.double().masked_fill(ended, 0.0))
        ended = ended | (tokens == EOS_ID)
        if bool(ended.all()):
            break
    totals = torch.stack(chosen_log_probs, dim=1).cumsum(dim=1)[:, -1].tolist()
    results = []
    for ids, total in zip(torch.stack(chosen, dim=1).tolist(), totals, strict=True):
        end = ids.index(EOS_ID) if EOS_ID in ids else None
        length = len(ids) if end is None else end + 1
        score = total / length_penalty(length, alpha)
        results.append(Hypothesis(tuple(ids[:end]), total, score, "length" if end is None else "end"))
    return results


@torch.inference_mode()
def beam_search(
    model: EncoderDecoder,
    source: Tensor,
    lengths: Tensor,
    beam_size: int,
    max_tokens: int,
    alpha: float = 0.6,
    num_best: int = 1,
) -> list[list[Hypothesis]]:
    """Search with a beam a source; `models.beam.Beam` says how.

    Args:
        model: In eval mode.
        source: (B, S) int64.
        lengths: (B,) int64, 1 to S.
        beam_size: Live hypotheses a source, at least 1; 1 is greedy search.
        max_tokens: Most target tokens, at least 1.
        alpha: Exponent of the length penalty, at least 0.
        num_best: Most hypotheses to return a source.

    Returns:
        By source, its hypotheses, best first.
    """
    beams = [Beam(beam_size, alpha, max_tokens) for _ in range(source.shape[0])]
    memory, keys, states = model.encode(source, lengths)
    k = min(2 * beam_size, model.target_size)
    origin = list(range(len(beams)))  # by row of the batch, whose hypothesis it is; a source's rows are adjacent
    last = [BOS_ID] * len(beams)
    while origin:
        owners = torch.tensor(origin, device=source.device)
        tokens = torch.tensor(last, device=source.device)
        log_probs, states = model.step(tokens, states, memory[owners], keys[owners], lengths[owners])
        top_log_probs, top_tokens = (top.tolist() for top in _top(log_probs, k))
        rows: list[int] = []
        first = 0
        next_origin: list[int] = []
        last = []
        for index, beam in enumerate(beams):
            if not beam.live:
                continue
            end = first + len(beam.live)
            parents = beam.advance(top_log_probs[first:end], top_tokens[first:end])
            rows.extend(first + parent for parent in parents)
            next_origin.extend(index for _ in parents)
            last.extend(hypothesis[-1] for hypothesis, _ in beam.live)
            first = end
        origin = next_origin
        chosen = torch.tensor(rows, dtype=torch.int64, device=source.device)
        states = tuple(state[chosen] for state in states)
    return [beam.best(num_best) for beam in beams]


def _top(log_probs: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best of each row, (B, k) each, best first; among equals the lowest id, unlike `torch.topk`."""
    ordered = torch.sort(log_probs, dim=-1, descending=True, stable=True)
    return ordered.values[:, :k], ordered.indices[:, :k]
