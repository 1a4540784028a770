"""Pairs from the policy's own answers: who wins, what a tie is, which pairs make optimizer step i.

A round is played and graded as in reinforcement learning. Of the answers to a prompt the best and the worst are the
pair; it is kept with the rollouts as an advantage of 1 and -1, so the files of a run say what was learned from. Where
they tie, or fewer than two answers got a score, the prompt is skipped and counted.

A round without any pair makes no step: the next one is played in its place. So which round a step learns from
follows from the rounds on disk and from nothing else, and a killed run goes on where its checkpoint stands.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from rung.batch import Batch, Pair, collate_pairs, pair_tokens, prediction_sites
from rung.data.pack import pack
from rung.errors import RunStopped
from rung.methods.preference import REFERENCE
from rung.rewards.score import Score
from rung.rollouts.columns import Graded
from rung.sources.experience import ExperienceSource, example

PATIENCE = 20  # rounds in a row without a pair, after which something is wrong


@dataclass
class PairSource(ExperienceSource):
    """`began_at(position)` is called before the first step on the round in that position among those with pairs."""

    reference: Callable[[Batch], Tensor] | None = None  # log-probs of a batch's trained tokens, float32 [M]
    began_at: Callable[[int], None] = lambda position: None
    tell: Callable[[str], None] = lambda line: None
    _with_pairs: list[int] | None = field(default=None, repr=False)  # those rounds, in order
    _played: int = field(default=-1, repr=False)  # the last round played

    def resume(self, step: int) -> None:
        """Forget the rounds that a checkpoint after `step` steps has not begun."""
        begun, last = -(-step // self.updates), -1
        for round in self.store.rounds():
            if begun == 0:
                break
            if counts(self.store.read(round))["pairs"]:
                begun, last = begun - 1, round
        self.store.discard_after(last)

    def step(self, step: int) -> list[Batch]:
        position, update = divmod(step, self.updates)
        round = self._round_at(position, step)
        graded = self._round(round, step)
        self._place = (round, update)
        if update == 0:
            self.began_at(position)
        pairs = self._share_of(pairs_of(graded), round, update)
        tokens = [pair_tokens(pair) for pair in pairs]
        bins = pack(tokens, max(self.micro_tokens, *tokens))[self.rank :: self.world]
        return [self._measured(collate_pairs([pairs[i] for i in sorted(members)])) for members in bins]

    def _round_at(self, position: int, step: int) -> int:
        """The round with pairs in this position; where there are too few yet, more are played."""
        if self._with_pairs is None:
            there = self.store.rounds()
            self._with_pairs = [round for round in there if counts(self.store.read(round))["pairs"]]
            self._played = max(there, default=-1)
        skipped = 0
        while len(self._with_pairs) <= position:
            self._played += 1
            found = counts(self._round(self._played, step))
            if found["pairs"]:
                self._with_pairs.append(self._played)
                self._metrics = self._metrics | {"skipped_rounds": float(skipped)}
                break
            skipped += 1
            said = f"{found['ties']:.0f} ties and {found['unjudged']:.0f} prompts with fewer than two scores"
            self.tell(f"round {self._played} has no pair to learn from ({said}); it is skipped")
            if skipped == PATIENCE:
                raise RunStopped(
                    f"{PATIENCE} rounds in a row had no pair to learn from, the last {said}. The policy's answers to a "
                    "prompt are alike, or the reward cannot tell them apart. Raise --temperature or --group, or "
                    "choose other tasks or another reward.",
                    1,
                )
        return self._with_pairs[position]

    def _share_of(self, pairs: list[Pair], round: int, update: int) -> list[Pair]:
        """The pairs of this update: a fair share of a shuffle, a new one each epoch; too few of them are repeated."""
        per_epoch = max(self.updates // self.epochs, 1)
        if per_epoch == 1:
            return pairs
        epoch, part = divmod(update, per_epoch)
        order = np.random.default_rng((self.seed, round, epoch)).permutation(len(pairs))
        order = np.resize(order, max(len(order), per_epoch))
        return [pairs[i] for i in sorted(np.array_split(order, per_epoch)[part])]

    def _measured(self, batch: Batch) -> Batch:
        """The batch with the reference's log-probs.

        Scored in the very micro-batch that the policy will score: where the two are the same weights, every
        log-ratio is exactly 0.
        """
        if self.reference is None:
            return batch
        column_N = torch.zeros(len(batch.token_ids_N))
        column_N[prediction_sites(batch)[1]] = self.reference(batch)
        return replace(batch, columns={**batch.columns, REFERENCE: column_N})


def paired(graded: Sequence[Graded], tie: float = 0.0, missing_end_penalty: float = 0.0) -> list[Graded]:
    """The round with 1 for the best of each group, -1 for the worst and 0 for all others; of a tie, 0 for all."""
    mark = np.zeros(len(graded), np.float32)
    for members in groups(graded):
        scored = [i for i in members if isinstance(graded[i].verdict, Score)]
        value = {i: worth(graded[i], missing_end_penalty) for i in scored}
        if len(scored) < 2:
            continue
        best, worst = max(scored, key=lambda i: value[i]), min(scored, key=lambda i: value[i])
        alike = np.array_equal(graded[best].rollout.token_ids, graded[worst].rollout.token_ids)
        if value[best] - value[worst] > tie and not alike:
            mark[best], mark[worst] = 1, -1
    return [
        replace(
            record,
            advantage=mark[i] * record.rollout.by_model.astype(np.float32),
            weight=abs(mark[i]) * record.rollout.by_model.astype(np.float32),
        )
        for i, record in enumerate(graded)
    ]


def worth(record: Graded, missing_end_penalty: float) -> float:
    assert isinstance(record.verdict, Score)
    return record.verdict.value - missing_end_penalty * (record.rollout.finish == "length")


def pairs_of(graded: Sequence[Graded]) -> list[Pair]:
    """The pairs of a round as it was kept."""
    found = []
    for members in groups(graded):
        side = {mark_of(graded[i]): document(graded[i]) for i in members if mark_of(graded[i])}
        if side:
            found.append(Pair(side[1], side[-1]))
    return found


def counts(graded: Sequence[Graded]) -> dict[str, float]:
    """How many prompts of a round made a pair, how many were ties, how many had fewer than two scores."""
    found = {"pairs": 0.0, "ties": 0.0, "unjudged": 0.0}
    for members in groups(graded):
        scored = sum(isinstance(graded[i].verdict, Score) for i in members)
        made = any(mark_of(graded[i]) for i in members)
        found["pairs" if made else "unjudged" if scored < 2 else "ties"] += 1
    return found


def groups(graded: Sequence[Graded]) -> list[list[int]]:
    found: dict[int, list[int]] = {}
    for i, record in enumerate(graded):
        found.setdefault(record.rollout.group, []).append(i)
    return list(found.values())


def mark_of(record: Graded) -> int:
    return int(np.sign(record.advantage.sum()))


def document(record: Graded):
    """The rollout as a document without columns: a preference loss reads none of the sampler's."""
    return replace(example(record), columns={})
