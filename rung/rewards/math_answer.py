"""Is the answer mathematically equal to the right one? Parsing and algebra are math-verify's, over sympy.

A right answer that cannot be read is a Failure, for the row is broken; a model's answer that cannot be read is
wrong. Algebra can take for ever. In the main thread of a process math-verify stops itself by a signal after
`seconds`, which a worker survives; what no signal stops (one huge power inside C code) the worker's limits do.
In other threads signals do not exist, and there only those limits hold.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from rung.rewards.extract import boxed, marked_answer, without_thinking
from rung.rewards.score import Attempt, Failure, Score, Verdict

LONGEST = 1000  # characters of an answer; the parser's time grows badly, and no final answer is longer


@dataclass(frozen=True)
class MathAnswer:
    """1 if equal, 0 if not or unreadable; the part `parsed` tells these two apart."""

    seconds: int = 5

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A worker that has received the reward has imported sympy: that time is nobody's attempt."""
        self.__dict__.update(state)
        import math_verify  # noqa: F401

    def __call__(self, attempt: Attempt) -> Verdict:
        from math_verify import verify
        from math_verify.errors import TimeoutException  # derives from BaseException

        logging.getLogger("math_verify").setLevel(logging.ERROR)
        seconds = self.seconds if threading.current_thread() is threading.main_thread() else None
        try:
            right = _right(str(attempt.reference), seconds) if attempt.reference is not None else ()
            if not right:
                return Failure(
                    "invalid", f"the reference {str(attempt.reference)[:100]!r} cannot be read as mathematics"
                )
            given = _given(attempt.answer, seconds)
            if not given:
                return Score(0.0, {"parsed": 0.0})
            equal = verify(list(right), given, timeout_seconds=seconds, raise_on_error=True)
        except TimeoutException:
            return Failure("timeout", f"math-verify had no result after {seconds} s")
        return Score(float(equal), {"parsed": 1.0})


@lru_cache(maxsize=4096)
def _right(reference: str, seconds: int | None) -> tuple[Any, ...]:
    from math_verify import parse

    inside = boxed(reference)
    text = reference if inside is None else inside
    text = text if "$" in text else f"${text}$"
    return tuple(parse(text, fallback_mode="no_fallback", parsing_timeout=seconds, raise_on_error=True))


def _given(answer: str, seconds: int | None) -> list[Any]:
    from math_verify import parse

    marked = marked_answer(answer)
    if marked is None:
        text = without_thinking(answer)[-LONGEST:]
    elif len(marked) > LONGEST:
        return []
    else:
        text = marked if "$" in marked else f"${marked}$"
    try:
        return parse(text, fallback_mode="no_fallback", parsing_timeout=seconds, raise_on_error=True)
    except MemoryError:
        raise
    except Exception:  # whatever the parser trips over was written by the model
        return []
