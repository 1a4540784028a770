"""Iterated RFT: what each generation is trained on, when the guard speaks, how it goes on after a stop."""

import json
from pathlib import Path

import pytest
import torch
from rl_case import ENV

import rung.pipelines.self_training as loop
from rung.cli import status
from rung.errors import RunStopped, UserError
from rung.pipelines.rejection import write_attempts
from rung.run import Run
from rung.settings import Sft
from rung.settings_self_training import Rft, SelfTrain
from rung.sources.rejection import Tried

WORDS = ["red", "blue", "green", "black", "white", "brown", "pink", "grey", "gold", "lime"]


@pytest.fixture(autouse=True)
def quick():
    torch.set_num_threads(1)


class World:
    """Sampling and training as the test says: texts and scores of a generation by number; what was asked is kept."""

    def __init__(self, monkeypatch, texts, score=lambda generation, task: 1.0, kept=12):
        self.texts, self.score, self.kept = texts, score, kept
        self.sampled: list[Rft] = []
        self.trained: list[Sft] = []
        monkeypatch.setattr(loop, "rft", self.rft)
        monkeypatch.setattr(loop, "sft", self.sft)

    def rft(self, settings: Rft) -> Path:
        self.sampled.append(settings)
        out = Path(settings.out)
        number = int(out.parent.name.removeprefix("generation-"))
        run = Run.create(out, {})
        asked = ({"role": "user", "content": "?"},)
        tried = [
            Tried(str(t), f"0/{t}", "temperature 1", "stop", self.score(number, t),
                  (*asked, {"role": "assistant", "content": self.texts(number, t)}), 1)
            for t in range(30)
        ]  # fmt: skip
        write_attempts(out / "attempts" / "round-000000.jsonl", tried)
        (out / "demonstrations.jsonl").write_text('{"text": "x"}\n' * self.kept)
        run.finish()
        return out

    def sft(self, settings: Sft) -> Path:
        self.trained.append(settings)
        Run.create(settings.out, {}).finish()
        return Path(settings.out)


def varied(generation: int, task: int) -> str:
    return " ".join(WORDS[(task * 7 + k * (task % 5 + 1)) % 10] for k in range(6))


def alike(generation: int, task: int) -> str:
    return varied(generation, task) if generation < 2 else "red blue red blue red blue"


def told(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "generations.jsonl").read_text().splitlines()]


def start(tmp_path, **more) -> SelfTrain:
    return SelfTrain(out=str(tmp_path / "out"), rft=Rft(env="arithmetic"), **more)


def test_each_generation_learns_from_the_one_before_and_from_the_first_model(tmp_path, monkeypatch):
    world = World(monkeypatch, varied)
    out = loop.self_train(start(tmp_path, generations=2))
    assert [s.model for s in world.sampled] == [
        "smollm2-135m", str(out / "generation-01" / "model"), str(out / "generation-02" / "model")
    ]  # fmt: skip
    assert [s.data for s in world.trained] == [
        (str(out / f"generation-0{n}" / "answers" / "demonstrations.jsonl"),) for n in (0, 1)
    ]
    assert [s.model for s in world.trained] == ["smollm2-135m"] * 2
    assert [row["stop"] for row in told(out)] == ["", "", ""]
    assert Run.open(out).status()["state"] == "finished"


def test_or_from_the_last_one(tmp_path, monkeypatch):
    world = World(monkeypatch, varied)
    out = loop.self_train(start(tmp_path, generations=2, start="last"))
    assert [s.model for s in world.trained] == ["smollm2-135m", str(out / "generation-01" / "model")]


def human_file(tmp_path, rows: int) -> tuple[str]:
    file = tmp_path / "human.jsonl"
    file.write_text("".join(json.dumps({"text": f"row {i}"}) + "\n" for i in range(rows)))
    return (str(file),)


def test_human_rows_have_their_share_and_are_never_used_twice(tmp_path, monkeypatch):
    """12 answers and a share of 1/4: 4 rows of 16, for each of two generations."""
    world = World(monkeypatch, varied)
    human = human_file(tmp_path, 8)
    out = loop.self_train(start(tmp_path, generations=2, human=human, human_share=0.25))
    used = [(out / f"generation-0{n}" / "human.jsonl").read_text().splitlines() for n in (1, 2)]
    assert [len(rows) for rows in used] == [4, 4] and len({*used[0], *used[1]}) == 8
    assert [row["human"] for row in told(out)] == [0, 4, 4]
    assert [tuple(spec.rpartition(":")[2] for spec in s.data) for s in world.trained] == [
        ("0.75", "0.25")
    ] * 2


def test_it_ends_where_the_human_rows_do(tmp_path, monkeypatch):
    World(monkeypatch, varied)
    out = loop.self_train(start(tmp_path, generations=3, human=human_file(tmp_path, 7), human_share=0.25))
    assert told(out)[-1]["stop"] == "no data: generation 2 needs 4 fresh human rows, and 3 are left"
    assert len(told(out)) == 2 and (out / "BEST").exists()


def test_collapse_stops_it_and_the_collapsed_model_is_not_the_best(tmp_path, monkeypatch):
    World(monkeypatch, alike, lambda generation, task: float(task < 5 + generation))
    out = loop.self_train(start(tmp_path, generations=5))
    rows = told(out)
    assert len(rows) == 3 and rows[1]["lost"] == 0 and rows[1]["stop"] == ""
    assert rows[2]["stop"].startswith("collapse: 2 different word pairs where the first model wrote")
    assert rows[2]["lost"] > 0.9 and rows[2]["lost_p"] <= 0.01
    assert rows[2]["solved"] > rows[1]["solved"]  # right as it is
    assert (out / "BEST").read_text().strip() == rows[1]["model"]
    assert "collapse" in Run.open(out).status()["reason"]


def test_a_small_or_an_uncertain_loss_does_not(tmp_path, monkeypatch):
    World(monkeypatch, alike)
    out = loop.self_train(start(tmp_path, generations=3, most_lost=0.99))
    assert len(told(out)) == 4
    World(
        monkeypatch, lambda g, t: alike(g, t) if t < 2 else "red blue"
    )  # two of thirty tasks: it may be chance
    out = loop.self_train(SelfTrain(out=str(tmp_path / "two"), generations=3, rft=Rft(env="a")))
    assert max(row["lost"] for row in told(out)) > 0.2 and len(told(out)) == 4


def test_regression_stops_it_and_noise_does_not(tmp_path, monkeypatch):
    worse = {0: 20, 1: 19, 2: 5}
    World(monkeypatch, varied, lambda generation, task: float(task < worse[generation]))
    out = loop.self_train(start(tmp_path, generations=2))
    rows = told(out)
    assert rows[1]["stop"] == ""
    assert rows[2]["stop"] == "regression: solved 0.167, and generation 0 had 0.667"
    assert (out / "BEST").read_text().strip() == "smollm2-135m"


def test_later_stages_and_hints_do_not_count_as_solved():
    def one(score, stage, hinted=False):
        return Tried("a", "0/0", stage, "stop", score, (), 0, hinted)

    tried = [
        one(1.0, "temperature 1"),
        one(0.0, "temperature 1"),
        one(1.0, "temperature 2"),
        one(1.0, "hinted", True),
    ]
    assert loop.solved(tried, 1.0) == {"a": 0.5}
    assert loop.solved([one(None, "temperature 1")], 1.0) == {}


def test_an_interrupted_loop_goes_on_where_it_stopped(tmp_path, monkeypatch):
    world = World(monkeypatch, varied)
    settings = start(tmp_path, generations=2)

    def interrupted(sft_settings):
        raise RunStopped("Interrupted.", 130)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "sft", interrupted)
        with pytest.raises(RunStopped, match="rung self-train --resume"):
            loop.self_train(settings)
    assert Run.open(settings.out).status()["state"] == "stopped"
    out = loop.self_train(SelfTrain(**{**vars(settings), "resume": settings.out}))
    assert len(world.sampled) == 3 and len(world.trained) == 2 and len(told(out)) == 3
    with pytest.raises(UserError, match="has finished"):
        loop.self_train(SelfTrain(**{**vars(settings), "resume": settings.out}))


@pytest.mark.parametrize(
    "wrong",
    [
        {"generations": 0}, {"human_share": 0.5}, {"human": ("x",)}, {"human_share": 1.0, "human": ("x",)},
        {"level": 0.0}, {"most_lost": 2.0}, {"rft": Rft(model="x")}, {"sft": Sft(data=("x",))},
    ],
)  # fmt: skip
def test_wrong_settings(wrong):
    with pytest.raises(UserError):
        SelfTrain(**wrong)


def test_without_an_environment_it_says_so(capsys):
    assert status(["self-train"]) == 2
    assert "--rft.env" in capsys.readouterr().err


def test_end_to_end_on_a_tiny_model(tiny_folder, rows_file, tmp_path):
    words = [
        "self-train", "--model", tiny_folder, "--out", tmp_path / "out", "--generations", 1, "--human", rows_file,
        "--human-share", 0.25, "--rft.env", f"{ENV}:make?kind=even", "--rft.tasks", 4, "--rft.samples", 6,
        "--rft.threshold", 0.4, "--rft.max-tokens", 100, "--rft.precision", "fp32", "--sft.steps", 1,
        "--sft.precision", "fp32", "--sft.max-length", 200,
    ]  # fmt: skip
    assert status([str(word) for word in words]) == 0
    rows = told(tmp_path / "out")
    assert len(rows) == 2 and rows[1]["human"] > 0
    assert Run.open(tmp_path / "out" / "generation-01" / "model").latest() is not None
