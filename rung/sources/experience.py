"""Experience as a source: which rollouts make optimizer step i, and how they lie in micro-batches.

A round is collected once, with the weights as they are when its first step begins, kept on disk, and then
feeds `updates` steps. With one update a round the policy that learns is the one that sampled, to the bit, and no
old log-probs are needed. A step is a function of its number and of the rounds on disk, so a run that was killed
goes on where its checkpoint stands: rounds that the checkpoint has not begun are collected again.

Rollouts of one prompt lie in the batch as branches of one trunk, so the prompt is computed once for all. Where
credit is all the loss reads, rollouts without any are not computed at all: their gradient is 0, and they only count.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np

from rung.batch import Batch, Example, collate
from rung.rollouts.columns import OF_CREDIT, Graded
from rung.rollouts.store import RolloutStore

Metrics = dict[str, float]


@dataclass
class ExperienceSource:
    """`collect(round)` samples with the weights of the moment; `began(round)` sees each round once collected.

    With `cut_short` a round may end before its `updates` are done; its remaining steps go to rounds after it.

    `staleness` s > 0 collects ahead: round r is sampled, in a thread of its own, with the weights that had seen
    rounds 0 to r - s - 1; `freeze(step)` is called on the training thread when those weights are there, to take
    their copy, `step` being the updates they have seen.
    """

    collect: Callable[[int], list[Graded]]
    store: RolloutStore
    updates: int = 1  # optimizer steps of a round
    epochs: int = 1  # times a round's rollouts are gone through in them
    micro_tokens: int = 4096
    share_prompts: bool = True
    credit_alone: bool = False  # the loss of a rollout whose credit is 0 is 0, whatever the policy says of it
    seed: int = 0
    rank: int = 0
    world: int = 1
    rounds: int = 0  # of the whole run: nothing is collected beyond
    staleness: int = 0
    freeze: Callable[[int], None] = lambda step: None
    began: Callable[[int, list[Graded]], Metrics] = lambda round, graded: {}
    cut_short: Callable[[], bool] | None = None  # whether the step just done moved the policy far enough
    starts: list[int] = field(default_factory=list)  # where rounds can be cut short, the step each began with
    _place: tuple[int, int] = field(default=(0, 0), repr=False)
    _current: tuple[int, list[Graded]] = field(default=(-1, []), repr=False)
    _metrics: Metrics = field(default_factory=dict, repr=False)
    _ahead: dict[int, Future[list[Graded]]] = field(default_factory=dict, repr=False)
    _thread: ThreadPoolExecutor | None = field(default=None, repr=False)

    def resume(self, step: int) -> None:
        """Forget the rounds that a checkpoint after `step` steps has not begun, as if they had never been."""
        if self.cut_short is not None:
            self.starts = [start for start in self.starts if start < step]
            self.store.discard_after(len(self.starts) - 1)
        else:
            self.store.discard_after((step - 1) // self.updates if step else -1)

    def place(self, step: int) -> tuple[int, int]:
        """The round of a step, and which of its updates the step is. Steps come in order where rounds are cut."""
        if self.cut_short is None:
            return divmod(step, self.updates)
        done = step - self.starts[-1] if self.starts else self.updates
        if done >= self.updates or (done > 0 and self.cut_short()):
            self.starts.append(step)
        return len(self.starts) - 1, step - self.starts[-1]

    def step(self, step: int) -> list[Batch]:
        round, update = self._place = self.place(step)
        graded = self._round(round, step)
        groups = self._share(graded, round, update)
        left_out = (0.0, 0)
        if self.credit_alone:
            groups, left_out = with_credit(groups)
        bins = self._bins(groups)
        batches = [collate_groups(bin, self.share_prompts) for bin in bins[self.rank :: self.world]]
        if left_out[1] and self.rank == 0:  # counted once, with the first
            batches[0] = replace(batches[0], left_out=left_out)
        return batches

    def metrics(self, step: int) -> Metrics:
        """What the round was like, logged with its first step."""
        round, update = self._place
        return self._metrics | {"round": round} if update == 0 else {}

    def close(self) -> None:
        if self._thread is not None:
            self._thread.shutdown(wait=True, cancel_futures=True)

    # -- rounds --------------------------------------------------------------------------------------------

    def _round(self, round: int, step: int) -> list[Graded]:
        if self._current[0] != round:
            graded = self._collected(round, step) if self.staleness else self._now(round, step)
            self._metrics = self.began(round, graded)
            self._current = (round, graded)
        return self._current[1]

    def _now(self, round: int, step: int) -> list[Graded]:
        if round in self.store.rounds():
            return self.store.read(round)
        self.freeze(step)
        return self._keep(round)

    def _keep(self, round: int) -> list[Graded]:
        graded = self.collect(round)
        if self.rank == 0:
            self.store.write(round, graded)
        return graded

    def _collected(self, round: int, step: int) -> list[Graded]:
        """Round `round`, after setting off the one that the weights of this moment are for."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "rollouts")
        known = set(self.store.rounds())
        for later in range(round, min(round + self.staleness + 1, self.rounds or round + 1)):
            if later not in known and later not in self._ahead:
                self._wait()  # one set of frozen weights: what is being sampled with them goes first
                self.freeze(step)
                self._ahead[later] = self._thread.submit(self._keep, later)
        future = self._ahead.pop(round, None)
        return future.result() if future is not None else self.store.read(round)

    def _wait(self) -> None:
        for future in self._ahead.values():
            future.result()

    # -- layout --------------------------------------------------------------------------------------------

    def _share(self, graded: list[Graded], round: int, update: int) -> list[list[Graded]]:
        """The groups of this update: a fair share of a shuffle, a new one each epoch."""
        by_group: dict[int, list[Graded]] = {}
        for record in graded:
            if record.weight is None or record.weight.any():
                by_group.setdefault(record.rollout.group, []).append(record)
        groups = list(by_group.values())
        per_epoch = max(self.updates // self.epochs, 1)
        if per_epoch == 1:
            return groups
        epoch, part = divmod(update, per_epoch)
        order = np.random.default_rng((self.seed, round, epoch)).permutation(len(groups))
        if len(groups) < per_epoch:  # too few groups for as many updates: rollouts are shared out instead
            records = [record for group in groups for record in group]
            records += _without_credit(graded, per_epoch - len(records))
            order = np.random.default_rng((self.seed, round, epoch)).permutation(len(records))
            return [[records[i]] for i in np.array_split(order, per_epoch)[part]]
        return [groups[i] for i in sorted(np.array_split(order, per_epoch)[part])]

    def _bins(self, groups: Sequence[list[Graded]]) -> list[list[list[Graded]]]:
        """Groups, cut where one is too large, in micro-batches of at most `micro_tokens` tokens, in order."""
        bins: list[list[list[Graded]]] = []
        room = -1
        for group in groups:
            prompt = len(group[0].rollout.prompt_ids)
            piece: list[Graded] = []
            for record in group:
                need = len(record.rollout) + (0 if piece and self.share_prompts else prompt)
                if need > room:
                    bins.append([])
                    piece, room = [], self.micro_tokens
                    need = len(record.rollout) + prompt
                if not piece:
                    bins[-1].append(piece)
                piece.append(record)
                room -= need
        return bins


def _without_credit(graded: Sequence[Graded], count: int) -> list[Graded]:
    """Rollouts that were left out, to stand in updates that would have none: their advantage is 0."""
    left_out = [record for record in graded if record.weight is not None and not record.weight.any()]
    return [
        replace(record, advantage=np.zeros_like(record.advantage), weight=np.ones_like(record.advantage))
        for record in left_out[: max(count, 0)]
    ]


def with_credit(groups: Sequence[list[Graded]]) -> tuple[list[list[Graded]], tuple[float, int]]:
    """The rollouts with credit, and of the others their tokens by weight and their number.

    Where none has any, the shortest stays: a step has something to compute, and its gradient is 0.
    """
    kept: list[list[Graded]] = []
    rest: list[Graded] = []
    for group in groups:
        mine: list[Graded] = []
        for record in group:
            (mine if credited(record) else rest).append(record)
        kept += [mine] if mine else []
    if not kept:
        rest.sort(key=lambda record: len(record.rollout))
        kept = [[rest.pop(0)]]
    return kept, (sum(weight_of(record) for record in rest), len(rest))


def credited(record: Graded) -> bool:
    credit = record.advantage if record.weight is None else record.advantage * record.weight
    return bool(credit[record.rollout.by_model].any())


def weight_of(record: Graded) -> float:
    """Tokens of the model's own, by weight."""
    mine = record.rollout.by_model
    return float(mine.sum() if record.weight is None else record.weight[mine].sum())


def collate_groups(groups: Sequence[Sequence[Graded]], share_prompts: bool) -> Batch:
    """The rollouts of some groups as one micro-batch."""
    examples = [example(record) for group in groups for record in group]
    return collate(examples, [len(group) for group in groups] if share_prompts else None)


def example(record: Graded) -> Example:
    """A rollout as a document: the model's tokens are trained, and carry what the method will read."""
    rollout = record.rollout
    prompt = np.zeros(len(rollout.prompt_ids), np.float32)
    named = {
        "advantage": record.advantage,
        "sampler_logprob": rollout.sampler_logprob,
        "weight": record.weight,
        "old_logprob": record.old_logprob,
        "reference_logprob": record.reference_logprob,
        **{name: getattr(record, name) for name in OF_CREDIT},
    }
    return Example(
        token_ids=np.concatenate([rollout.prompt_ids, rollout.token_ids]),
        trained=np.concatenate([prompt > 0, rollout.by_model]),
        origin=f"{rollout.task} (group {rollout.group})",
        columns={
            name: np.concatenate([prompt, column]).astype(np.float32)
            for name, column in named.items()
            if column is not None
        },
    )
