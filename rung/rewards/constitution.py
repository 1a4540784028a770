"""A constitution: principles in plain sentences, and the questions that put them to a model (arXiv 2212.08073).

    critique    where does this answer fall short of the principle?
    revise      write it anew so that it no longer does
    choose      which of two answers keeps to the principle, A or B? The label is soft:
                p = mean over both orders of P(first) / (P(A) + P(B)), from the log-probs of the one letter

After reasoning the letter is nearly certain, so its probability says little; the paper clamps it to 0.4 .. 0.6, and so
does `clamp`. Ours from the paper: the model answers in chat turns instead of Human/Assistant text, and both orders are
asked, where the paper draws one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp
from pathlib import Path
from typing import Any

import yaml

from rung.errors import UserError
from rung.rewards.asking import Answered, Ledger, Question, Reply, system, user
from rung.rewards.judge import MATERIAL, Duel, fenced, transcript
from rung.rewards.score import Abstain

CLAMP = (0.4, 0.6)
LETTERS = ("A", "B")


@dataclass(frozen=True)
class Principle:
    name: str
    text: str


def load_constitution(file: Path) -> tuple[Principle, ...]:
    """A YAML list of sentences, or of {name: sentence}."""
    if not file.is_file():
        raise UserError(f"there is no constitution {file}; recipes/constitution.yaml is one to begin with")
    try:
        value = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not a YAML list of principles: {error}") from error
    if not isinstance(value, list) or not value:
        raise UserError(f"{file}: a constitution is a list of principles, one sentence or a few each")
    found = tuple(parse_principle(item, number, file) for number, item in enumerate(value, 1))
    names = [principle.name for principle in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"{file}: two principles are called {twice}; reports could not tell them apart")
    return found


def parse_principle(item: Any, number: int, file: Path) -> Principle:
    name, text = str(number), item
    if isinstance(item, Mapping) and len(item) == 1:
        [(name, text)] = item.items()
    if not isinstance(text, str) or not text.strip():
        raise UserError(
            f"{file}, principle {number}: {str(item)[:80]!r}; write a sentence, or NAME: SENTENCE"
        )
    return Principle(str(name), text.strip())


def drawn(
    constitution: Sequence[Principle], count: int, seed: int, messages: Sequence[Mapping[str, Any]]
) -> list[Principle]:
    """`count` principles for this prompt in random order, none twice before all were there. Other prompts, other dice."""
    order: list[Principle] = []
    while len(order) < count:
        lap = len(order)
        order += sorted(constitution, key=lambda p: die(seed, lap, p.name, transcript(messages)))
    return order[:count]


def die(*of: object) -> str:
    return hashlib.sha256(repr(of).encode("utf-8", "backslashreplace")).hexdigest()


# ---- critique and revision ----

NOTHING = "Nothing to change."


def critique_question(
    prompt: Sequence[Mapping[str, Any]], answer: str, principle: Principle, max_tokens: int
) -> Question:
    told = (
        f"You are a critic. {MATERIAL}\nSay concretely where the answer falls short of the principle, and only of that. "
        f"If it does not fall short, write exactly: {NOTHING}"
    )
    return Question((system(told), user(case(prompt, answer, principle))), max_tokens)


def revision_question(
    prompt: Sequence[Mapping[str, Any]], answer: str, principle: Principle, critique: str, max_tokens: int
) -> Question:
    told = (
        f"You write an answer anew. {MATERIAL}\nMend what the critique names and keep all that was good. Write only the "
        "new answer, as said to the one who asked: no preface, and no word about the principle, the critique or the "
        "change."
    )
    shown = f"{case(prompt, answer, principle)}\n\n{fenced('critique', critique)}"
    return Question((system(told), user(shown)), max_tokens)


def case(prompt: Sequence[Mapping[str, Any]], answer: str, principle: Principle) -> str:
    parts = {"conversation": transcript(prompt), "answer": answer, "principle": principle.text}
    return "\n\n".join(fenced(tag, text) for tag, text in parts.items())


# ---- labels ----


def reasons_question(duel: Duel, principle: Principle, max_tokens: int) -> Question:
    told = f"You compare two answers by one principle. {MATERIAL}\nReason in a few sentences; name no winner yet."
    return Question((system(told), user(duel_case(duel, principle))), max_tokens)


def choice_question(duel: Duel, principle: Principle, reasons: str = "") -> Question:
    told = f"You compare two answers by one principle. {MATERIAL}"
    asked = "Which answer keeps to the principle better? Reply with one letter, A or B, and nothing else."
    shown = duel_case(duel, principle)
    if not reasons:
        return Question((system(told), user(f"{shown}\n\n{asked}")), 1, options=LETTERS)
    talk = (system(told), user(shown), {"role": "assistant", "content": reasons}, user(asked))
    return Question(talk, 1, options=LETTERS)


def duel_case(duel: Duel, principle: Principle) -> str:
    parts = {
        "conversation": transcript(duel.prompt),
        "answer_a": duel.first,
        "answer_b": duel.second,
        "principle": principle.text,
    }
    return "\n\n".join(fenced(tag, text) for tag, text in parts.items())


def read_choice(answer: Answered) -> float | Abstain:
    """P(A) / (P(A) + P(B)). A letter that is not among the likeliest tokens has no mass."""
    if not isinstance(answer, Reply):
        return Abstain(answer.reason)
    mass = [exp(answer.logprobs[letter]) if letter in answer.logprobs else 0.0 for letter in LETTERS]
    if not sum(mass):
        return Abstain("neither A nor B is among the likeliest tokens (or the server gives no log-probs)")
    return mass[0] / sum(mass)


def soft_labels(
    ledger: Ledger,
    duels: Sequence[Duel],
    principles: Sequence[Principle],
    *,
    reason: bool = False,
    clamp: tuple[float, float] = CLAMP,
    max_tokens: int = 512,
) -> list[float | Abstain]:
    """For each duel the probability that its first answer is the better one. With `reason`, clamped after reasoning."""
    both = [
        (each, principle)
        for duel, principle in zip(duels, principles, strict=True)
        for each in (duel, Duel(duel.prompt, duel.second, duel.first))
    ]
    reasons: list[Answered] = [Reply("")] * len(both)
    if reason:
        reasons = ledger.ask([reasons_question(*one, max_tokens) for one in both])
    able = [i for i, answer in enumerate(reasons) if isinstance(answer, Reply)]
    asked = ledger.ask([choice_question(*both[i], getattr(reasons[i], "text", "")) for i in able])
    answers: list[Answered] = list(reasons)
    for i, answer in zip(able, asked, strict=True):
        answers[i] = answer
    chances = [read_choice(answer) for answer in answers]
    low, high = clamp if reason else (0.0, 1.0)
    found: list[float | Abstain] = []
    for forward, swapped in zip(chances[::2], chances[1::2], strict=True):
        if isinstance(forward, Abstain) or isinstance(swapped, Abstain):
            found.append(forward if isinstance(forward, Abstain) else swapped)
        else:
            found.append((min(max(forward, low), high) + 1 - min(max(swapped, low), high)) / 2)
    return found
