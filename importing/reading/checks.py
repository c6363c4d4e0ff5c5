"""What is asked of a parsed model before anything that computes sees it.

The ONNX checker and the runtime check much of a graph, but they trust it in other things: how often functions call each
other, how large a tensor without data says it is, where files lie. Those come first and here; nothing in this module
allocates what the file asks for.
"""

from collections.abc import Iterable
from typing import Final

import onnx

from export.graph.walk import bodies, initializer_names
from importing.errors import ImportRefused
from importing.reading.limits import ReadLimits
from importing.reading.order import check_order
from importing.reading.sizes import check_sizes
from importing.reading.walk import (
    call_key,
    canonical,
    function_key,
    graphs,
    nodes,
    scopes,
)
from importing.reading.words import quote

# Domains whose operators the runtime brings along; those of any other need a library.
BUILT_IN_DOMAINS: Final = frozenset({"", "ai.onnx.ml", "com.microsoft"})
# A compiled program in a file that the model names: what it does cannot be seen.
_OPAQUE_OPERATORS: Final = frozenset({("com.microsoft", "EPContext"), ("com.microsoft", "PythonOp")})
_MIN_IR_VERSION: Final = 3


def check_model(model: onnx.ModelProto, allow_custom: bool, limits: ReadLimits) -> None:
    """Refuse what no import could use or what would harm who tries.

    Args:
        model: As parsed.
        allow_custom: Whether operators of domains that the runtime does not bring along are let through.
        limits: See there.

    Raises:
        ImportRefused: The first problem found.
    """
    _check_versions(model)
    _check_names(model, limits.max_name_length)
    _check_functions(model, limits.max_nodes)
    _check_domains(model, allow_custom)
    check_sizes(model, limits.max_tensor_bytes)
    if not model.graph.output:
        raise ImportRefused("the graph has no outputs")
    for scope in scopes(model):
        check_order(scope)


def _check_versions(model: onnx.ModelProto) -> None:
    if not _MIN_IR_VERSION <= model.ir_version <= onnx.IR_VERSION:
        raise ImportRefused(f"IR version: expected {_MIN_IR_VERSION} to {onnx.IR_VERSION}, got {model.ir_version}")
    newest = onnx.defs.onnx_opset_version()
    opsets: dict[str, int] = {}
    for opset in model.opset_import:
        domain = canonical(opset.domain)
        if domain in opsets:
            raise ImportRefused(f"opset: expected one of each domain, got two of {quote(domain or 'ai.onnx')}")
        opsets[domain] = opset.version
        if domain == "" and not 1 <= opset.version <= newest:
            raise ImportRefused(f"opset: expected 1 to {newest}, got {opset.version}")
    if not opsets:
        raise ImportRefused("opset: expected the versions of the operators, got none")


def _check_names(model: onnx.ModelProto, longest: int) -> None:
    """Names are printed, and become names of files and of requests' tensors."""
    for graph in graphs(model):
        for what, values_ in (("input", graph.input), ("output", graph.output)):
            for value in values_:
                _check_name(value.name, what, longest)
                if not value.name:
                    raise ImportRefused(f"an {what} of the graph has no name")
        for node in graph.node:
            for name in (node.name, node.op_type, node.domain, *node.input, *node.output):
                _check_name(name, "node", longest)
        for name in initializer_names(graph):
            _check_name(name, "initializer", longest)
    for what, names in (
        ("input", [value.name for value in model.graph.input]),
        ("output", [value.name for value in model.graph.output]),
        ("initializer", initializer_names(model.graph)),
    ):
        if double := _first_double(names):
            raise ImportRefused(f"two {what}s are called {quote(double)}")


def _check_name(name: str | bytes, what: str, longest: int) -> None:
    if isinstance(name, bytes):  # what protobuf gives where a name cannot be decoded
        raise ImportRefused(f"{what} {quote(name)}: expected a name in UTF-8")
    if len(name) > longest:
        raise ImportRefused(f"{what} {quote(name)}: expected a name of at most {longest} characters, got {len(name)}")
    if not name.isprintable():
        raise ImportRefused(f"{what} {quote(name)}: expected a name of printable characters")


def _check_functions(model: onnx.ModelProto, most: int) -> None:
    """Refuse functions that call themselves, and calls that come to too many nodes when written out."""
    contents: dict[str, list[onnx.NodeProto]] = {}
    for function in model.functions:
        key = function_key(function)
        if key in contents:
            raise ImportRefused(f"two functions are called {quote(key)}")
        contents[key] = list(_with_inner(function.node))
    sizes: dict[str, int] = {}
    # Depth first without recursion: a chain of functions may be as long as the file allows.
    for root in contents:
        path: dict[str, None] = {}
        waiting = [root]
        while waiting:
            key = waiting[-1]
            if key in sizes:
                waiting.pop()
                continue
            callees = [callee for node in contents[key] if (callee := call_key(node)) in contents]
            open_callees = [callee for callee in callees if callee not in sizes]
            if not open_callees:
                size = len(contents[key]) + sum(sizes[callee] for callee in callees)
                sizes[key] = min(size, most + 1)  # it may double from one to the next
                path.pop(key, None)
                waiting.pop()
                continue
            path[key] = None
            if again := next((callee for callee in open_callees if callee in path), None):
                raise ImportRefused(f"function {quote(again)} calls itself")
            waiting += open_callees
    own = list(_with_inner(model.graph.node))
    size = len(own) + sum(sizes.get(call_key(node), 0) for node in own)
    if size > most:
        raise ImportRefused(f"nodes: expected at most {most} with functions written out, got more")


def _with_inner(own: Iterable[onnx.NodeProto]) -> Iterable[onnx.NodeProto]:
    waiting = list(own)
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(inner for graph in bodies(node) for inner in graph.node)


def _check_domains(model: onnx.ModelProto, allow_custom: bool) -> None:
    functions = {function_key(function) for function in model.functions}
    for node in nodes(model):
        domain = canonical(node.domain)
        if (domain, node.op_type) in _OPAQUE_OPERATORS:
            raise ImportRefused(f"operator {node.op_type}: expected a graph to be seen, got a program inside it")
        if call_key(node) in functions:
            continue
        if domain not in BUILT_IN_DOMAINS and not allow_custom:
            raise ImportRefused(
                f"custom operator {quote(node.op_type)} of domain {quote(domain)}: refused unless allowed"
            )


def _first_double(names: list[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None
