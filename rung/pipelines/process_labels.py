"""Labels for steps without a person: how often does a solution come out right if it is finished from here?

For each beginning of a solution up to the end of step i a completer writes n endings, and the task's verifier
judges each. The estimate of the step is the share that is right (soft), or whether any is (hard); of the last
step it is the verdict on the solution itself (Math-Shepherd, 2312.08935).

Such labels are values of a policy, not truths about a step: a wrong step that the completer repairs is called
good (2501.07301). A verifier that fails or abstains is no evidence; a step about which nothing is known drops its
solution, which is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from rung.data.tokens import TokenPolicy, encode_continuations
from rung.envs.environment import Environment, Task
from rung.errors import UserError
from rung.rewards.score import Attempt, Score, Verdict
from rung.rollouts.engine import sample_seed
from rung.rollouts.request import Completion, Sampling

RIGHT = 1.0  # the score from which an answer is right


@dataclass(frozen=True)
class Ending:
    text: str
    truncated: bool = False


@dataclass(frozen=True)
class Judged:
    """A solution in steps with the share of right endings from each; None where no ending could be judged."""

    task: Task
    steps: tuple[str, ...]
    shares: tuple[float | None, ...]

    @property
    def complete(self) -> bool:
        return all(share is not None for share in self.shares)

    def row(self, estimate: Literal["hard", "soft"]) -> dict[str, Any]:
        """As `rung reward --kind process` reads it; both estimates are kept."""
        shares = [share for share in self.shares if share is not None]
        labels = shares if estimate == "soft" else [share > 0 for share in shares]
        prompt = [dict(message) for message in self.task.messages]
        return {
            "prompt": prompt, "completions": list(self.steps), "labels": labels, "shares": shares, "task": self.task.key,
        }  # fmt: skip


Judge = Callable[[Sequence[Attempt]], list[Verdict]]


class Completer(Protocol):
    def __call__(self, tasks: Sequence[Task], starts: Sequence[str], n: int, seed: int) -> list[list[Ending]]:
        """n endings of each task's answer after its start, which may be empty."""
        ...


def judge_steps(
    solutions: Sequence[tuple[Task, Ending]],
    complete: Completer,
    judge: Judge,
    *,
    step_end: str,
    n: int,
    seed: int = 0,
) -> list[Judged]:
    """Every solution with an estimate of each of its steps."""
    split = [(task, steps_of(solution.text, step_end)) for task, solution in solutions]
    places = [(s, i) for s, (_, steps) in enumerate(split) for i in range(len(steps) - 1)]
    starts = [step_end.join(split[s][1][: i + 1]) + step_end for s, i in places]
    endings = complete([split[s][0] for s, _ in places], starts, n, seed)
    attempts = [attempt(task, solution) for task, solution in solutions]
    for (s, _), start, many in zip(places, starts, endings, strict=True):
        attempts += [attempt(split[s][0], Ending(start + each.text, each.truncated)) for each in many]
    verdicts = iter(judge(attempts))
    last = [share_right([next(verdicts)]) for _ in solutions]
    shares: dict[tuple[int, int], float | None] = {
        place: share_right([next(verdicts) for _ in many])
        for place, many in zip(places, endings, strict=True)
    }
    return [
        Judged(task, tuple(steps), (*(shares[s, i] for i in range(len(steps) - 1)), last[s]))
        for s, (task, steps) in enumerate(split)
    ]


def steps_of(text: str, step_end: str) -> list[str]:
    """The steps that say something, without what ends them."""
    return [step for step in text.split(step_end) if step.strip()]


def attempt(task: Task, answer: Ending) -> Attempt:
    message = {"role": "assistant", "content": answer.text}
    return Attempt(
        task.messages, answer.text, task.reference, truncated=answer.truncated, messages=(message,), task=task.key,
        extra=task.extra,
    )  # fmt: skip


def share_right(verdicts: Sequence[Verdict]) -> float | None:
    known = [verdict.value >= RIGHT for verdict in verdicts if isinstance(verdict, Score)]
    return sum(known) / len(known) if known else None


@dataclass
class PolicyCompleter:
    """A policy that answers tasks, and goes on from answers that are begun."""

    sampler: Any  # rollouts.request.Stepped
    tokenizer: Any
    policy: TokenPolicy
    sampling: Sampling
    environment: Environment

    def __post_init__(self) -> None:
        if self.environment.reply is not None:
            raise UserError(
                f"{self.environment.name} has turns of its own, and steps are parts of one answer. Take an "
                "environment of one turn."
            )
        if not self.tokenizer.chat_template:
            raise UserError(
                "the model has no chat template, so tasks cannot be put to it. Take a chat model."
            )
        self.sampling = replace(self.sampling, stop_ids=(*self.policy.stop_ids, *self.sampling.stop_ids))

    def __call__(self, tasks: Sequence[Task], starts: Sequence[str], n: int, seed: int) -> list[list[Ending]]:
        begun = encode_continuations(self.tokenizer, [start or "x" for start in starts]) if starts else []
        asked: list[list[Completion]] = []
        for place, (task, start, ids) in enumerate(zip(tasks, starts, begun, strict=True)):
            prompt = self.tokenizer.apply_chat_template(
                [dict(m) for m in task.messages], add_generation_prompt=True, return_dict=False
            )
            whole = [*prompt, *(ids if start else [])]
            room = min(self.sampling.max_tokens, self.sampler.context - len(whole))
            if room < 1:
                raise UserError(
                    f"task {task.key} leaves no room for an answer in {self.sampler.context} tokens."
                )
            dice = [
                replace(self.sampling, max_tokens=room, seed=sample_seed(seed, place, j)) for j in range(n)
            ]
            asked.append([self.sampler.submit(whole, sampling) for sampling in dice])
        while self.sampler.busy:
            self.sampler.step()
        return [[self.ending(completion) for completion in many] for many in asked]

    def ending(self, completion: Completion) -> Ending:
        text = self.tokenizer.decode(completion.token_ids, skip_special_tokens=True)
        return Ending(str(text), completion.finish == "length")
