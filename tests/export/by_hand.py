"""What the quality report must say of the fp32 model: sample by sample, by PyTorch's own methods."""

import math
from pathlib import Path

import torch
from torch import nn

from models.encoder_decoder import EncoderDecoder
from models.language_model import LanguageModel
from models.search import greedy_search
from models.tagger import Tagger
from models.training.checkpoint import load


@torch.inference_mode()
def measure_by_hand(family: str, run: Path) -> float:
    """Token accuracy of a tagger, token error rate of an encoder-decoder, perplexity of a language model."""
    checkpoint = load(run)
    model, tokenizers = checkpoint.model, checkpoint.tokenizers
    measured, total = 0.0, 0
    for sample in checkpoint.samples:
        if isinstance(model, Tagger):
            words, tags = sample["words"], sample["tags"]
            assert isinstance(words, list) and isinstance(tags, list)
            spelt = [tokenizers["characters"].encode(word) for word in words]
            characters = torch.tensor([[ids + [0] * (9 - len(ids)) for ids in spelt]])
            ids = torch.tensor([[tokenizers["words"].vocabulary.id_of(word) for word in words]])
            lengths, word_lengths = torch.tensor([len(words)]), torch.tensor([[len(word) for word in spelt]])
            (found,) = model.decode(model(ids, characters, word_lengths, lengths)[0], lengths).tolist()
            measured += sum(tag == tokenizers["tags"].vocabulary.tokens[i] for tag, i in zip(tags, found, strict=True))
            total += len(tags)
        elif isinstance(model, EncoderDecoder):
            targets = sample["targets"]
            assert isinstance(targets, list)
            source = torch.tensor([tokenizers["source"].encode(str(sample["source"]))])
            (answer,) = greedy_search(model, source, torch.tensor([source.shape[1]]), max_tokens=12)
            text = tokenizers["target"].decode(answer.tokens).split()
            measured += min(edits(text, target.split()) for target in targets)
            total += min(len(target.split()) for target in targets)
        else:
            assert isinstance(model, LanguageModel)
            ids = torch.tensor([[2, *tokenizers["tokens"].encode(str(sample["text"])), 3]])
            measured += float(nn.functional.cross_entropy(model(ids[:, :-1])[0][0], ids[0, 1:], reduction="sum"))
            total += ids.shape[1] - 1
    return math.exp(measured / total) if family == "language_model" else measured / total


def edits(left: list[str], right: list[str]) -> int:
    """Edit distance, by the textbook."""
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        before, row[0] = row[0], i
        for j, b in enumerate(right, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]
