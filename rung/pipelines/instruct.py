"""Self-Instruct: a handful of tasks becomes many, written and answered by a model (arXiv 2212.10560).

    8 tasks as examples (6 of the seeds, 2 of those made) -> new tasks -> filters -> into the pool -> ... -> answers

A task is dropped where its ROUGE-L with any task of the pool is 0.7 or more, where it is too short or too long, speaks
of what text cannot hold (images, files), or begins with a mark. From the paper: a chat model is asked for a numbered
list and answers each task directly; whether a task is classification, and its inputs, are not asked for apart.
Several lists are asked for at once and read in order, so a run is a function of its seed and its model's answers.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rung.data.grams import words_of
from rung.data.similarity import Pool
from rung.rewards.asking import Answered, Ledger, Question, Reply, user

EXAMPLES, FROM_SEEDS, LIST = 8, 6, 8  # tasks shown, of these seeds, new tasks asked for in a list
FEWEST_WORDS, MOST_WORDS = 4, 150
SIMILAR = 0.7
PATIENCE = 5  # rounds without one new task, after which the model has no more to say
UNFIT = re.compile(
    r"\b(images?|pictures?|photos?|graphs?|plots?|diagrams?|draw|videos?|audio|music|files?|attached|map|link|website)\b",
    re.IGNORECASE,
)
ITEM = re.compile(r"^\s*(?:\d+\s*[.):]|[-*\u2022])\s+(.*\S)", re.MULTILINE)
REFUSAL = re.compile(r"\b(sorry|as an ai|i cannot|i can't|unable to)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Made:
    """Rows, and how often each reason dropped a task or an answer. `wanted` is how many rows were asked for."""

    rows: list[dict[str, Any]]
    drops: Counter[str]
    wanted: int


def self_instruct(
    ledger: Ledger,
    seeds: Sequence[str],
    count: int,
    *,
    max_tokens: int = 512,
    temperature: float = 0.7,
    lists: int = 4,
    similar: float = SIMILAR,
    seed: int = 0,
    tell: Callable[[str], None] = lambda line: None,
) -> Made:
    """`count` new tasks with their answers, or fewer where the model has no more to say."""
    pool, drops = Pool(similar), Counter[str]()
    for task in seeds:
        pool.admit(task)
    dice = random.Random(seed)
    tasks: list[str] = []
    idle = 0
    while len(tasks) < count and idle < PATIENCE:
        asked = [list_question(seeds, tasks, dice, max_tokens, temperature) for _ in range(lists)]
        before = len(tasks)
        for answer in ledger.ask(asked):
            for task in listed(answer, drops):
                reason = unfit(task) or ("" if pool.admit(task) else "like another task")
                if reason:
                    drops[reason] += 1
                elif len(tasks) < count:
                    tasks.append(task)
        ledger.require_all()
        idle = idle + 1 if len(tasks) == before else 0
        tell(f"tasks      {len(tasks):,} of {count:,}, {ledger.asked:,} questions asked now")
    answers = ledger.ask([Question((user(task),), max_tokens) for task in tasks])
    ledger.require_all()
    rows = [
        row for task, answer in zip(tasks, answers, strict=True) if (row := answered(task, answer, drops))
    ]
    return Made([{**row, "source": "self-instruct"} for row in rows], drops, count)


def list_question(
    seeds: Sequence[str], made: Sequence[str], dice: random.Random, max_tokens: int, temperature: float
) -> Question:
    """Asks for new tasks, after examples in random order; at first all of them are seeds."""
    own = dice.sample(list(made), min(EXAMPLES - FROM_SEEDS, len(made)))
    shown = dice.sample(list(seeds), min(EXAMPLES - len(own), len(seeds))) + own
    dice.shuffle(shown)
    examples = "\n".join(f"{i}. {' '.join(task.split())}" for i, task in enumerate(shown, 1))
    told = (
        f"These are tasks for an assistant that reads and writes text:\n{examples}\n\nWrite {LIST} new tasks as a "
        "numbered list. They should differ from these and from each other in topic, in what is to be done and in form. "
        "Each is complete by itself, with any text it is about. Write nothing but the list."
    )
    return Question((user(told),), max_tokens, temperature, dice.randrange(1 << 31))


def listed(answer: Answered, drops: Counter[str]) -> list[str]:
    """The items of a list; the last of a list that was cut off is no whole task."""
    if not isinstance(answer, Reply):
        if not answer.again:
            drops[f"no list: {answer.reason}"] += 1
        return []
    items = ITEM.findall(answer.text)
    if not items:
        drops["a reply without a list"] += 1
    if items and answer.finish == "length":
        drops["a task that is cut off"] += 1
        items = items[:-1]
    return items


def unfit(task: str) -> str:
    """Why it is no task, or nothing."""
    words = words_of(task)
    if len(words) < FEWEST_WORDS:
        return "a task too short"
    if len(words) > MOST_WORDS:
        return "a task too long"
    if not task[0].isalnum():
        return "a task that begins with a mark"
    return "a task text cannot hold" if UNFIT.search(task) else ""


def answered(task: str, answer: Answered, drops: Counter[str]) -> dict[str, Any] | None:
    """A row to train on, or a reason counted: no answer, cut off, a refusal in a few words, nothing said."""
    if not isinstance(answer, Reply):
        reason = f"no answer: {answer.reason}"
    elif answer.finish == "length":
        reason = "an answer that is cut off"
    elif not words_of(answer.text):
        reason = "an answer that says nothing"
    elif REFUSAL.search(answer.text) and len(words_of(answer.text)) < 80:
        reason = "a refusal"
    else:
        return {"messages": [user(task), {"role": "assistant", "content": answer.text.strip()}]}
    drops[reason] += 1
    return None
