"""Evol-Instruct: tasks made harder, or into others, round by round (WizardLM, arXiv 2304.12244).

    in depth    add a constraint, ask deeper, make concrete, ask for more steps of reasoning, give data to work on
    in breadth  another task of the same kind, rarer than this one

In every round each task evolves by one drawn operation. It is eliminated, and its parent stays in its place for the
next round, where the child says the same as the parent (the model is asked), is like a task that is there, repeats
words of the order that made it, or has no answer worth keeping (a refusal in under 80 words, or only marks). Rows are
all evolved tasks of all rounds with their answers. From the paper: its order prompts are not used, the six operations
are worded by us; likeness to other tasks (ROUGE-L) is our addition.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from rung.data.grams import words_of
from rung.data.similarity import Pool
from rung.pipelines.instruct import MOST_WORDS, Made, answered
from rung.rewards.asking import Answered, Ledger, Question, Reply, user
from rung.rewards.constitution import die
from rung.rewards.judge import fenced

OPERATIONS = {
    "constrain": "Add one more requirement that an answer has to meet.",
    "deepen": "Ask for more depth about its subject: reasons, consequences or exceptions.",
    "concretise": "Replace what is general in it by something specific.",
    "reason": "Change it so that solving it takes several steps of reasoning where one was enough.",
    "data": "Add a small table, text, code or formula that the task is to be solved with.",
    "broaden": "Write a different task of the same field, about something rarer, as long and as hard as this one.",
}
ORDER = re.compile(
    r"\b(given|original|rewritten|new|evolved|#+\s*\w+)\s+(prompt|task)\b|</?task>", re.IGNORECASE
)
SAME = re.compile(r"\b(same|different)\b", re.IGNORECASE)


def evol_instruct(
    ledger: Ledger,
    seeds: Sequence[str],
    rounds: int,
    *,
    max_tokens: int = 512,
    temperature: float = 0.7,
    similar: float = 0.9,
    seed: int = 0,
    tell: Callable[[str], None] = lambda line: None,
) -> Made:
    """At most `rounds` rows for every seed."""
    pool, drops = Pool(similar), Counter[str]()
    rows: list[dict[str, Any]] = []
    tasks = [task for task in seeds if pool.admit(task)]
    drops["a seed like another"] += len(seeds) - len(tasks)
    for turn in range(rounds):
        drawn = [operation(task, turn, seed) for task in tasks]
        asked = [
            evolution_question(t, name, max_tokens, temperature, seed)
            for t, name in zip(tasks, drawn, strict=True)
        ]
        children = [child_of(answer, drops) for answer in ledger.ask(asked)]
        ledger.require_all()
        news = [i for i, child in enumerate(children) if child]
        told = ledger.ask([difference_question(tasks[i], children[i]) for i in news])
        ledger.require_all()
        fresh = [i for i, answer in zip(news, told, strict=True) if gains(answer, drops)]
        asked = [Question((user(children[i]),), max_tokens) for i in fresh]
        for i, answer in zip(fresh, ledger.ask(asked), strict=True):
            row = answered(children[i], answer, drops)
            if row is None:
                continue
            if not pool.admit(children[i]):
                drops["like another task"] += 1
                continue
            more = {"source": "evol-instruct", "operation": drawn[i], "round": turn + 1, "parent": tasks[i]}
            rows.append({**row, **more})
            tasks[i] = children[i]
        ledger.require_all()
        tell(f"round {turn + 1}    {len(rows):,} rows, {ledger.asked:,} questions asked now")
    return Made(rows, +drops, rounds * len(seeds))


def operation(task: str, turn: int, seed: int) -> str:
    """Drawn evenly for each task and round, the same whatever the other tasks are."""
    return list(OPERATIONS)[int(die(seed, turn, task)[:8], 16) % len(OPERATIONS)]


def evolution_question(task: str, name: str, max_tokens: int, temperature: float, seed: int) -> Question:
    length = "" if name == "broaden" else " Add 10 to 20 words at most."
    told = (
        f"Below is a task for an assistant that reads and writes text. {OPERATIONS[name]}{length} It must stay "
        "understandable and answerable by itself. Write only the task that results, and do not solve it.\n\n"
        f"{fenced('task', task)}"
    )
    return Question((user(told),), max_tokens, temperature, int(die(seed, name, task)[:8], 16) >> 1)


def child_of(answer: Answered, drops: Counter[str]) -> str:
    """The evolved task; empty where there is none worth a look."""
    if not isinstance(answer, Reply):
        if not answer.again:
            drops[f"no task: {answer.reason}"] += 1
        return ""
    child = answer.text.strip()
    if answer.finish == "length" or len(words_of(child)) > 2 * MOST_WORDS:
        reason = "a task too long"
    elif len(words_of(child)) < 3:
        reason = "a task too short"
    elif ORDER.search(child):
        reason = "a task that repeats the order"
    else:
        return child
    drops[reason] += 1
    return ""


def difference_question(parent: str, child: str) -> Question:
    told = (
        "Do these two tasks ask for the same, with the same requirements, depth and breadth? Reply with one word: same "
        f"or different.\n\n{fenced('task', parent)}\n\n{fenced('task', child)}"
    )
    return Question((user(told),), 16)


def gains(answer: Answered, drops: Counter[str]) -> bool:
    """Whether the child asks for something else. What cannot be read as either is not taken for a gain."""
    if not isinstance(answer, Reply):
        if not answer.again:
            drops[f"not compared: {answer.reason}"] += 1
        return False
    said = {word.lower() for word in SAME.findall(answer.text)}
    if said == {"different"}:
        return True
    drops["the same as its parent" if said == {"same"} else "not compared: neither same nor different"] += 1
    return False
