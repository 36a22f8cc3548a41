"""The demo's computations: how complex the functions of a Python file are, and which ones are nearly the same.

Plain functions of plain values, independent of executor, app and database.
"""

from __future__ import annotations

import ast
import random
import zlib
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import combinations
from typing import NamedTuple, TypeAlias

SHINGLE = 4
"""Consecutive tokens that are compared as one."""

MIN_TOKENS = 120
"""Functions with fewer tokens are too small to be duplicates."""

BAND = 4
"""Consecutive equal numbers in two signatures that make the functions candidates."""

FunctionNode: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef

NamedNodes: TypeAlias = Iterable[tuple[str, FunctionNode]]

_PRIME = (1 << 61) - 1
_random = random.Random(2025)  # noqa: S311  (a fixed seed: all processes need the same hashes)
_HASHES = [(_random.randrange(1, _PRIME), _random.randrange(_PRIME)) for _ in range(48)]

_BRANCHES = (
    ast.If,
    ast.IfExp,
    ast.For,
    ast.AsyncFor,
    ast.While,
    ast.ExceptHandler,
    ast.Assert,
    ast.comprehension,
    ast.match_case,
)


class Function(NamedTuple):
    """One function of a file.

    Attributes:
        name: Its qualified name.
        line: Its first line.
        lines: Its number of lines.
        complexity: Its cyclomatic complexity: one plus the number of branches.
        signature: Its MinHash signature; empty if it is too small to compare.
    """

    name: str
    line: int
    lines: int
    complexity: int
    signature: bytes


def analyse(source: bytes, track: Callable[[NamedNodes], NamedNodes] = iter) -> list[Function]:
    """Analyse each function of a Python file. Takes tens of milliseconds for a file of usual size.

    Args:
        source: The content of the file.
        track: Iterates over the list of what is to be analysed, and may report how many are done.

    Raises:
        SyntaxError: The file isn't Python.
        ValueError: It contains null bytes.
    """
    return [
        Function(name, node.lineno, (node.end_lineno or node.lineno) - node.lineno + 1, complexity(node), minhash(node))
        for name, node in track(list(functions(ast.parse(source))))
    ]


def functions(tree: ast.AST, inside: str = "") -> Iterator[tuple[str, FunctionNode]]:
    """Iterate over the functions and methods of a tree, including nested ones, with their qualified names."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, FunctionNode | ast.ClassDef):
            name = inside + node.name
            if not isinstance(node, ast.ClassDef):
                yield name, node
            yield from functions(node, f"{name}.")
        else:
            yield from functions(node, inside)


def complexity(function: FunctionNode) -> int:
    """Return a function's cyclomatic complexity, without that of nested functions."""
    found, nodes = 1, list(ast.iter_child_nodes(function))
    while nodes:
        node = nodes.pop()
        if isinstance(node, FunctionNode):
            continue
        if isinstance(node, ast.BoolOp):
            found += len(node.values) - 1
        elif isinstance(node, _BRANCHES):
            found += 1
        nodes.extend(ast.iter_child_nodes(node))
    return found


def minhash(function: FunctionNode) -> bytes:
    """Return the MinHash signature of a function's body: the share of equal numbers estimates that of equal shingles.

    Comments, layout and docstrings don't count; names of variables do.
    """
    tokens = [token for statement in function.body if not _is_docstring(statement) for token in _tokens(statement)]
    if len(tokens) < MIN_TOKENS:
        return b""
    rows = (" ".join(tokens[start : start + SHINGLE]) for start in range(len(tokens) - SHINGLE + 1))
    shingles = {zlib.crc32(row.encode(errors="replace")) for row in rows}
    return array("Q", [min([(a * shingle + b) % _PRIME for shingle in shingles]) for a, b in _HASHES]).tobytes()


def _is_docstring(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _tokens(statement: ast.stmt) -> Iterator[str]:
    for node in ast.walk(statement):
        yield type(node).__name__
        match node:
            case ast.Name(id=text) | ast.Attribute(attr=text) | ast.arg(arg=text):
                yield text
            case ast.Constant(value=value):
                yield repr(value)


def similarity(one: bytes, other: bytes) -> float:
    """Estimate from two signatures the share of shingles that both functions have, from 0 to 1."""
    ones, others = _numbers(one), _numbers(other)
    return sum(a == b for a, b in zip(ones, others, strict=True)) / len(ones)


def alike(signatures: Iterable[bytes], least: float = 0.5) -> Iterator[tuple[float, int, int]]:
    """Find functions that are nearly the same, without comparing all pairs.

    Args:
        signatures: The functions' signatures; none is empty.
        least: The minimum similarity.

    Yields:
        The similarity and the positions of two functions.
    """
    signatures = list(signatures)
    buckets: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
    for position, signature in enumerate(signatures):
        numbers = _numbers(signature)
        for start in range(0, len(numbers), BAND):
            buckets[start, *numbers[start : start + BAND]].append(position)
    pairs = {pair for bucket in buckets.values() for pair in combinations(bucket, 2)}
    for one, other in sorted(pairs):
        found = similarity(signatures[one], signatures[other])
        if found >= least:
            yield found, one, other


def _numbers(signature: bytes) -> array[int]:
    return array("Q", signature)
