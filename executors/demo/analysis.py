"""What the demo computes on a Python file: how complex each function is, and which functions are nearly the same.

Plain functions of plain values: nothing here knows of an executor, an app or a database.
"""

from __future__ import annotations

import ast
import random
import zlib
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import combinations
from typing import NamedTuple, TypeAlias

SHINGLE = 4
"""How many tokens in a row are compared as one."""

MIN_TOKENS = 120
"""Functions with fewer tokens are too small to be called duplicates of each other."""

BAND = 4
"""How many numbers of a signature have to agree in a row before two functions are compared as a whole."""

FunctionNode: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef

_PRIME = (1 << 61) - 1
_random = random.Random(2025)  # noqa: S311  (the same in each process: signatures are compared)
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
        name: Its name, after those of what it is in.
        line: The line that it starts on.
        lines: How many lines it has.
        complexity: Its cyclomatic complexity: one, and one more for each way to branch.
        signature: Its MinHash signature; empty if it is too small to compare.
    """

    name: str
    line: int
    lines: int
    complexity: int
    signature: bytes


def analyse(source: bytes) -> list[Function]:
    """Analyse each function of a Python file. Takes some ten milliseconds for a file of usual size.

    Raises:
        SyntaxError: It isn't Python.
        ValueError: It isn't text.
    """
    return [
        Function(name, node.lineno, (node.end_lineno or node.lineno) - node.lineno + 1, complexity(node), minhash(node))
        for name, node in functions(ast.parse(source))
    ]


def functions(tree: ast.AST, inside: str = "") -> Iterator[tuple[str, FunctionNode]]:
    """Iterate over a tree's functions and methods, the nested ones too, with their full names."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, FunctionNode | ast.ClassDef):
            name = inside + node.name
            if not isinstance(node, ast.ClassDef):
                yield name, node
            yield from functions(node, f"{name}.")
        else:
            yield from functions(node, inside)


def complexity(function: FunctionNode) -> int:
    """Return a function's cyclomatic complexity. That of a function inside it counts for that one alone."""
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
    """Return the MinHash signature of a function's body: equal numbers are as frequent as equal shingles.

    Names of local variables count, comments, layout and docstrings don't.
    """
    tokens = [token for statement in function.body if not _is_text(statement) for token in _tokens(statement)]
    if len(tokens) < MIN_TOKENS:
        return b""
    rows = (" ".join(tokens[start : start + SHINGLE]) for start in range(len(tokens) - SHINGLE + 1))
    shingles = {zlib.crc32(row.encode(errors="replace")) for row in rows}
    return array("Q", [min([(a * shingle + b) % _PRIME for shingle in shingles]) for a, b in _HASHES]).tobytes()


def _is_text(statement: ast.stmt) -> bool:
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
    """Estimate from two signatures which share of their functions' shingles is common to both, 0 to 1."""
    ones, others = _numbers(one), _numbers(other)
    return sum(a == b for a, b in zip(ones, others, strict=True)) / len(ones)


def alike(signatures: Iterable[bytes], least: float = 0.5) -> Iterator[tuple[float, int, int]]:
    """Find the functions that are nearly the same, without comparing each with each.

    Args:
        signatures: The functions' signatures, none of them empty.
        least: From which similarity on.

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
