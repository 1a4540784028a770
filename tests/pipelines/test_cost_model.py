"""Cost models: from rows with labels of safety to the constraint of `rung ppo`, on a tiny model."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from rl_case import ENV, rounds, steps
from test_ppo_pipeline import ppo_words
from tiny_env import Constant, make

from rung.cli import status
from rung.errors import UserError
from rung.models.hub import load_tokenizer
from rung.models.scalar import load_scalar
from rung.pipelines.judging import reward_named
from rung.pipelines.reward_data import read_rewards
from rung.pipelines.scoring import Member, Scorer, open_scorer
from rung.rewards.apart import apart
from rung.rewards.score import Attempt, Failure
from rung.rewards.user import load_reward
from rung.rewards.workers import Graders
from rung.run import Run
from rung.settings_reward import Reward


def chat(text):
    return [{"role": "user", "content": text}]


def say(text):
    return [{"role": "assistant", "content": text}]


def row(chosen="a", rejected="b", **labels):
    both = {"chosen_safe": True, "rejected_safe": False} | labels
    return {"prompt": chat("q"), "chosen": say(chosen), "rejected": say(rejected)} | both


def write(file: Path, rows) -> Path:
    file.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return file


def words(folder, data, out, *more) -> list[str]:
    fixed = ["--kind", "costs", "--model", folder, "--data", data, "--out", out, "--max-length", "200"]
    fixed += ["--step-pairs", "8", "--eval-share", "0.25", "--precision", "fp32"]
    return [str(word) for word in ["reward", *fixed, "--optimizer.learning-rate", "3e-3", *more]]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Harm is how many z an answer ends in; up to one is safe. All labels agree with it."""
    dice = np.random.default_rng(0)
    rows = []
    for i in range(96):
        less, more = sorted(dice.choice(4, 2, replace=False).tolist())
        texts = [f"{'xy'[i % 2] * (i % 3 + 1)}{i % 10}{'z' * harm}" for harm in (less, more)]
        rows.append(row(*texts, chosen_safe=less <= 1, rejected_safe=more <= 1))
    return write(tmp_path_factory.mktemp("costs") / "costs.jsonl", rows)


@pytest.fixture(scope="module")
def trained(tiny_folder, data, tmp_path_factory) -> Path:
    """Two cost models and, to tell them apart from it, a reward model."""
    folder = tmp_path_factory.mktemp("trained")
    assert status(words(tiny_folder, data, folder / "cost", "--steps", "60")) == 0
    assert status(words(tiny_folder, data, folder / "other", "--steps", "2", "--seed", "1")) == 0
    plain = words(tiny_folder, data, folder / "reward", "--steps", "2")
    plain[plain.index("costs")] = "pairs"
    assert status(plain) == 0
    return folder


def test_it_learns_order_and_sign_and_reports_both(trained):
    run = Run.open(trained / "cost")
    found = json.loads((run.path / "calibration.json").read_text())
    assert found["accuracy"]["count"] == 24 and found["sign"]["accuracy"]["count"] == 48
    assert found["accuracy"]["value"] > 0.85 and found["sign"]["accuracy"]["value"] > 0.85
    sides = [found["sign"][side]["count"] for side in ("of_unsafe", "of_safe")]
    assert sum(sides) == 48 and min(sides) > 0
    last = run.metrics()[-1]
    assert last["eval_sign_accuracy"] == pytest.approx(found["sign"]["accuracy"]["value"])
    assert last["eval_pair_accuracy"] == pytest.approx(found["accuracy"]["value"])
    assert {"cost_gap", "sign_accuracy", "eval_cost_gap"} <= last.keys()
    about = load_scalar(run.path).about
    assert (about.kind, about.mean) == ("costs", found["mean"])
    assert "sign of the cost right for" in run.status()["reason"]
    assert run.config()["loss"] == "order and sign of costs, mean over the pairs of the step"


def test_transformers_opens_it_to_the_same_cost(trained):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = Run.open(trained / "cost").latest()
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer.apply_chat_template(chat("q") + say("x1zz"), return_tensors="pt", return_dict=True)
    [cost] = open_scorer([str(folder)], precision="fp32").verdicts([(chat("q"), say("x1zz"))])
    assert model(ids["input_ids"]).logits.item() == pytest.approx(cost.value, abs=1e-5)


def test_labels_reach_the_answers_they_are_of(tiny_folder, tmp_path):
    rows = [row("a", "b"), row("c", "d", chosen_safe=False), row("e", "f", rejected_safe=True)]
    settings = Reward(
        data=(str(write(tmp_path / "rows.jsonl", rows)),), kind="costs", model=str(tiny_folder), eval_share=0,
        max_length=200,
    )  # fmt: skip
    data, _, digest, _ = read_rewards(settings)
    found = [[side.columns["safe"].tolist() for side in (p.chosen, p.rejected)] for p in data.items]
    assert [[set(side) for side in both] for both in found] == [[{1}, {0}], [{0}, {0}], [{1}, {1}]]
    write(tmp_path / "rows.jsonl", [rows[0], row("c", "d"), rows[2]])
    assert read_rewards(settings)[2] != digest  # a resumed run is held to its labels


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row(), row() | {"rejected_safe": None}], "rows.jsonl:2: has no rejected_safe"),
        ([{k: v for k, v in row().items() if k != "chosen_safe"}], "rows.jsonl:1: has no chosen_safe"),
        ([row(chosen_safe="yes")], "rows.jsonl:1: chosen_safe is 'yes'"),
        ([row(), row(rejected_safe=0)], "rows.jsonl:2: rejected_safe is 0"),
        ([row(chosen_safe=False, rejected_safe=True)], "rows.jsonl:1: chosen, the less harmful answer, is called unsafe"),
        ([row(rejected_safe=True)] * 3, "All 6 labels are safe"),
        ([row(chosen_safe=False)] * 3, "All 6 labels are unsafe"),
        ([row("a", "a")], "equals chosen"),
    ],
)  # fmt: skip
def test_bad_rows_stop_before_there_is_a_run_folder(tiny_folder, tmp_path, capsys, rows, message):
    data = write(tmp_path / "rows.jsonl", rows)
    assert status(words(tiny_folder, data, tmp_path / "run")) == 2
    assert message in " ".join(capsys.readouterr().err.split()) and not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["costs", "outcome", "process"])
def test_options_of_another_kind_are_refused(tiny_folder, data, tmp_path, capsys, kind):
    line = words(tiny_folder, data, tmp_path / "run", "--method.margin", "1")
    line[line.index("costs")] = kind
    assert status(line) == 2
    assert f"with --kind {kind} they change nothing" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()


def test_ppo_holds_the_policy_to_a_cost_model(tiny_folder, trained, tmp_path):
    """The cost of every answer is what the model says of the conversation, and the multiplier follows its mean."""
    model = f"rm:{trained / 'cost'}"
    options = {"cost__reward": model, "rounds": 3, "updates": 1, "epochs": 1}
    assert status(ppo_words(tiny_folder, tmp_path / "run", **options)) == 0
    scorer, decode = open_scorer([str(trained / "cost")]), load_tokenizer(str(tiny_folder)).decode
    world = make()
    prompts = {task.key: task.messages for task in (*world.train, *world.test)}
    seen, expected = [], [1.0]
    for records in rounds(tmp_path / "run"):
        for record in records:
            text = decode(record.rollout.token_ids, skip_special_tokens=True)
            [cost] = scorer.verdicts([(prompts[record.rollout.task], tuple(say(text)))])
            assert record.verdict.parts["cost"] == pytest.approx(cost.value, abs=1e-5)
        seen += [record.verdict.parts["cost"] for record in records]
        expected.append(min(np.exp(np.log(expected[-1]) + 0.1 * expected[-1] * np.mean(seen)), 5.0))
    found = [line["cost_multiplier"] for line in steps(tmp_path / "run") if "cost_multiplier" in line]
    assert found == pytest.approx(expected[:-1]) and len(set(found)) == 3


@pytest.mark.parametrize("which", ["reward", "cost"])
def test_a_function_may_stand_beside_a_model(tiny_folder, trained, tmp_path, which):
    """The function is asked in worker processes, the model here; each answer gets both numbers."""
    function = f"{ENV.with_name('tiny_cost.py')}:odd"
    options = {"reward": f"rm:{trained / 'reward'}", "cost__reward": f"rm:{trained / 'cost'}"}
    options["reward" if which == "reward" else "cost__reward"] = function
    options |= {"rounds": 1, "updates": 1, "epochs": 1}
    assert status(ppo_words(tiny_folder, tmp_path / "run", **options)) == 0
    for record in rounds(tmp_path / "run")[0]:
        ids, parts = record.rollout.token_ids, record.verdict.parts
        assert parts[which] == pytest.approx(2 * np.mean([token % 2 for token in ids]))
        assert parts.keys() == {"reward", "cost"} and record.verdict.value == parts["reward"]


def test_a_reward_apart_is_killed_where_it_hangs_and_ends_with_whoever_holds_it(tmp_path):
    file = tmp_path / "slow.py"
    file.write_text(
        "import time\ndef slow(attempt):\n    time.sleep(60 if attempt.answer == 'x' else 0)\n    return 1.0\n"
    )
    reward = apart(load_reward(f"{file}:slow"), wall_seconds=1.0, workers=1)
    graders = reward.graders
    hung, well = reward.many([Attempt(tuple(chat("q")), answer) for answer in ("x", "y")])
    assert isinstance(hung, Failure) and hung.kind == "timeout" and well.value == 1.0
    del reward
    with pytest.raises(RuntimeError, match="closed"):
        graders.grade([])
    trusted = Constant()
    assert apart(trusted) is trusted


def test_it_is_a_cost_and_no_reward(tiny_folder, trained, data, tmp_path, capsys):
    cost = str(trained / "cost")
    with pytest.raises(UserError, match="the most harmful answers"):
        reward_named(f"rm:{cost}")
    assert status(ppo_words(tiny_folder, tmp_path / "ppo", reward=f"rm:{cost}")) == 2
    assert status(["bestofn", str(tiny_folder), "--file", str(data), "--reward", cost]) == 2
    assert status(["score", str(data), "--model", cost, "--best", "0.5"]) == 2
    assert status(["score", str(data), "--model", cost, "--threshold", "0"]) == 2
    assert capsys.readouterr().err.count("is a cost model") == 4 and not (tmp_path / "ppo").exists()
    reward_named(f"rm:{trained / 'reward'}")
    assert status(["score", str(data), "--model", cost]) == 0
    said = capsys.readouterr()
    assert "chosen answer scores lower" in said.err
    scored = [json.loads(line) for line in said.out.splitlines()]
    right = np.mean([one["chosen_score"] < one["rejected_score"] for one in scored])
    assert right > 0.85 and f"accuracy  {right:.1%}" in said.err


def test_several_costs_keep_their_zero_and_the_worst_is_the_highest(trained):
    names = [str(trained / name) for name in ("cost", "other")]
    asked = [(chat("q"), say("x1zzz")), (chat("q"), say("y2"))]
    members = [[v.value for v in open_scorer([n], precision="fp32").verdicts(asked)] for n in names]
    costs_KB = np.array(members)
    for combine, expected in (
        ("mean", costs_KB.mean(0)),
        ("worst", costs_KB.max(0)),
        ("uncertain", costs_KB.mean(0) + 0.5 * costs_KB.var(0)),
    ):
        found = open_scorer(names, combine=combine, weight=0.5, precision="fp32").verdicts(asked)
        assert [v.value for v in found] == pytest.approx(expected, rel=1e-5)
    with pytest.raises(UserError, match="of one kind"):
        Scorer([Member.open(names[0]), Member.open(str(trained / "reward"))])


def test_any_other_reward_can_be_a_cost_too(trained):
    from rung.pipelines.judging import cost_named

    for spec in (f"rm:{trained / 'reward'}", f"{ENV.with_name('tiny_cost.py')}:odd"):
        with Graders(cost_named(spec)) as graders:
            [verdict] = graders.grade(
                [Attempt(tuple(chat("q")), "x", token_ids=(1, 2), messages=tuple(say("x")))]
            )
        assert np.isfinite(verdict.value)
