"""Tiny models with weights large enough that mistakes show."""

import torch
from torch import nn

from models.build import build_model
from models.config import ModelConfig


def tiny(config: ModelConfig, seed: int = 0, gain: float = 2.0) -> nn.Module:
    """A model of the family with vocabularies of its own, in eval mode."""
    torch.manual_seed(seed)
    sizes = {
        "tagger": {"words": 30, "characters": 20, "tags": 5},
        "encoder_decoder": {"source": 25, "target": 33},
        "language_model": {"tokens": 40},
    }[config.family]
    model = build_model(config, sizes).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.mul_(gain)
            if "bias" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.requires_grad_(False)
