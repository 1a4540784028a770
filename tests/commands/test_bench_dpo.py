"""`rung bench dpo`: the same pairs for everyone, the reference charged, disagreements named, the report as promised."""

import argparse
import json
import random
import sys
from pathlib import Path

import pytest

from rung import cli
from rung.batch import collate_pairs
from rung.commands import bench
from rung.errors import UserError
from rung.sources.preferences import PreferenceSource

sys.path.insert(0, str(Path(bench.__file__).parents[2]))

from benchmarks import dpo


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    draw = random.Random(0)

    def text() -> str:
        return "".join(draw.choices("abcd", k=draw.randint(3, 40)))

    rows = []
    for _ in range(120):
        start = f"\n\nHuman: {text()}\n\nAssistant: "
        rows.append({"chosen": f"{start}{text()}y", "rejected": f"{start}{text()}z"})
    file = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def options(data, model, **changes) -> argparse.Namespace:
    return argparse.Namespace(
        **{"data": str(data), "model": str(model), "steps": 3, "device": "cpu"} | changes
    )


def test_rung_and_trl_get_the_same_pairs_step_by_step(data, tiny_folder, tmp_path):
    work = dpo.prepare(options(data, tiny_folder), tmp_path)
    pairs = dpo.read(Path(work.file), str(tiny_folder), work.length)
    source = PreferenceSource(pairs, [len(pairs)], None, step_pairs=8, micro_tokens=9000)
    assert work.length == 256 and len(pairs) == 24
    for step in range(3):
        [batch] = source.step(step)
        assert int(collate_pairs([pairs[i] for i in source.layout(step)[0]]).trained_N.sum()) == work.trained(
            step
        )
        assert int(batch.trained_N.sum()) == work.trained(step)
        here = range(8 * step, 8 * step + 8)
        wanted = {(*work.prompts[i], *work.chosen[i]) for i in here}
        rows = [pairs[i] for i in source.layout(step)[0]]
        found = {
            tuple(pair.chosen.token_ids[: int(pair.chosen.trained.nonzero()[0].max()) + 1]) for pair in rows
        }
        assert found == wanted
    assert all(chosen != rejected for chosen, rejected in zip(work.chosen, work.rejected, strict=True))


def test_too_few_rows_and_other_refusals(data, tiny_folder, tmp_path):
    with pytest.raises(UserError, match="need 800; give a file with more short rows"):
        dpo.prepare(options(data, tiny_folder, steps=100), tmp_path)
    with pytest.raises(UserError, match=r"no file nowhere\.jsonl"):
        dpo.prepare(options("nowhere.jsonl", tiny_folder), tmp_path)
    with pytest.raises(UserError, match="the first is warm-up"):
        dpo.parse(["--steps", "1"])


def test_the_reference_is_charged_to_the_steps_that_are_measured():
    """3 steps, 2 measured in 5 s each; a reference of 3 s for all of them is 2 s for those two."""
    assert dpo.pairs_per_second(3, [5.0, 5.0], 3.0) == 16 / 12


def test_the_named_peer_is_the_fastest_and_disagreements_are_named(data, tiny_folder, tmp_path):
    work = dpo.prepare(options(data, tiny_folder), tmp_path)
    right = {"trained": [work.trained(i) for i in range(3)], "losses": [0.6931, 0.69, 0.68]}
    ours = right | {"pairs_per_second": 4.0, "peak_memory": 1.0, "reference_seconds": 1.0}
    slow, fast = ours | {"pairs_per_second": 1.0, "peak_memory": 4.0}, ours | {"pairs_per_second": 2.0}
    made = dpo.conclude(work, {"rung": [ours], "a": [slow], "b": [fast]})
    assert (made["peer"], made["ratio"], made["peak_memory_ratio"]) == ("b", 2.0, 1.0)
    assert made["peers"]["a"]["ratio"] == 4.0 and made["peers"]["a"]["peak_memory_ratio"] == 0.25
    assert dpo.conclude(work, {"rung": [ours]})["peer"] is None

    def wrong(**changes) -> str:
        return " ".join(dpo.disagreements({"rung": [ours], "trl": [ours | changes]}, work))

    assert wrong() == ""
    assert wrong(losses=[0.6931, 0.709, 0.68]) == ""
    assert "loss 0.6960 in the first step" in wrong(losses=[0.696, 0.69, 0.68])
    assert "loss 0.7110 in step 2" in wrong(losses=[0.6931, 0.711, 0.68])
    assert "trl trained [1] tokens" in wrong(trained=[1])


@pytest.mark.slow
def test_the_whole_of_it_on_a_tiny_model(data, tiny_folder, capsys):
    line = ["bench", "dpo", "--no-peers", "--quick", "--steps", "2", "--json", "--device", "cpu"]
    assert cli.status([*line, "--model", str(tiny_folder), "--data", str(data)]) == 0
    made = json.loads(capsys.readouterr().out.splitlines()[-1])
    keys = {"name", "work", "ours", "peers", "peer", "ratio", "peak_memory_ratio", "runs", "machine"}
    assert set(made) >= keys and made["name"] == "dpo" and made["peers"] == {} and made["peer"] is None
    (run,) = made["runs"]["rung"]
    assert run["trained"] == made["trained_tokens_per_step"] and run["reference_seconds"] > 0
    assert made["ours"]["pairs_per_second"] == 8 / (run["seconds"][0] + run["reference_seconds"] / 2)
