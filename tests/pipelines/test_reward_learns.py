"""A reward model learns a preference that can be learned: fewer repetitions."""

import json
import random
from pathlib import Path

import pytest
import torch

from rung.cli import status

LETTERS = "abcdefgh"
TEXT = "red blue green dog cat house tree river stone cloud light night bread water table chair window door road city"
WORDS = TEXT.split()


def with_repeats(units, length, repeats, dice):
    """So many units, of which so many say again what was said before."""
    chosen = dice.sample(units, length - repeats)
    chosen += [dice.choice(chosen) for _ in range(repeats)]
    dice.shuffle(chosen)
    return chosen


def pairs(file: Path, count, seed, row) -> Path:
    dice = random.Random(seed)
    file.write_text("".join(json.dumps(row(dice)) + "\n" for _ in range(count)))
    return file


def letters(dice):
    few = dice.randrange(2)
    sides = ("".join(with_repeats(LETTERS, 6, repeats, dice)) for repeats in (few, few + 3))
    return {"prompt": "say", **dict(zip(("chosen", "rejected"), sides, strict=True))}


def words(dice):
    few = dice.randrange(3)
    sides = (" " + " ".join(with_repeats(WORDS, 10, repeats, dice)) for repeats in (few, few + 3))
    return {"prompt": "Some words:", **dict(zip(("chosen", "rejected"), sides, strict=True))}


def accuracy(run: Path) -> dict:
    return json.loads((run / "calibration.json").read_text())["accuracy"]


def train(folder: Path, model, row, count, held_out, *more) -> dict:
    torch.set_num_threads(1)
    command = ["reward", "--data", pairs(folder / "train.jsonl", count, 1, row)]
    command += [
        "--eval-data",
        pairs(folder / "test.jsonl", held_out, 2, row),
        "--model",
        model,
        "--out",
        folder / "rm",
    ]
    assert status([str(word) for word in [*command, *more]]) == 0
    return accuracy(folder / "rm")


@pytest.mark.slow
def test_a_small_decoder_from_nothing_learns_it(tmp_path):
    from rung.models.small import write_small_model

    model = write_small_model(tmp_path / "small", LETTERS + "sy", layers=2, width=32, heads=4, context=32)
    found = train(
        tmp_path, model, letters, 1200, 200, "--max-length", "32", "--precision", "fp32", "--epochs", "5",
        "--step-pairs", "32", "--optimizer.learning-rate", "3e-3",
    )  # fmt: skip
    assert found["value"] > 0.95 and found["count"] == 200


@pytest.mark.slow
def test_smollm2_learns_it_of_three_hundred_pairs(tmp_path):
    found = train(
        tmp_path, "smollm2-135m", words, 300, 100, "--max-length", "64", "--epochs", "2", "--step-pairs", "15",
        "--optimizer.learning-rate", "5e-5",
    )  # fmt: skip
    assert found["value"] > 0.95 and found["count"] == 100
