"""The manifest: what a bundle says about itself, and all that the service needs to know to run it.

A bundle is a folder `<repository>/<name>/<version>/` with `manifest.json`, the ONNX graphs and the vocabularies. This
module is the contract between `export` (which writes it) and `service` (which reads it): pydantic only, no torch, no
onnx.

Dimensions in `TensorSpec.shape` are ints or one of these symbols:
    B rows of the batch, T time steps, C characters of a word, S source positions, N slots of the state pool,
    P rows of the attention-memory pool.
Graphs of the task `tensors`, which were imported, may have any other symbol too: a size that each request chooses.
"""

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

SCHEMA_VERSION = 1
MANIFEST_FILE = "manifest.json"

# `tensors` is a model that came from elsewhere: tensors in, tensors out, whatever they mean.
Task = Literal["tagger", "encoder_decoder", "language_model", "tensors"]
Precision = Literal["fp32", "fp16", "int8"]
GraphKind = Literal["sequence", "step", "chunk", "encode", "run"]
# Other graphs that do what a step does, out of other operators.
# primitive: no recurrent node, but one matrix product a layer (two of a GRU) and single functions.
# folded: the same, and the first layer's product with an embedding is looked up, not computed.
Variant = Literal["primitive", "folded"]
# NumPy's names; bfloat16 is carried as its bits in uint16, string as an array of objects (bytes).
DType = Literal[
    "bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64",
    "float16", "float32", "float64", "bfloat16", "string",
]  # fmt: skip
_STORAGE: Final[Mapping[str, str]] = {"bfloat16": "uint16", "string": "object"}
_SLOTS: Final = frozenset({"read_slots", "write_slots"})
NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,63}$"


def storage(dtype: DType) -> str:
    """The NumPy type of the arrays that carry it."""
    return _STORAGE.get(dtype, dtype)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TensorSpec(_Frozen):
    """One graph input or output."""

    name: str
    dtype: DType
    shape: tuple[int | str, ...]


class StateSpec(_Frozen):
    """One recurrent state tensor, kept in a pool of shape (N, *shape): slot 0 is the initial state, slot 1 scratch.

    The step and encode graphs take the pool as `pool_input` and return it, updated at `write_slots`, as `pool_output`;
    the sequence graph takes (B, *shape) as `sequence_input` and returns the final state as `sequence_output`. A name is
    None where no graph has it (a bidirectional layer has no step graph).

    In an imported model (`tensors`) `sequence_input` and `sequence_output` are what the original graph calls the state,
    and `batch_axis` is where it has the rows; None: it has no such axis, and rows are run one at a time.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    batch_axis: int | None = 0
    initial: Literal["zeros", "file"] = Field(default="zeros", description="file: in `initial_states_file`")
    pool_input: str | None = None
    pool_output: str | None = None
    sequence_input: str | None = None
    sequence_output: str | None = None


class MemorySpec(_Frozen):
    """One attention-memory tensor, kept in a pool of shape (P, *shape) whose rows are source positions.

    The encode graph writes the rows named by `source_rows` (B, S); the step graph reads them. Row 0 stays zero, row 1
    is scratch: padding positions are written to row 1 and read from row 0.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    pool_input: str
    pool_output: str


class GraphSpec(_Frozen):
    """One ONNX file with everything that it takes and gives, pools included."""

    file: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    variants: dict[Variant, str] = Field(
        default_factory=dict, description="files of graphs that take, give and do the same; see `with_variant`"
    )

    @model_serializer(mode="wrap")
    def _written(self, write: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Without variants, as it was before there were any: services of then take no field that they do not know."""
        written: dict[str, object] = write(self)
        return {name: value for name, value in written.items() if name != "variants" or value}


class TokenizerSpec(_Frozen):
    """How text becomes tokens for one vocabulary.

    characters: one token a Unicode character (NFC); joined without a separator.
    whitespace: one token a whitespace-separated piece; joined with one space.
    subword: a Hugging Face `tokenizers` file.
    none: tokens come ready (words of a tagger, tags).
    """

    kind: Literal["characters", "whitespace", "subword", "none"]
    vocabulary: str = Field(description="file of the vocabulary, relative to the bundle")
    file: str | None = Field(default=None, description="the `tokenizers` JSON, for subword")
    lowercase: bool = False
    reverse: bool = Field(default=False, description="feed the sequence back to front (Sutskever et al. 2014)")


class DecodingDefaults(_Frozen):
    """What a request that leaves a choice open gets, and how far it may go."""

    beam_size: int = Field(default=1, ge=1)
    max_beam_size: int = Field(default=8, ge=1)
    length_penalty: float = Field(default=0.6, ge=0)
    max_tokens: int = Field(default=128, ge=1, description="target tokens")
    top_k: int = Field(default=16, ge=1, description="outputs a row that the step graph returns")


class ImportedSpec(_Frozen):
    """What is known of a model that was imported.

    It has one graph: `step` where it has state (inputs read_slots, write_slots, pools and its own; a StepSession of it
    is a `StepTensors`), `run` where it has none. Its own inputs and outputs have their rows first, ("B", ...), whatever
    the original does; an input whose shape does not begin with "B" is shared: one value for all rows of a batch.
    """

    original: str = Field(description="file of the model as it came, untouched")
    max_rows: int | None = Field(default=None, ge=1, description="rows of one run; 1: its batch is fixed; None: any")
    lengths_input: str | None = Field(
        default=None, description="input (B,) of `run` with the true length of each row; rows are padded along T"
    )
    zero_sizes: bool = Field(default=False, description="whether a size that a request chooses may be 0")
    examples: dict[str, int] = Field(
        default_factory=dict, description="by symbol, a size that works, for measurements when the model is loaded"
    )
    shared_examples: dict[str, float | int | bool] = Field(
        default_factory=dict, description="by shared input, a value that works"
    )


class FileEntry(_Frozen):
    """What a file must be, byte for byte."""

    sha256: str
    num_bytes: int = Field(ge=0)


class Manifest(_Frozen):
    """See the module docstring. `files` lists every file of the bundle except the manifest itself."""

    schema_version: Literal[1] = 1
    name: str = Field(pattern=NAME_PATTERN)
    version: int = Field(ge=1)
    task: Task
    precision: Precision
    graphs: dict[GraphKind, GraphSpec]
    states: tuple[StateSpec, ...] = ()
    memories: tuple[MemorySpec, ...] = ()
    tokenizers: dict[str, TokenizerSpec] = Field(
        description=(
            "by role: source, target (encoder-decoder); words, characters, tags (tagger); tokens (language model); "
            "none (tensors)"
        )
    )
    initial_states_file: str | None = Field(
        default=None, description="npz: by state name its shape and type, of states whose `initial` is file"
    )
    imported: ImportedSpec | None = Field(default=None, description="of the task `tensors` alone")
    carry_sessions: bool = Field(
        default=False,
        description="whether sessions of the version before, whose states and inputs are the same, may go on with this",
    )
    crf_file: str | None = Field(default=None, description="npz: start (K,), end (K,), transitions (K, K) from -> to")
    decoding: DecodingDefaults = DecodingDefaults()
    training_config: dict[str, object] = Field(default_factory=dict)
    data: dict[str, object] = Field(default_factory=dict)
    metrics: dict[str, float] = Field(default_factory=dict)
    tool_versions: dict[str, str] = Field(default_factory=dict)
    created: str = Field(description="UTC, ISO 8601")
    files: dict[str, FileEntry]


class OwnTensors(NamedTuple):
    """What requests to an imported model bring and get, by name: all of its graph but slots and pools.

    Args:
        inputs: With rows, ("B", ...).
        shared: Without: one value for all rows of a run.
        outputs: With rows.
        unsized: Outputs with a size that no input with rows has: it may differ from run to run.
    """

    inputs: Mapping[str, TensorSpec]
    shared: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    unsized: frozenset[str]


def own_tensors(manifest: Manifest) -> OwnTensors:
    """Sort the tensors of an imported model, each kind in the order of its graph."""
    (graph,) = manifest.graphs.values()
    pools = {name for state in manifest.states for name in (state.pool_input, state.pool_output)}
    given = [tensor for tensor in graph.inputs if tensor.name not in pools and tensor.name not in _SLOTS]
    inputs = {tensor.name: tensor for tensor in given if tensor.shape[:1] == ("B",)}
    shared = {tensor.name: tensor for tensor in given if tensor.name not in inputs}
    outputs = {tensor.name: tensor for tensor in graph.outputs if tensor.name not in pools}
    sizes = {size for tensor in inputs.values() for size in tensor.shape} | {"B"}
    unsized = {
        name for name, tensor in outputs.items() if any(isinstance(d, str) and d not in sizes for d in tensor.shape)
    }
    return OwnTensors(inputs, shared, outputs, frozenset(unsized))


def variants(manifest: Manifest) -> tuple[Variant, ...]:
    """The variants that a model has: every graph that has any has the same (`export.bundle` checks it)."""
    return tuple(dict.fromkeys(name for graph in manifest.graphs.values() for name in graph.variants))


def with_variant(manifest: Manifest, variant: Variant | None) -> Manifest:
    """The manifest of the same model run as a variant: its graphs name the variant's files, those that have it.

    A chunk is as many steps, bit for bit, only within one variant; therefore all graphs change together.

    Args:
        manifest: Of a bundle.
        variant: One of `variants`; None is the graphs as they are.
    """
    if variant is None:
        return manifest
    graphs = {
        kind: graph.model_copy(update={"file": graph.variants.get(variant, graph.file)})
        for kind, graph in manifest.graphs.items()
    }
    return manifest.model_copy(update={"graphs": graphs})
