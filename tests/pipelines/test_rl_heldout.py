"""What was measured on held-out tasks: kept, and known again to the health of a run that is resumed."""

import json

import pytest
import torch
from rl_case import play, steps, words

import rung.pipelines.rl
import rung.train
from rung.cli import status
from rung.diagnose.health import Health
from rung.pipelines.heldout import Heldout


@pytest.fixture(autouse=True)
def quick():
    torch.set_num_threads(1)


@pytest.fixture
def watched(monkeypatch) -> list[Health]:
    """The health of every run that is started."""
    made: list[Health] = []
    monkeypatch.setattr(rung.pipelines.rl, "Health", lambda: made.append(Health()) or made[-1])
    return made


def test_the_scores_before_a_round_are_the_latest_since_the_round_before(tmp_path):
    found = Heldout.resume(tmp_path, 0, writes=True)
    for step, score in ((1, 0.1), (2, 0.2), (3, 0.3), (4, 0.4), (6, 0.6)):
        found.add(step, [score, 1.0])
    # two steps a round: round 0 is steps 0 and 1, round 1 begins when 2 are done, round 2 when 4 are
    assert [found.before(round, 2) for round in range(5)] == [
        None, (0.2, 1.0), (0.4, 1.0), (0.6, 1.0), None,
    ]  # fmt: skip
    assert [found.before(round, 1) for round in (0, 1, 4, 5)] == [None, (0.1, 1.0), (0.4, 1.0), None]
    assert Heldout.resume(tmp_path, 9, writes=False).scores == found.scores


def test_resuming_forgets_what_the_checkpoint_has_not_seen_and_half_a_line(tmp_path):
    found = Heldout.resume(tmp_path, 0, writes=True)
    for step in (1, 2, 3):
        found.add(step, [step / 4])
    whole = (tmp_path / "heldout.jsonl").read_bytes()
    (tmp_path / "heldout.jsonl").write_bytes(whole + b'{"step": 4, "sco')
    again = Heldout.resume(tmp_path, 2, writes=False)
    assert again.scores == {1: (0.25,), 2: (0.5,)} and again.path is None
    assert (tmp_path / "heldout.jsonl").read_bytes().startswith(whole)  # other ranks write nothing
    again = Heldout.resume(tmp_path, 2, writes=True)
    again.add(3, [1.0])
    rows = [json.loads(line) for line in (tmp_path / "heldout.jsonl").read_text().splitlines()]
    assert rows == [{"step": 1, "scores": [0.25]}, {"step": 2, "scores": [0.5]}, {"step": 3, "scores": [1.0]}]


@pytest.mark.parametrize(
    ("dies", "options"),
    [(4, {"eval_every": 1}), (4, {"eval_every": 2}), (6, {"updates": 2, "eval_every": 1}),
     (5, {"updates": 2, "eval_every": 3})],
)  # fmt: skip
def test_a_resumed_run_is_as_healthy_as_one_never_broken(
    tiny_folder, tmp_path, monkeypatch, watched, dies, options
):
    options = {"rounds": 4, "save_every": 1, **options}
    unbroken = play(tiny_folder, tmp_path / "unbroken", **options)
    original, calls = rung.train._finish_gradients, [0]

    def failing(*args, **kwargs):
        calls[0] += 1
        if calls[0] == dies:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(rung.train, "_finish_gradients", failing)
        assert status(words(tiny_folder, tmp_path / "broken", **options)) != 0
    assert status(["rl", "--resume", str(tmp_path / "broken")]) == 0
    first, _, last = watched
    assert first.state() == last.state()
    assert first.rounds == 4 and any(r.heldout_count for r in first.divergence.references)
    one, other = (run.joinpath("heldout.jsonl").read_bytes() for run in (unbroken, tmp_path / "broken"))
    assert one == other
    evaluated = [row for row in steps(unbroken) if "heldout_score" in row]
    assert {row["heldout_tasks"] for row in evaluated} == {4}
    assert [row["step"] for row in evaluated] == [json.loads(line)["step"] for line in one.splitlines()]
