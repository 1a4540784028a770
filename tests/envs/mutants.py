"""One wrong twin of every canonical solution of HumanEval, made by changing one place of its syntax tree.

Kinds of change, in the order in which they are tried: a comparison turned round, an arithmetic sign exchanged,
and/or exchanged, a constant changed, the last return made to give None. `nth` counts all the changes of a body.
"""

import ast
from collections.abc import Callable, Iterator

COMPARISONS = {
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.GtE, ast.GtE: ast.Lt, ast.Gt: ast.LtE, ast.LtE: ast.Gt,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
SIGNS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult}


def mutant(prompt: str, solution: str, entry: str, nth: int = 0) -> str:
    """The program with its nth change made."""
    tree = ast.parse(prompt + solution)
    function = next(n for n in reversed(tree.body) if isinstance(n, ast.FunctionDef) and n.name == entry)
    changes = list(possible(function))
    changes[nth]()
    return ast.unparse(ast.fix_missing_locations(tree)) + "\n"


def possible(function: ast.FunctionDef) -> Iterator[Callable[[], None]]:
    nodes = [node for statement in function.body for node in ast.walk(statement)]
    for node in nodes:
        if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARISONS:
            yield lambda node=node: node.ops.__setitem__(0, COMPARISONS[type(node.ops[0])]())
    for node in nodes:
        if isinstance(node, ast.BinOp) and type(node.op) in SIGNS:
            yield lambda node=node: setattr(node, "op", SIGNS[type(node.op)]())
    for node in nodes:
        if isinstance(node, ast.BoolOp):
            other = ast.And if isinstance(node.op, ast.Or) else ast.Or
            yield lambda node=node, other=other: setattr(node, "op", other())
    texts = [node.value for node in nodes if isinstance(node, ast.Expr)]  # docstrings, wherever they stand
    for node in nodes:
        if isinstance(node, ast.Constant) and node not in texts:
            changed = {
                bool: lambda v: not v,
                int: lambda v: v + 1,
                float: lambda v: v + 1.0,
                str: lambda v: v + "~",
            }
            if f := changed.get(type(node.value)):
                yield lambda node=node, f=f: setattr(node, "value", f(node.value))
    for node in reversed(nodes):
        if isinstance(node, ast.Return):
            yield lambda node=node: setattr(node, "value", ast.Constant(None))
            break
