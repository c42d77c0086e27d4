"""The mutants of a module: what cosmic-ray's operators make of it, but in annotations."""

import ast
import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from cosmic_ray import plugins
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code

#: What is put in the place of what. Of the hundred replacements of one comparison by another, one
#: is enough: what notices that notices the others.
OPERATORS = {
    *("AddNot", "ExceptionReplacer", "NumberReplacer", "ZeroIterationForLoop"),
    *("ReplaceAndWithOr", "ReplaceOrWithAnd", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue"),
    *("ReplaceBreakWithContinue", "ReplaceContinueWithBreak"),
    *(
        f"ReplaceBinaryOperator_{pair}"
        for pair in ("Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "Pow_Mul", "FloorDiv_Div")
    ),
    *(f"ReplaceBinaryOperator_{pair}" for pair in ("Mod_Mul", "BitOr_BitAnd", "BitAnd_BitOr")),
    *(f"ReplaceUnaryOperator_{pair}" for pair in ("USub_UAdd", "Delete_Not")),
    *(
        f"ReplaceComparisonOperator_{pair}"
        for pair in ("Eq_NotEq", "NotEq_Eq", "Lt_LtE", "LtE_Lt", "Gt_GtE", "GtE_Gt")
    ),
    *(f"ReplaceComparisonOperator_{pair}" for pair in ("Is_IsNot", "IsNot_Is")),
}


#: Those that replace a star, which may be no operator.
STARS = ("Pow_Mul", "Mul_Div")


@dataclass(frozen=True)
class Mutant:
    """One change of one line: the n-th place where a cosmic-ray operator applies in a module."""

    module: str
    operator: str
    occurrence: int
    line: int

    def source(self) -> str:
        """Return the text of the module with the change."""
        operator = plugins.get_operator(f"core/{self.operator}")()
        changed: str = mutate_code(Path(self.module).read_text(), operator, self.occurrence)
        return changed

    def text(self) -> str:
        """Return the line as it is."""
        return Path(self.module).read_text().splitlines()[self.line - 1]

    @property
    def key(self) -> tuple[str, str, int]:
        """What tells the mutant from all others, as long as its module does not change."""
        return self.module, self.operator, self.occurrence

    def entry(self, killed_by: str) -> dict[str, Any]:
        """Return what the log has of the mutant; what survives is killed by nothing."""
        before, after = self.change()
        found = {"before": before, "after": after, "killed_by": killed_by}
        return asdict(self) | found | {"digest": digest(self.module)}

    def change(self) -> tuple[str, str]:
        """Return the first line that differs, before and after."""
        before, after = Path(self.module).read_text().splitlines(), self.source().splitlines()
        pairs = zip(before, after, strict=False)
        return next(((a.strip(), b.strip()) for a, b in pairs if a != b), ("", ""))


def mutants_of(path: Path) -> Iterator[Mutant]:
    """Yield the mutants of a module, of each operator one in each place.

    Left out are annotations, which mypy checks, ``strict=True`` of ``zip``, which asserts, and
    stars that unpack, which cosmic-ray takes for products.
    """
    source = path.read_text()
    lines, tree, places = source.splitlines(), get_ast(source), _annotated(source)
    for name in sorted(OPERATORS):
        operator = plugins.get_operator(f"core/{name}")()
        starts = [
            start for node in ast_nodes(tree) for start, _ in operator.mutation_positions(node)
        ]
        for occurrence, start in enumerate(starts):
            line, column = start
            before = lines[line - 1][:column].rstrip()
            asserts = before.endswith("strict=")
            unpacks = name.endswith(STARS) and (not before or before[-1] in "([{,")
            annotates = any(begin <= start < end for begin, end in places)
            if start not in starts[:occurrence] and not (asserts or annotates or unpacks):
                yield Mutant(str(path), name, occurrence, line)


def _annotated(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Return where annotations stand, which mypy checks: from and to, as line and column."""
    nodes = list(ast.walk(ast.parse(source)))
    found = [getattr(node, "annotation", None) for node in nodes]
    found += [getattr(node, "returns", None) for node in nodes]
    return [
        ((node.lineno, node.col_offset), (node.end_lineno or 0, node.end_col_offset or 0))
        for node in found
        if isinstance(node, ast.expr)
    ]


@lru_cache
def digest(module: str) -> str:
    """Return what tells the text of a module from its texts of other times."""
    return hashlib.sha256(Path(module).read_bytes()).hexdigest()[:16]
