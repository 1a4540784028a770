"""Constitutional AI: a model answers, criticises itself by a principle, revises; and RLAIF: a judge labels two answers.

    answer -> (critique by a drawn principle -> revision) x rounds          rows for SFT and preference pairs
    two answers -> judge's P(A better), both orders                        preference pairs with a soft label

The pair of a prompt is (initial: rejected, last revision: chosen). Stage by stage over all prompts; every answer of a
model is kept as it comes (`rung.rewards.asking`), so the same command again goes on where it stopped.
Source: arXiv 2212.08073. There the model revises whether or not the critique found something, here a critic may say
that nothing is to change; and rows that teach something else than the principle (cut off, empty, unchanged, talking
about their own revision) are dropped, each under its reason.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rung.data.prompts import Prompt
from rung.rewards.asking import Answered, Ledger, Question, Reply
from rung.rewards.constitution import (
    NOTHING,
    Principle,
    critique_question,
    die,
    drawn,
    revision_question,
    soft_labels,
)
from rung.rewards.judge import Duel, transcript
from rung.rewards.score import Abstain

LEAK = re.compile(
    r"^\W*(here is|here's|sure, here|this is) (the|a|an|my) (revised|new|rewritten|improved|updated)|"
    r"\b(revised|rewritten) (answer|response|version)\b|\bthe critique\b",
    re.IGNORECASE,
)
Tell = Callable[[str], None]


@dataclass
class Case:
    """One prompt on its way. `dropped` says why it goes no further."""

    prompt: Prompt
    principles: list[Principle]
    answers: list[str] = field(default_factory=list)  # the initial one and each revision
    critiques: list[str] = field(default_factory=list)
    dropped: str = ""


@dataclass(frozen=True)
class Rows:
    """What a run made. Every prompt is in `sft` or has one reason among the drops; pairs may be fewer."""

    sft: list[dict[str, Any]]
    pairs: list[dict[str, Any]]
    drops: Counter[str]
    notes: Counter[str]


def constitutional(
    writer: Ledger,
    critic: Ledger,
    prompts: Sequence[Prompt],
    constitution: Sequence[Principle],
    *,
    rounds: int = 1,
    max_tokens: int = 512,
    critique_tokens: int = 512,
    temperature: float = 1.0,
    seed: int = 0,
    tell: Tell = lambda line: None,
) -> Rows:
    cases = [Case(p, drawn(constitution, rounds, seed, p.messages)) for p in prompts]
    asked = [answer_question(case.prompt, max_tokens, temperature, seed) for case in cases]
    for case, answer in zip(cases, together(writer, asked, "answers", tell), strict=True):
        accept(case, answer, "the answer")
    for turn in range(rounds):
        live = [case for case in cases if not case.dropped]
        asked = [
            critique_question(c.prompt.messages, c.answers[-1], c.principles[turn], critique_tokens)
            for c in live
        ]
        told = together(critic, asked, f"critiques {turn + 1}", tell)
        for case, answer in zip(live, told, strict=True):
            if not isinstance(answer, Reply):
                case.dropped = f"no critique: {answer.reason}"
            else:
                case.critiques.append(answer.text.strip())
        wanting = [c for c in live if not c.dropped and not content(c.critiques[-1])]
        for case in wanting:
            case.answers.append(case.answers[-1])
        live = [c for c in live if not c.dropped and content(c.critiques[-1])]
        asked = [
            revision_question(
                c.prompt.messages, c.answers[-1], c.principles[turn], c.critiques[-1], max_tokens
            )
            for c in live
        ]
        for case, answer in zip(live, together(writer, asked, f"revisions {turn + 1}", tell), strict=True):
            accept(case, answer, "a revision")
            if not case.dropped and LEAK.search(case.answers[-1]):
                case.dropped = "a revision talks about the revision"
    return rows_of(cases)


def content(critique: str) -> bool:
    """Whether the critic found anything."""
    return bool(critique) and not critique.casefold().startswith(NOTHING.casefold().rstrip("."))


def accept(case: Case, answer: Answered, what: str) -> None:
    if not isinstance(answer, Reply):
        case.dropped = f"{what} did not come: {answer.reason}"
    elif not answer.text.strip():
        case.dropped = f"{what} is empty"
    elif answer.finish == "length":
        case.dropped = f"{what} is cut off"
    else:
        case.answers.append(answer.text.strip())


def rows_of(cases: Sequence[Case]) -> Rows:
    drops = Counter(case.dropped for case in cases if case.dropped)
    notes: Counter[str] = Counter()
    sft, pairs = [], []
    for case in cases:
        if case.dropped:
            continue
        prompt, first, last = list(case.prompt.messages), case.answers[0], case.answers[-1]
        more = {"principles": [p.name for p in case.principles], "origin": case.prompt.origin}
        sft.append({"messages": [*prompt, {"role": "assistant", "content": last}], **more})
        if last == first:
            criticised = any(content(critique) for critique in case.critiques)
            notes[
                "no pair: the answer came back unchanged" if criticised else "no pair: nothing to change"
            ] += 1
            continue
        pairs.append({"prompt": prompt, "chosen": said(last), "rejected": said(first), **more})
    return Rows(sft, pairs, drops, notes)


def labelled(
    writer: Ledger,
    judge: Ledger,
    prompts: Sequence[Prompt],
    constitution: Sequence[Principle],
    *,
    max_tokens: int = 512,
    judge_tokens: int = 512,
    temperature: float = 1.0,
    reason: bool = False,
    tie: float = 0.0,
    seed: int = 0,
    tell: Tell = lambda line: None,
) -> Rows:
    """Two answers to each prompt; a label within `tie` of one half is a tie and makes no pair."""
    asked = [answer_question(p, max_tokens, temperature, seed, i) for p in prompts for i in range(2)]
    answers = together(writer, asked, "answers", tell)
    cases, second = [], []
    for place, prompt in enumerate(prompts):
        case = Case(prompt, drawn(constitution, 1, seed, prompt.messages))
        accept(case, answers[2 * place], "an answer")
        if not case.dropped:
            accept(case, answers[2 * place + 1], "an answer")
        if not case.dropped and case.answers[0] == case.answers[1]:
            case.dropped = "both answers are the same"
        cases.append(case)
    live = [case for case in cases if not case.dropped]
    duels = [Duel(case.prompt.messages, *case.answers) for case in live]
    found = soft_labels(
        judge, duels, [case.principles[0] for case in live], reason=reason, max_tokens=judge_tokens
    )
    judge.require_all()
    tell(f"labels     {sum(isinstance(p, float) for p in found):,} of {len(found):,}")
    for case, chance in zip(live, found, strict=True):
        if isinstance(chance, Abstain):
            case.dropped = f"no label: {chance.reason}"
        elif abs(chance - 0.5) <= tie:
            case.dropped = "a tie"
        else:
            second.append(soft_pair(case, chance))
    return Rows([], second, Counter(case.dropped for case in cases if case.dropped), Counter())


def soft_pair(case: Case, chance: float) -> dict[str, Any]:
    """`probability` is that of chosen being the better one, always above one half."""
    better, worse = case.answers if chance > 0.5 else reversed(case.answers)
    return {
        "prompt": list(case.prompt.messages),
        "chosen": said(better),
        "rejected": said(worse),
        "probability": max(chance, 1 - chance),
        "principles": [case.principles[0].name],
        "origin": case.prompt.origin,
    }


def said(answer: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": answer}]


def answer_question(
    prompt: Prompt, max_tokens: int, temperature: float, seed: int, sample: int = 0
) -> Question:
    dice = int(die(seed, sample, transcript(prompt.messages))[:8], 16) >> 1
    return Question(tuple(prompt.messages), max_tokens, temperature, dice)


def together(ledger: Ledger, questions: Sequence[Question], what: str, tell: Tell) -> list[Answered]:
    """All answers of a stage. Where asking again may help, the run stops: nothing is dropped for a server's trouble."""
    before = ledger.asked
    answers = ledger.ask(questions)
    came = sum(isinstance(answer, Reply) for answer in answers)
    tell(f"{what:10} {came:,} of {len(answers):,}, {ledger.asked - before:,} asked now")
    ledger.require_all()
    return answers
