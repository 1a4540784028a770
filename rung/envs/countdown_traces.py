"""Written-out Countdown solutions that show chosen cognitive behaviours, by a symbolic solver (2503.01307).

    numbers 3 5 8, target 7       7-3=4, make 4 from 5 8: 5*8=40, not 4. back.       a branch that fails
                                  7+8=15, make 15 from 3 5: 3*5=15, yes.             one that does not
                                  check 3*5-8=7, yes. answer 3*5-8

    backward chaining   from the target to what is needed:   7+8=15
    subgoal setting     naming what has to be made first:    make 15 from 3 5
    verification        comparing a result with what it should be:   not 4 / check ...
    backtracking        leaving a branch that failed:        back. / try again.

The last number and its sign are chosen first; what the others must then come to follows from the target, and the
solver knows whether they can. Every statement in a trace is true, also where its final answer is wrong
(`right=False`): then all branches fail, and the last attempt is given as the answer. Behaviours are switched on one
by one; with none the trace is the bare calculation. Nothing was sampled from a model.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fractions import Fraction

from rung.errors import UserError

VERIFICATION, BACKTRACKING = "verification", "backtracking"
SUBGOAL, BACKWARD = "subgoal setting", "backward chaining"
BEHAVIOURS = (VERIFICATION, BACKTRACKING, SUBGOAL, BACKWARD)
MOST_FAILURES = 2  # branches that fail before one succeeds
INVERSE = {"+": "-", "-": "+", "*": "/", "/": "*"}


@dataclass(frozen=True)
class Made:
    """A value, how it is written, and whether brackets are needed before * or /."""

    text: str
    value: Fraction
    loose: bool = False


@dataclass(frozen=True)
class Branch:
    """Put `last` at the end of an expression over `rest`, which must then come to `needed`."""

    sign: str
    last: int
    rest: tuple[int, ...]
    needed: Fraction


def joined(left: Made, sign: str, right: Made) -> Made | None:
    if sign == "/" and not right.value:
        return None
    value = {
        "+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b, "/": lambda a, b: a / b,
    }[sign](left.value, right.value)  # fmt: skip
    tight = sign in "*/"
    first = f"({left.text})" if tight and left.loose else left.text
    # a-(b+c) and a/(b*c) need their brackets, a+(b-c) does not
    bare = (
        right.text.isdigit() or (sign == "+") or (sign in "-*" and not right.loose and "/" not in right.text)
    )
    second = right.text if bare else f"({right.text})"
    return Made(f"{first}{sign}{second}", value, not tight)


def reachable(numbers: Sequence[int], signs: str = "+-*/") -> dict[Fraction, Made]:
    """Every whole value from 0 that all the numbers together can be made into, and one way to."""
    found: dict[Fraction, Made] = {}

    def search(terms: list[Made]) -> None:
        if len(terms) == 1:
            found.setdefault(terms[0].value, terms[0])
            return
        for i in range(len(terms)):
            for j in range(len(terms)):
                if i != j:
                    others = [term for k, term in enumerate(terms) if k not in (i, j)]
                    for sign in signs if i < j else [s for s in signs if s in "-/"]:
                        made = joined(terms[i], sign, terms[j])
                        if made is not None and made.value >= 0 and made.value.denominator == 1:
                            search([*others, made])

    search([Made(str(number), Fraction(number)) for number in numbers])
    return found


def branches(numbers: Sequence[int], target: int, signs: str = "+-*/") -> list[Branch]:
    """Every choice of the last number and its sign that leaves a whole number to be made, from 0."""
    found = []
    for place, last in enumerate(numbers):
        rest = (*numbers[:place], *numbers[place + 1 :])
        for sign in signs:
            back = joined(Made("", Fraction(target)), INVERSE[sign], Made("", Fraction(last)))
            if back is not None and back.value >= 0 and back.value.denominator == 1:
                found.append(Branch(sign, last, rest, back.value))
    return list(dict.fromkeys(found))


def trace(
    numbers: Sequence[int],
    target: int,
    dice: random.Random,
    *,
    show: Collection[str] = BEHAVIOURS,
    right: bool = True,
    signs: str = "+-*/",
) -> str:
    """A solution of the task, or with `right=False` an attempt that ends in a wrong answer.

    Raises UserError where the task has no solution of this form, or, for a wrong one, none that fails.
    """
    open_: list[Branch] = []
    closed: list[Branch] = []
    for branch in dice.sample(every := branches(numbers, target, signs), len(every)):
        (open_ if branch.needed in reachable(branch.rest, signs) else closed).append(branch)
    wanted = dice.randint(0, MOST_FAILURES) if BACKTRACKING in show else 0
    failing = closed[: wanted + (not right)]
    if (right and not open_) or (not right and not failing):
        raise UserError(
            f"Countdown {list(numbers)} -> {target} has no branch that {'succeeds' if right else 'fails'}"
        )
    parts: list[str] = []
    answer = ""
    for place, branch in enumerate(failing):
        values = [made for value, made in reachable(branch.rest, signs).items() if value != branch.needed]
        parts.append(said(branch, attempt := dice.choice(values), target, show, dice))
        answer = closed_with(attempt, branch)
        if BACKTRACKING in show and (right or place + 1 < len(failing)):
            parts.append(dice.choice(["back.", "try again."]))
    if right:
        made = reachable(open_[0].rest, signs)[open_[0].needed]
        parts.append(said(open_[0], made, target, show, dice))
        answer = closed_with(made, open_[0])
    if VERIFICATION in show:
        parts.append(f"check {answer}={valued(answer)}, {'yes' if right else 'no'}.")
    return " ".join([*parts, f"answer {answer}"])


def said(branch: Branch, made: Made, target: int, show: Collection[str], dice: random.Random) -> str:
    """One branch: what is needed, what is made, whether that is the same."""
    lead = []
    if BACKWARD in show:
        lead.append(f"{target}{INVERSE[branch.sign]}{branch.last}={branch.needed}")
    if SUBGOAL in show:
        lead.append(
            f"{dice.choice(['make', 'first get'])} {branch.needed} from {' '.join(map(str, branch.rest))}"
        )
    step = f"{made.text}={made.value}"
    if not lead:  # forward: the whole calculation
        step += (
            f", {made.value}{branch.sign}{branch.last}={valued(f'({made.value}){branch.sign}{branch.last}')}"
        )
    if VERIFICATION in show:
        step += ", yes" if made.value == branch.needed else f", not {branch.needed if lead else target}"
    return f"{', '.join(lead)}: {step}." if lead else f"{step}."


def closed_with(made: Made, branch: Branch) -> str:
    whole = joined(made, branch.sign, Made(str(branch.last), Fraction(branch.last)))
    assert whole is not None
    return whole.text


def valued(expression: str) -> str:
    from rung.rewards.countdown import evaluate

    found = evaluate(expression)
    assert found is not None
    return str(found[0])
