"""Who wins, what ties, which round a step learns from."""

import numpy as np
import pytest

from rung.batch import Rollout
from rung.errors import RunStopped
from rung.rewards.score import Abstain, Failure, Score
from rung.rollouts.columns import Graded
from rung.rollouts.store import RolloutStore
from rung.sources.online_pairs import PATIENCE, PairSource, counts, paired, pairs_of


def graded(group, verdict, answer=(5,), finish="stop", world=()):
    ids = np.array([*answer, *world], np.int32)
    by_model = np.arange(len(ids)) < len(answer)
    zeros = np.zeros(len(ids), np.float32)
    rollout = Rollout(
        f"t:{group}", group, np.array([1, 2], np.int32), ids, by_model, zeros, zeros, zeros,
        np.zeros(len(ids), np.int32), finish,
    )  # fmt: skip
    verdict = verdict if isinstance(verdict, Abstain | Failure) else Score(float(verdict))
    return Graded(rollout, verdict, zeros)


def marks(records):
    return [float(record.advantage[0]) for record in records]


def test_the_best_and_the_worst_of_a_group_are_its_pair():
    made = paired([graded(0, v, (5 + i,)) for i, v in enumerate([0.2, 0.9, 0.1, 0.5])])
    assert marks(made) == [0, 1, -1, 0]
    assert [record.weight[0] for record in made] == [0, 1, 1, 0]
    [pair] = pairs_of(made)
    assert (pair.chosen.token_ids.tolist(), pair.rejected.token_ids.tolist()) == ([1, 2, 6], [1, 2, 7])
    assert pair.chosen.trained.tolist() == [False, False, True] and not pair.chosen.columns


def test_ties_and_answers_nobody_judged_are_skipped_and_counted():
    """Equal rewards, rewards within the tie, equal answers with different rewards, one score only, none."""
    rows = [
        (0, 1),
        (0, 1),
        (1, 0.5),
        (1, 0.6),
        (3, 1),
        (3, Abstain("?")),
        (4, Failure("crash")),
        (4, Abstain("?")),
    ]
    made = paired(
        [graded(g, v, (5 + i,)) for i, (g, v) in enumerate(rows)] + [graded(2, 0, (9,)), graded(2, 1, (9,))],
        tie=0.11,
    )
    assert marks(made) == [0] * 10 and pairs_of(made) == []
    assert counts(made) == {"pairs": 0, "ties": 3, "unjudged": 2}
    assert counts(paired(made, tie=0.05)) == {"pairs": 1, "ties": 2, "unjudged": 2}


def test_a_failure_is_no_zero():
    """Of a failure, -1 and -2, the pair is of the two scores."""
    made = paired([graded(0, Failure("crash"), (4,)), graded(0, -1, (5,)), graded(0, -2, (6,))])
    assert marks(made) == [0, 1, -1]


def test_an_answer_without_an_end_pays():
    rows = [graded(0, 1.0, (5,), "length"), graded(0, 0.5, (6,))]
    assert marks(paired(rows)) == [1, -1]
    assert marks(paired(rows, missing_end_penalty=1.0)) == [-1, 1]


def test_what_the_world_wrote_is_not_learned():
    made = paired([graded(0, 1, (5, 6), world=(7,)), graded(0, 0, (8,))])
    assert made[0].advantage.tolist() == [1, 1, 0] and pairs_of(made)[0].chosen.trained.tolist() == [
        0,
        0,
        1,
        1,
        0,
    ]


def source(folder, with_pairs, **options):
    """Rounds of two prompts, of which only those named have pairs."""
    played = []

    def collect(round):
        played.append(round)
        gap = 1 if round in with_pairs else 0
        rows = [graded(2 * round + g, gap * i, (5 + i, 10 + round)) for g in range(2) for i in range(2)]
        return paired(rows)

    said = []
    made = PairSource(collect, RolloutStore(folder), tell=said.append, micro_tokens=100, **options)
    return made, played, said


def origins(batches):
    return [origin for batch in batches for origin in batch.origins]


def test_a_round_without_a_pair_makes_no_step_and_says_so(tmp_path):
    made, played, said = source(tmp_path, {1, 4}, updates=2)
    began = []
    made.began_at = began.append
    rounds = []
    for step in range(4):
        batches = made.step(step)
        assert all(batch.pairs for batch in batches)
        rounds.append(made.metrics(step))
    assert played == [0, 1, 2, 3, 4] and began == [0, 1]
    assert rounds == [{"round": 1, "skipped_rounds": 1}, {}, {"round": 4, "skipped_rounds": 2}, {}]
    assert [line.split(" has")[0] for line in said] == ["round 0", "round 2", "round 3"]
    assert "2 ties and 0 prompts" in said[0]


@pytest.mark.parametrize("step, left", [(0, []), (1, [0, 1]), (2, [0, 1]), (3, [0, 1, 2, 3, 4])])
def test_a_resumed_run_forgets_what_its_checkpoint_has_not_begun(tmp_path, step, left):
    made, _, _ = source(tmp_path, {1, 4, 5}, updates=2)
    whole = [origins(made.step(i)) for i in range(6)]
    again, played, _ = source(tmp_path, {1, 4, 5}, updates=2)
    again.resume(step)
    assert again.store.rounds() == left
    assert [origins(again.step(i)) for i in range(step, 6)] == whole[step:]
    assert played == list(range(len(left), 6))


def test_nothing_but_ties_stops_the_run(tmp_path):
    made, played, _ = source(tmp_path, set())
    with pytest.raises(RunStopped, match="20 rounds in a row had no pair"):
        made.step(0)
    assert len(played) == PATIENCE


def test_updates_share_a_round_and_few_pairs_are_repeated(tmp_path):
    made, _, _ = source(tmp_path, range(9), updates=4, epochs=2)
    seen = [origins(made.step(step)) for step in range(4)]
    assert (
        sorted(seen[0] + seen[1]) == sorted(seen[2] + seen[3]) and len(seen[0]) == 3
    )  # a trunk, two answers
    made, _, _ = source(tmp_path / "other", range(9), updates=3)
    assert all(len(origins(made.step(step))) == 3 for step in range(3))
