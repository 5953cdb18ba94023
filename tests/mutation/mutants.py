"""Mutants: places where one operator of cosmic-ray changes one node of a source file.

Annotations are left alone, which change nothing at run time, and so are arguments of log lines.
"""

import ast
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import MutationVisitor
from cosmic_ray.plugins import get_operator, operator_names

Position = tuple[int, int]
# these take arguments, or change what no test can tell: which class an except clause names
LEFT_OUT = ("RemoveDecorator", "Variable", "ExceptionReplacer", "NoOp")


class Mutant(NamedTuple):
    """One change of one file.

    Attributes:
        path: of the file, relative to the checkout.
        operator: cosmic-ray's name of it.
        occurrence: which of the places where the operator fits, from 0.
        start: line, from 1, and column of the place.
    """

    path: str
    operator: str
    occurrence: int
    start: Position

    def apply(self, source: str) -> str:
        """The file's text with the change.

        Raises:
            ValueError: if the text has no such place.
        """
        visitor = MutationVisitor(self.occurrence, get_operator(self.operator)())
        tree = visitor.walk(get_ast(source))
        if not visitor.mutation_applied:
            raise ValueError(f"{self.path} has no place {self.occurrence} for {self.operator}")
        return tree.get_code()


def mutants(root: Path, path: str) -> list[Mutant]:
    """Every mutant of a file."""
    source = (root / path).read_text()
    ignored, nodes = list(_ignored(ast.parse(source))), list(ast_nodes(get_ast(source)))
    found = []
    for name in operator_names():
        if any(word in name for word in LEFT_OUT):
            continue
        operator = get_operator(name)()
        spans = [span for node in nodes for span in operator.mutation_positions(node)]
        found += [
            Mutant(path, name, occurrence, span[0])
            for occurrence, span in enumerate(spans)
            if not any(start <= span[0] < end for start, end in ignored)
        ]
    return found


def _ignored(tree: ast.AST) -> Iterator[tuple[Position, Position]]:
    """Spans of annotations and of log lines."""
    for node in ast.walk(tree):
        parts: Sequence[ast.AST | None] = ()
        match node:
            case ast.arg() | ast.AnnAssign():
                parts = [node.annotation]
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                parts = [node.returns]
            case ast.Call(func=ast.Attribute(value=ast.Name(id="log"))):
                parts = [node]
        for part in parts:
            if isinstance(part, ast.expr):
                yield (
                    (part.lineno, part.col_offset),
                    (part.end_lineno or 0, part.end_col_offset or 0),
                )


def sample(root: Path, paths: Sequence[str], count: int, seed: int) -> list[Mutant]:
    """Mutants drawn without regard to how many operators fit a place: of each place at most one."""
    draw = random.Random(seed)
    places: dict[tuple[str, Position], list[Mutant]] = {}
    for path in sorted(paths):
        for mutant in mutants(root, path):
            places.setdefault((mutant.path, mutant.start), []).append(mutant)
    drawn = draw.sample(sorted(places), min(count, len(places)))
    return [draw.choice(places[place]) for place in drawn]
