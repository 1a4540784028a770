"""What a settings class asks for: every key with its type, default and help, read without importing torch.

A settings class is a frozen dataclass, possibly with frozen dataclasses inside; `leaves` flattens it to
dotted keys such as `lora.rank`. The help of a key stands beside it in the source: a string below the
field, a comment on its line, or comment lines above it. `method_settings` builds such a class from the
keyword-only arguments of a method by reading its source, so that a loss function's signature is its
configuration and nothing has to be declared twice or imported early.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import inspect
import re
import types
import typing
from collections.abc import Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo


@dataclass(frozen=True)
class Leaf:
    """One key a user can set. `default` is MISSING when there is none."""

    key: str
    type: Any
    default: Any
    help: str
    positional: bool
    spec: PrimitiveConstructorSpec  # tyro's converter from words to the type


def leaves(settings_class: Any, prefix: str = "", defaults: Any = None) -> dict[str, Leaf]:
    """Every key of a settings class in the order of the source, nested classes under `name.`."""
    found: dict[str, Leaf] = {}
    hints = typing.get_type_hints(settings_class, include_extras=True)
    helps = source_help(settings_class)
    for field in dataclasses.fields(settings_class):
        kind, marks = strip_annotation(hints[field.name])
        default = getattr(defaults, field.name) if defaults is not None else field_default(field)
        key = prefix + field.name
        if dataclasses.is_dataclass(kind):
            found |= leaves(kind, key + ".", None if default is MISSING else default)
            continue
        spec = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(kind, set()))
        if not isinstance(spec, PrimitiveConstructorSpec):
            raise TypeError(f"{settings_class.__name__}.{field.name}: a command line cannot give a {kind}")
        found[key] = Leaf(
            key=key,
            type=kind,
            default=default,
            help=field.metadata.get("help") or helps.get(field.name, ""),
            positional=POSITIONAL in marks,
            spec=spec,
        )
    return found


def build(settings_class: type, values: dict[str, Any], prefix: str = "") -> Any:
    """An instance of the class from one value per leaf."""
    hints = typing.get_type_hints(settings_class)
    return settings_class(
        **{
            field.name: build(hints[field.name], values, f"{prefix}{field.name}.")
            if dataclasses.is_dataclass(hints[field.name])
            else values[prefix + field.name]
            for field in dataclasses.fields(settings_class)
        }
    )


def strip_annotation(hint: Any) -> tuple[Any, tuple]:
    if typing.get_origin(hint) is Annotated:
        kind, *marks = typing.get_args(hint)
        return kind, tuple(marks)
    return hint, ()


POSITIONAL = strip_annotation(tyro.conf.Positional[str])[1][0]


def field_default(field: dataclasses.Field) -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default


def describe(kind: Any) -> str:
    """A type in words, for errors and explanations."""
    plain = {int: "a whole number", float: "a number", str: "text", bool: "true or false", Path: "a path"}
    if kind in plain:
        return plain[kind]
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return ("one of " if len(parts) > 1 else "") + ", ".join(str(part) for part in parts)
    if origin in (typing.Union, types.UnionType):
        words = [describe(part) for part in parts if part is not type(None)]
        return " or ".join([*words, "none"] if type(None) in parts else words)
    if origin is dict:
        return f"a mapping from {describe(parts[0])} to {describe(parts[1])}"
    if origin is list or (origin is tuple and parts[-1] is Ellipsis):
        return f"a list of entries, each {describe(parts[0])}"
    if origin is tuple:
        return f"{len(parts)} values: " + ", ".join(describe(part) for part in parts)
    return getattr(kind, "__name__", str(kind))


# ---- help, read from the source ----


def source_help(settings_class: type) -> dict[str, str]:
    """The text beside each field, of inherited ones too; empty for classes made at run time."""
    helps: dict[str, str] = {}
    for one in reversed(settings_class.__mro__[:-1]):
        helps |= own_help(one)
    return helps


def own_help(settings_class: type) -> dict[str, str]:
    """The text beside each field that a class written in a file declares itself."""
    try:
        source = inspect.cleandoc("\n" + inspect.getsource(settings_class))
    except (OSError, TypeError):  # no source: made by `make_dataclass` or typed at a prompt
        return {}
    body = typing.cast(ast.ClassDef, ast.parse(source).body[0]).body
    lines = source.splitlines()
    helps: dict[str, str] = {}
    for statement, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            helps[statement.target.id] = (
                below(after)
                or comment_on(lines[(statement.end_lineno or statement.lineno) - 1])
                or comment_above(lines, statement.lineno - 1)
            )
    return helps


def below(statement: ast.stmt | None) -> str:
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return inspect.cleandoc(str(statement.value.value))
    return ""


def comment_on(line: str) -> str:
    """The comment that ends a line; a `#` within quotes does not start one."""
    found = re.match(r"""(?:[^#"']|"[^"]*"|'[^']*')*#\s*(.*)""", line)
    return found.group(1).strip() if found else ""


def comment_above(lines: Sequence[str], index: int) -> str:
    texts: list[str] = []
    while index > 0 and lines[index - 1].lstrip().startswith("#"):
        index -= 1
        texts.insert(0, lines[index].lstrip().lstrip("#").strip())
    return " ".join(texts)


# ---- a method's signature as settings ----

PLAIN_TYPES = {"float": float, "int": int, "bool": bool, "str": str, "Path": Path}
NAMES: dict[str, Any] = {**PLAIN_TYPES, "tuple": tuple, "list": list, "dict": dict}
NAMES |= {"Literal": Literal, "Optional": typing.Optional}


def method_settings(module: str, function_name: str) -> type:
    """A frozen dataclass from the keyword-only arguments of `function_name` in `module`, unimported.

    `def nll(scores, batch, *, normalise: Literal["token", "sequence"] = "token")` gives a class `Nll` with
    one field. Help is a docstring line `normalise: what it does` or the comment on the argument's line.
    """
    path = module_path(module)
    source = path.read_text()
    function = next(
        (n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef) and n.name == function_name),
        None,
    )
    if function is None:
        raise LookupError(f"{path} has no function {function_name}")
    fields: list[tuple[str, Any, dataclasses.Field]] = []
    for argument, default in zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True):
        place = f"{path}:{argument.lineno}: argument {argument.arg} of {function_name}"
        if argument.annotation is None:
            raise TypeError(f"{place} has no annotation, so it cannot be a setting")
        help_text = docstring_help(ast.get_docstring(function) or "", argument.arg) or comment_on(
            source.splitlines()[argument.lineno - 1]
        )
        kind: Any = evaluate(argument.annotation, place)
        kind = Annotated[kind, tyro.conf.arg(help=help_text or None)]
        value: Any = MISSING if default is None else evaluate(default, place)
        # kw_only lets an argument without default follow one that has it, as in the signature.
        fields.append(
            (argument.arg, kind, dataclasses.field(default=value, kw_only=True, metadata={"help": help_text}))
        )
    name = "".join(part.capitalize() for part in function_name.split("_"))
    return dataclasses.make_dataclass(name, fields, frozen=True)


def module_path(module: str) -> Path:
    """The file of a dotted module. Only the outermost package is looked up, so that nothing is imported."""
    package, *rest = module.split(".")
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise LookupError(f"no package {package}")
    return Path(spec.origin).parent.joinpath(*rest).with_suffix(".py")


def evaluate(node: ast.expr, place: str) -> Any:
    """An annotation or default that uses only literals and the plain types."""
    try:
        return eval(ast.unparse(node), {"__builtins__": {}}, NAMES)
    except NameError as error:
        raise TypeError(f"{place}: {error}; settings use literals and {', '.join(NAMES)} only") from error


def docstring_help(docstring: str, argument: str) -> str:
    """The text after a line `argument:` and the deeper-indented lines that follow it."""
    found = re.search(rf"^([ \t]*){argument}:[ \t]+(.+(?:\n\1[ \t]+.+)*)", docstring, re.MULTILINE)
    return " ".join(found.group(2).split()) if found else ""
