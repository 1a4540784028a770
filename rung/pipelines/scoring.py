"""Reward models at work: conversations in, verdicts out, batched, each model with its own tokenizer and template.

A text is always written down anew by the model that scores it. Ids of a policy's tokenizer never reach it, so a
reward model with another tokenizer gives the right score or none: a chat for a model without a chat template is
refused, a conversation that its template cannot write, or that is longer than its context, gets an Abstain.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch

from rung.batch import Example, collate
from rung.data.documents import Document, Encoder, answer_document
from rung.data.messages import says_something
from rung.data.pack import pack
from rung.data.rows import Messages, Side
from rung.data.steps import marks
from rung.data.tokens import token_policy
from rung.envs.options import split_options
from rung.errors import UserError
from rung.models.folder import check_vocabulary, read_config, read_generation_config
from rung.models.hub import load_tokenizer, resolve
from rung.models.scalar import ScalarModel, is_scalar, load_scalar
from rung.pipelines.setup import choose_device, choose_dtype
from rung.rewards.ensemble import Aggregate, Combine, aggregated, combined, standardised
from rung.rewards.reward_model import ModelReward
from rung.rewards.score import Abstain, Failure, Score, Verdict

AT_ONCE = 4096  # tokens of a forward, or one document if that is longer


@dataclass
class Member:
    """One reward model with what it writes conversations down with."""

    name: str
    model: ScalarModel
    encoder: Encoder
    device: torch.device

    @staticmethod
    def open(name: str, precision: str = "auto", device: str = "auto") -> Member:
        where = choose_device(device)
        folder = resolve(name)
        if (folder / "adapter_config.json").exists() or not is_scalar(folder):
            raise UserError(
                f"{name} is no reward model: its config.json names no sequence classification. Train one: "
                f"rung reward --model {name} --data PAIRS.jsonl"
            )
        model = load_scalar(folder, choose_dtype(precision, where), where).eval()
        tokenizer = load_tokenizer(name)
        check_vocabulary(tokenizer, read_config(folder))
        policy = token_policy(tokenizer, read_generation_config(folder) or None)
        return Member(name, model, Encoder(tokenizer, policy), where)

    @property
    def chats(self) -> bool:
        return bool(self.encoder.tokenizer.chat_template)

    def examples(self, answered: Sequence[tuple[Side, Side]]) -> list[Example | Abstain]:
        """Each prompt with its answer as this model reads it, or why it cannot."""
        wanted = [self.document(prompt, answer) for prompt, answer in answered]
        made = iter(self.encoder.examples([one for one in wanted if not isinstance(one, Abstain)]))
        return [one if isinstance(one, Abstain) else self.checked(next(made)) for one in wanted]

    def document(self, prompt: Side, answer: Side) -> Document | Abstain:
        if isinstance(answer, str) != isinstance(prompt, str):
            raise TypeError("prompt and answer are both texts or both messages")
        if isinstance(answer, str):
            return (
                answer_document(prompt, answer, "row") if answer.strip() else Abstain("the answer is empty")
            )
        if not answer or answer[-1]["role"] != "assistant" or not says_something(dict(answer[-1])):
            return Abstain("the conversation does not end in an answer that says something")
        return answer_document(prompt, tuple(dict(m) for m in answer), "row")

    def checked(self, made: list[Example] | UserError) -> Example | Abstain:
        if isinstance(made, UserError):
            return Abstain(f"{self.name} cannot read the conversation: {made}")
        context = self.model.trunk.config.context
        if (
            len(made[-1]) > context
        ):  # where a template rewrites history, the last context is that of the answer
            return Abstain(f"{len(made[-1])} tokens, and {self.name} reads {context}")
        return made[-1]

    @torch.no_grad()
    def values(self, examples: Sequence[Example]) -> list[np.ndarray]:
        """float32 values of all tokens of each document."""
        found: list[Any] = [None] * len(examples)
        lengths = [len(example) for example in examples]
        for rows in pack(lengths, max(AT_ONCE, *lengths)) if lengths else []:
            batch = collate([examples[row] for row in rows])
            parts = self.model(batch.to(self.device)).cpu().split(batch.lengths)
            for row, part in zip(rows, parts, strict=True):
                found[row] = part.numpy()
        return found

    def scores(self, answered: Sequence[tuple[Side, Side]], aggregate: Aggregate) -> list[float | Abstain]:
        """One number for each: a score, or of an outcome or process model a probability."""
        examples = self.examples(answered)
        values = iter(self.values([one for one in examples if isinstance(one, Example)]))
        return [
            one if isinstance(one, Abstain) else self.read(one, next(values), answer, aggregate)
            for one, (_, answer) in zip(examples, answered, strict=True)
        ]

    def read(
        self, example: Example, value_T: np.ndarray, answer: Side, aggregate: Aggregate
    ) -> float | Abstain:
        about = self.model.about
        if about.kind == "outcome":
            return sigmoid(value_T[-1])
        if about.kind != "process":
            return float(value_T[-1])
        text = answer if isinstance(answer, str) else str(answer[-1]["content"])
        try:
            places = marks(example, steps_of(text, about.step_end), about.step_end, self.encoder.tokenizer)
        except UserError as error:
            return Abstain(str(error))
        return aggregated([sigmoid(value_T[place]) for place in places], aggregate)


def sigmoid(value: float) -> float:
    return float(1 / (1 + np.exp(-np.float64(value))))


def steps_of(text: str, step_end: str) -> list[str]:
    """The parts of a text between the ends of steps; what ends in one has no empty last step."""
    return text.removesuffix(step_end).split(step_end)


@dataclass
class Scorer:
    """One reward model, or an ensemble of several."""

    members: list[Member]
    combine: Combine = "mean"
    weight: float = 1.0  # of disagreement, where combine is "uncertain"
    aggregate: Aggregate = "min"  # of a process model's steps

    def __post_init__(self) -> None:
        combined(np.zeros((1, 1)), self.combine, self.weight)
        aggregated([1.0], self.aggregate)
        kinds = {member.model.about.kind for member in self.members}
        if len(kinds) > 1:
            raise UserError(f"the members of an ensemble are of one kind, and these are {sorted(kinds)}.")
        unknown = [m.name for m in self.members if not m.model.about.deviation]
        if len(self.members) > 1 and kinds == {"pairs"} and unknown:
            raise UserError(
                f"{unknown[0]} does not know how its scores are spread, so they cannot be put beside another "
                "model's. Train it with held-out rows (--eval-share 0.1)."
            )

    @property
    def name(self) -> str:
        names = ", ".join(member.name for member in self.members)
        return names if len(self.members) == 1 else f"{self.combine} of {names}"

    @property
    def step_wise(self) -> bool:
        return self.members[0].model.about.kind == "process"

    @property
    def costly(self) -> bool:
        """Whether what it scores is harm: the higher, the worse."""
        return self.members[0].model.about.kind == "costs"

    def verdicts(self, answered: Sequence[tuple[Side, Side]]) -> list[Verdict]:
        """A Score for each prompt with its answer; an Abstain where a member cannot read it."""
        columns = [member.scores(answered, self.aggregate) for member in self.members]
        found: list[Verdict] = []
        for row in zip(*columns, strict=True):
            absent = next((score for score in row if isinstance(score, Abstain)), None)
            found.append(absent or self.verdict(cast(tuple[float, ...], row)))
        return found

    def verdict(self, row: Sequence[float]) -> Verdict:
        if not all(math.isfinite(score) for score in row):
            return Failure("invalid", f"{self.name} gave {list(row)}")
        if len(row) == 1:
            return Score(row[0])
        scores_KB = np.array(row)[:, None]
        if self.members[0].model.about.kind == "pairs":
            abouts = [member.model.about for member in self.members]
            scores_KB = standardised(scores_KB, [a.mean for a in abouts], [a.deviation for a in abouts])
        good = -1.0 if self.costly else 1.0  # the worst of costs is the highest, and their 0 stays
        total = good * float(combined(good * scores_KB, self.combine, self.weight)[0])
        return Score(total, {"disagreement": float(scores_KB.std())})

    def require_reward(self) -> None:
        """A higher score is a better answer."""
        if self.costly:
            raise UserError(
                f"{self.name} is a cost model: its highest scores are the most harmful answers, so it is no reward. It "
                "belongs to --cost.reward of rung ppo."
            )

    def require_chats(self) -> None:
        """Conversations can be put to every member."""
        for member in self.members:
            if not member.chats:
                raise UserError(
                    f"{member.name} has no chat template, so it cannot write conversations down in its own tokens. "
                    "Use a reward model trained on chats, or give its tokenizer a chat_template."
                )

    def reward(self) -> ModelReward:
        """As `rung rl` wants it."""
        self.require_chats()

        def score_all(conversations: Sequence[tuple[Any, Any]]) -> list[Verdict]:
            return self.verdicts([(as_messages(p), as_messages(f)) for p, f in conversations])

        return ModelReward(score_all)


def as_messages(messages: Iterable[Any]) -> Messages:
    return tuple(dict(message) for message in messages)


def open_scorer(
    names: Sequence[str], *, combine: Combine = "mean", weight: float = 1.0, aggregate: Aggregate = "min",
    precision: str = "auto", device: str = "auto",
) -> Scorer:  # fmt: skip
    if not names:
        raise UserError(
            "No reward model was named. Write --model RM, a folder that `rung reward` has written."
        )
    return Scorer([Member.open(name, precision, device) for name in names], combine, weight, aggregate)


def scorer_named(spec: str, device: str = "auto") -> Scorer:
    """`rm:A`, or `rm:A,B?combine=worst` for several: the models that score a run's answers."""
    head, options = split_options(spec.removeprefix("rm:"))
    strange = set(options) - {"combine", "weight", "aggregate"}
    if strange:
        raise UserError(
            f"{spec}: there is no option {strange.pop()!r}; there are combine, weight and aggregate."
        )
    try:
        weight = float(options.pop("weight", 1.0))
    except ValueError:
        raise UserError(f"{spec}: weight is no number; write for example weight=0.5.") from None
    given = cast(dict[str, Any], options)
    return open_scorer(head.split(","), weight=weight, device=device, **given)
