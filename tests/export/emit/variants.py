"""Variants of emitted models, as models of their own."""

from dataclasses import replace

from export.emit.emitted import EmittedModel
from export.manifest import Variant


def as_variant(emitted: EmittedModel, variant: Variant) -> EmittedModel:
    """The model whose step and chunk are the variant's."""
    return replace(emitted, graphs=emitted.graphs | emitted.variants[variant])
