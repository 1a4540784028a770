"""The spelling of an environment: NAME?KEY=VALUE&KEY=VALUE, and A=0.7,B=0.3 for a mixture.

Values are read by the type of what they set. A list is written in brackets, `operators=[+,-]`. A comma inside
brackets parts nothing; a number after the last `=` is a weight only where there is a comma.
"""

from __future__ import annotations

import difflib
import json
import math
import re
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rung.errors import UserError


def members(spec: str) -> list[tuple[str, float | None]]:
    """The environments of a spec with their weights; one alone has none."""
    parts = [part.strip() for part in re.split(r",(?![^\[]*\])", spec)]
    if "" in parts and len(parts) > 1:
        raise UserError(
            f"the environment {spec!r} has an empty part; write for example arithmetic=0.7,countdown=0.3"
        )
    if len(parts) == 1:
        return [(spec.strip(), None)]
    found = [weighted(part) for part in parts]
    bare = [part for part, weight in found if weight is None]
    if bare and len(bare) < len(found):
        raise UserError(
            f"{spec}: {bare[0]} has no weight but others have; write {bare[0]}=WEIGHT, or none at all"
        )
    return found


def weighted(part: str) -> tuple[str, float | None]:
    """`name?key=value=0.7` -> (`name?key=value`, 0.7). `name?key=3` alone has the option 3, not the weight."""
    head, _, last = part.rpartition("=")
    option = part.rpartition("&" if "&" in part else "?")[2] if "?" in part else ""
    if not head or (option and option.count("=") < 2):
        return part, None
    try:
        weight = float(last)
    except ValueError:
        return part, None
    if not (weight > 0 and math.isfinite(weight)):
        raise UserError(f"{part}: a weight must be a positive number; write for example {head}=0.5")
    return head, weight


def split_options(spec: str) -> tuple[str, dict[str, str]]:
    """`name?a=1&b=2` -> (`name`, {a: 1, b: 2})"""
    name, _, rest = spec.partition("?")
    options: dict[str, str] = {}
    for part in filter(None, rest.split("&")):
        key, equals, value = part.partition("=")
        if not equals or not key:
            raise UserError(
                f"{spec}: the option {part!r} has no value; write KEY=VALUE, with & between options"
            )
        if key in options:
            raise UserError(f"{spec}: the option {key} is given twice; leave one out")
        options[key.replace("-", "_")] = value
    return name, options


def closest(given: str, known: Iterable[str]) -> str:
    """What to write instead of a name that nobody knows."""
    names = sorted(known)
    near = difflib.get_close_matches(given, names, n=3)
    return f"did you mean {' or '.join(near)}?" if near else f"there is {', '.join(names) or 'none'}"


def reject_unknown(name: str, given: Iterable[str], known: Iterable[str]) -> None:
    names = set(known)
    for key in given:
        if key not in names:
            raise UserError(f"{name}: there is no option {key!r}; {closest(key, names)}")


def convert(name: str, key: str, text: str, kind: Any) -> Any:
    """The value that a text stands for, given the type of what it sets."""
    kind = next((part for part in typing.get_args(kind) if part in PLAIN), kind) if optional(kind) else kind
    try:
        return PLAIN[kind](text) if kind in PLAIN else structured(text)
    except (ValueError, KeyError) as error:
        raise UserError(f"{name}: {key}={text!r} is not of the kind {kind.__name__} that it needs") from error


def optional(kind: Any) -> bool:
    return type(None) in typing.get_args(kind)


PLAIN: dict[Any, Callable[[str], Any]] = {
    bool: lambda text: {"true": True, "false": False, "1": True, "0": False}[text.lower()],
    int: int,
    float: float,
    str: str,
}


def structured(text: str) -> Any:
    """JSON where it is JSON; [a,b] may leave the quotes of its strings out."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        if text.startswith("[") and text.endswith("]"):
            return [structured(part.strip()) for part in text[1:-1].split(",") if part.strip()]
        return text


def canonical(name: str, options: Mapping[str, Any]) -> str:
    """One name for one set of options, without the colon that parts a task's key."""
    pairs = "&".join(f"{key}={options[key]}" for key in sorted(options))
    return (f"{name}?{pairs}" if pairs else name).replace(":", "_")
