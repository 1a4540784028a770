"""Budget forcing: thinking of at most a set length, by force (s1, arXiv 2501.19393).

The model thinks until it writes </think> or the budget is spent; then </think> is written for it, and it must
answer. What was written for it stays in the answer and is not counted as its tokens. Only the upper bound of
s1: a thought that ends early is not made longer by "Wait".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rung.data.tokens import encode_continuations
from rung.envs.environment import Task
from rung.errors import UserError
from rung.rollouts.episodes import Theatre
from rung.rollouts.request import Completion

END = "</think>"
FORCED = f"\n{END}\n\n"


@dataclass(frozen=True)
class Part:
    """A thought or an answer being sampled."""

    completion: Completion
    which: int
    thinking: bool
    before: tuple[int, ...] = ()  # tokens after the prompt that came before it: the thought
    written: int = 0  # by the model, among them


def with_budget(
    theatre: Theatre,
    asks: Sequence[tuple[Task, int]],
    budget: int,
    ended: Callable[[int, dict[str, Any]], None],
) -> None:
    """At most `budget` tokens of thinking, then at most `max_tokens` of answer. With 0 there is no thought."""
    if theatre.environment.reply is not None:
        raise UserError(f"{theatre.environment.name} has several turns, and a thinking budget is for one")
    engine, sampling = theatre.engine, theatre.sampling
    [forced] = encode_continuations(theatre.tokenizer, [FORCED])
    prompts = [ids for _, ids in theatre.prompts([task for task, _ in asks])]
    under_way: dict[int, Part] = {}

    def think(which: int) -> None:
        limit = min(budget, theatre.max_length - len(prompts[which]))
        stops = (*sampling.stop_strings, END)
        asked = replace(sampling, seed=asks[which][1], max_tokens=limit, stop_strings=stops)
        put(Part(engine.submit(prompts[which], asked), which, True))

    def answer(which: int, thought: list[int], written: int) -> None:
        left = theatre.max_length - len(prompts[which]) - len(thought)
        if left < 1:
            end(which, thought, written, "length")
            return
        limit = min(sampling.max_tokens, left)
        asked = replace(sampling, seed=asks[which][1] + (1 << 48), max_tokens=limit)
        completion = engine.submit([*prompts[which], *thought], asked)
        put(Part(completion, which, False, tuple(thought), written))

    def put(part: Part) -> None:
        under_way[id(part.completion)] = part

    def end(which: int, ids: Sequence[int], written: int, finish: str) -> None:
        said = text(ids)
        message = {"role": "assistant", "content": said}
        parts = {"answer": said, "token_ids": ids, "finish": finish, "tokens": written}
        ended(which, parts | {"messages": (message,)})

    def text(ids: Sequence[int]) -> str:
        return str(theatre.tokenizer.decode(list(ids), skip_special_tokens=True))

    for which in range(len(asks)):
        think(which) if budget else answer(which, forced, 0)
    while engine.busy:
        for turn in engine.step():
            part, ids = under_way.pop(id(turn)), list(turn.token_ids)
            if not part.thinking:
                end(part.which, [*part.before, *ids], part.written + len(ids), turn.finish)
            elif END in text(ids):
                answer(part.which, ids, len(ids))
            elif turn.finish == "length":
                answer(part.which, [*ids, *forced], len(ids))
            else:  # it ended its turn without ending a thought
                end(part.which, ids, len(ids), turn.finish)
