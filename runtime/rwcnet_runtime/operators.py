"""Which operators an ONNX file calls, read from its bytes: the runtime does without onnx.

Only the fields needed are looked at, by their numbers in onnx.proto3
(https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3); the encoding is that of protocol buffers
(https://protobuf.dev/programming-guides/encoding/).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rwcnet_runtime.errors import BundleError

_MODEL_GRAPH, _MODEL_FUNCTIONS = 7, 25
_GRAPH_NODE = 1
_NODE_OUTPUT, _NODE_OPERATOR, _NODE_ATTRIBUTE, _NODE_DOMAIN = 2, 4, 5, 7
_ATTRIBUTE_GRAPHS = (6, 11)
_FUNCTION_NAME, _FUNCTION_DOMAIN = 1, 10


@dataclass(frozen=True)
class Operators:
    """What a graph calls.

    Attributes
    ----------
    calls
        How often, by ``domain::name``, subgraphs included; ONNX's own operators without a domain.
    functions
        Those that the file defines itself, in other operators.
    """

    calls: Counter[str]
    functions: frozenset[str]


def read_operators(path: Path) -> Operators:
    """Read which operators a file calls.

    Raises
    ------
    BundleError
        If it is no ONNX file.
    """
    with _said(path):
        model = memoryview(path.read_bytes())
        functions = frozenset(
            _name(function, _FUNCTION_DOMAIN, _FUNCTION_NAME)
            for function in _all(model, _MODEL_FUNCTIONS)
        )
        calls = Counter(call for graph in _all(model, _MODEL_GRAPH) for call in _calls(graph))
    return Operators(calls, functions)


def outputs_of(path: Path, call: str) -> list[str]:
    """Return the names of the first outputs of an operator's calls, subgraphs left out.

    Parameters
    ----------
    path
        An ONNX file.
    call
        The operator, as in `Operators.calls`.

    Raises
    ------
    BundleError
        If it is no ONNX file.
    """
    with _said(path):
        return [
            bytes(next(_all(node, _NODE_OUTPUT))).decode()
            for graph in _all(memoryview(path.read_bytes()), _MODEL_GRAPH)
            for node in _all(graph, _GRAPH_NODE)
            if _name(node, _NODE_DOMAIN, _NODE_OPERATOR) == call
        ]


@contextmanager
def _said(path: Path) -> Iterator[None]:
    """Turn what goes wrong with a file that is no ONNX into one sentence."""
    try:
        yield
    except (IndexError, ValueError, StopIteration) as error:
        raise BundleError(f"{path} is no ONNX file ({error}): export it again") from error


def _calls(graph: memoryview) -> Iterator[str]:
    for node in _all(graph, _GRAPH_NODE):
        yield _name(node, _NODE_DOMAIN, _NODE_OPERATOR)
        for attribute in _all(node, _NODE_ATTRIBUTE):
            for subgraph in _all(attribute, *_ATTRIBUTE_GRAPHS):
                yield from _calls(subgraph)


def _name(message: memoryview, domain_field: int, name_field: int) -> str:
    domain, name = (
        b"".join(map(bytes, _all(message, field))).decode() for field in (domain_field, name_field)
    )
    return f"{domain}::{name}" if domain else name


def _all(message: memoryview, *wanted: int) -> Iterator[memoryview]:
    """Yield the contents of a message's fields of these numbers: texts and messages."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        field, kind = tag >> 3, tag & 7
        if kind == 0:
            _, at = _varint(message, at)
        elif kind == 2:
            length, at = _varint(message, at)
            if at + length > len(message):
                raise ValueError("it ends too early")
            if field in wanted:
                yield message[at : at + length]
            at += length
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise ValueError(f"field {field} has the unknown type {kind}")


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """Return a number, seven bits a byte, the lowest first, and where what follows it begins."""
    number = shift = 0
    while True:
        byte = message[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, at
        shift += 7
