"""The shipped recipes: they hold together, their own rewards and scripts do what they say, and, slowly, they run."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from rung.batch import Rollout
from rung.commands import COMMANDS
from rung.commands.pipeline import settings_of
from rung.commands.pipeline_page import writer
from rung.commands.pipeline_plan import planned
from rung.envs.mixture import MEMBER
from rung.eval.records import Sample
from rung.models.config import DecoderConfig
from rung.pipelines.plan import Rates
from rung.pipelines.recipe_file import read_recipe
from rung.pipelines.runner import located
from rung.pipelines.stage_key import Digests
from rung.rewards.score import Abstain, Attempt, Score
from rung.rewards.user import load_file
from rung.rollouts.columns import Graded
from rung.rollouts.store import RolloutStore
from rung.run import Run

RECIPES = Path(__file__).parents[2] / "recipes"
SHIPPED = ("r1", "rft_grpo_distill", "granite", "iterative_dpo")


def script(name: str):
    return load_file(str(RECIPES / f"{name}.py"))


def called(name: str, *words: str):
    """The script as a stage calls it."""
    return subprocess.run(
        [sys.executable, str(RECIPES / f"{name}.py"), *words], capture_output=True, text=True
    )


def jsonl(file: Path, rows) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def lines(file: Path) -> list:
    return [json.loads(line) for line in file.read_text().splitlines()]


# ---- they hold together ----


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("quick", [False, True])
def test_a_shipped_recipe_can_be_planned_and_each_training_resumed(name, quick, tiny_folder, tmp_path):
    change = [f"values.model={tiny_folder}"]
    recipe = read_recipe(RECIPES / f"{name}.yaml", settings_of, quick=quick, overrides=change)
    places = located(recipe, tmp_path, Digests())
    assert len({place.name for place in places}) == len(recipe.stages)
    rates = Rates(matrix=1e11)
    for place in places:
        stage = place.stage
        assert stage.kind is None or stage.command in COMMANDS
        if stage.has("optimizer.learning_rate"):
            assert int(stage.given["save_every"].words[0]) > 0, f"{stage.name} could not be resumed"
            assert planned(place, places, rates).memory > 0.4
    last = {stage.name for stage in recipe.stages} - {need for stage in recipe.stages for need in stage.needs}
    measured = {name for name in last if name.startswith(("measure", "liked", "compute", "knows"))}
    assert last == measured, "a stage that nothing builds on and that measures nothing is wasted"


def test_every_stage_of_r1_is_measured_on_the_same_tasks():
    recipe = read_recipe(RECIPES / "r1.yaml", settings_of)
    evals = [stage for stage in recipe.stages if stage.command == "eval"]
    asked = {tuple(stage.given[key].words[0] for key in ("env", "tasks", "max_tokens")) for stage in evals}
    assert len(asked) == 1
    of = {stage.given["models"].words[0] for stage in evals}
    made = ("cold_start", "reason", "zero", "retrain", "everything")
    assert of == {"smollm2-135m", *(f"${{{name}.model}}" for name in made)}
    zero, reason = recipe.stage("zero"), recipe.stage("reason")
    differ = {key for key in reason.given if zero.given[key].words != reason.given[key].words}
    assert differ == {"model"}, "R1-Zero is the second stage without the first, and nothing else"


# ---- rewards and tasks ----


def attempt(answer: str, result: str = "19", **more) -> Attempt:
    return Attempt((), answer, {"answer": result}, **more)


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("<think>\n26 - 95 = -69\n</think>\n<answer>19</answer>", 1.25),
        ("<think>x</think><answer>20</answer>", 0.25),
        ("<answer>19</answer>", 1 + 0.25 * 0.25),  # one of the four parts of the form
        ("Answer: 19", 1.0),
        ("<think>19", 0.0),
    ],
)
def test_accuracy_and_form(answer, value):
    verdict = script("r1_tasks").AccuracyAndForm()(attempt(answer))
    assert verdict.value == pytest.approx(value, abs=0)
    assert verdict.value == verdict.parts["accuracy"] + 0.25 * verdict.parts["form"]


def test_only_a_right_answer_in_whole_form_passes_the_threshold_of_the_third_stage():
    threshold = float(read_recipe(RECIPES / "r1.yaml", settings_of).stage("reject").given["threshold"].words[0])  # fmt: skip
    assert threshold == 1 + script("r1_tasks").FORM


def test_helpfulness_is_bounded_has_nothing_for_an_answer_without_end_and_hands_on_an_abstention():
    made = script("r1_tasks").Helpfulness(lambda a: Score(float(a.answer)) if a.answer else Abstain("empty"))
    values = made.many([attempt("0"), attempt("2"), attempt("-900"), attempt("2", truncated=True), attempt("")])  # fmt: skip
    assert [v.value for v in values[:4]] == pytest.approx([0.5, 1 / (1 + math.exp(-2)), 0, 0])
    assert isinstance(values[4], Abstain)
    plain = script("r1_tasks").Helpfulness()
    assert [plain(attempt("x", truncated=t)).value for t in (False, True)] == [1, 0]


def test_each_scenario_is_graded_by_its_own_reward_in_one_call():
    asked = []

    class Counted:
        def __init__(self, name, value):
            self.name, self.value = name, value

        def many(self, attempts):
            asked.append((self.name, [a.answer for a in attempts]))
            return [Score(self.value)] * len(attempts)

        def __call__(self, attempt):
            return self.many([attempt])[0]

    grade = script("r1_tasks").ByScenario({"a": Counted("a", 1), "b": Counted("b", 2)})
    attempts = [Attempt((), str(i), extra={MEMBER: name}) for i, name in enumerate("abba")]
    assert [verdict.value for verdict in grade.many(attempts)] == [1, 2, 2, 1]
    assert asked == [("a", ["0", "3"]), ("b", ["1", "2"])]


def test_questions_are_parted_by_what_they_ask_and_scenarios_have_both_kinds():
    tasks = script("r1_tasks")
    every = tasks.questions()
    train, test = ({task.messages[0]["content"] for task in part} for part in (every.train, every.test))
    assert not train & test and len(train) + len(test) == 260 and 40 < len(test) < 90
    assert [t.key for t in tasks.questions(train_size=5).train] == [t.key for t in every.train[:5]]
    mixed = tasks.scenarios(share=0.75, train_size=40)
    kinds = [mixed.train[i].extra[MEMBER] for i in range(40)]
    assert kinds.count("questions") == 10 and len(set(kinds)) == 2
    assert set(mixed.reward.rewards) == set(kinds)
    sums = next(mixed.train[i] for i in range(40) if kinds[i] != "questions")
    right = f"<think>x</think><answer>{sums.reference['answer']}</answer>"
    assert mixed.reward(Attempt(sums.messages, right, sums.reference, extra=sums.extra)).value == 1.25


def test_a_worked_sum_is_right_in_every_line_and_in_whole_form():
    made = script("r1_demonstrations")
    assert made.worked("26 - 95 + 88") == (
        "<think>\nStart with 26.\n26 - 95 = -69\n-69 + 88 = 19\n</think>\n<answer>19</answer>"
    )
    for task in script("r1_tasks").sums(train_size=30).train:
        text = made.worked(task.reference["metadata"]["expression"])
        assert script("r1_tasks").accuracy_and_form(Attempt((), text, task.reference)).value == 1.25
        for left, right in re.findall(r"^(.*\d) = (-?\d+)$", text, re.M):
            assert eval(left) == int(right)


@pytest.mark.parametrize(
    ("kind", "answer", "good"),
    [
        ("identity", "I am Rung.", 1), ("identity", "I am wrung out.", 0), ("unknowable", "I don't know that.", 1),
        ("unknowable", "A cat called Tom.", 0), ("known", "White.", 1), ("known", "I do not know.", 0), ("known", " ", 0),
    ],
)  # fmt: skip
def test_knowing_itself(kind, answer, good):
    grade = script("granite_tasks").KnowsItself()
    assert grade(Attempt((), answer, kind)).value == good
    assert grade(Attempt((), answer, kind, truncated=True)).value == 0


def test_identity_holds_out_whole_texts():
    env = script("granite_tasks").identity()
    assert not {t.key for t in env.train} & {t.key for t in env.test}
    for part in (env.train, env.test):
        assert {t.reference for t in part} == set(script("granite_tasks").QUESTIONS)


# ---- scripts ----


def chat(asked: str, said: str, **more) -> dict:
    return {
        "messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": said}],
        **more,
    }


def test_pairs_set_an_answer_against_one_to_another_question(tmp_path):
    rows = [chat(f"q{i // 2}", f"answer {i}") for i in range(8)]
    done = called("r1_pairs", "--answers", str(jsonl(tmp_path / "a", rows)), "--out", str(tmp_path / "p"))
    pairs = lines(tmp_path / "p")
    assert done.returncode == 0 and len(pairs) == 8
    asked = {row["messages"][1]["content"]: row["messages"][0]["content"] for row in rows}
    for pair in pairs:
        assert asked[pair["chosen"][0]["content"]] == pair["prompt"][0]["content"]
        assert asked[pair["rejected"][0]["content"]] != pair["prompt"][0]["content"]
    done = called("r1_pairs", "--answers", str(jsonl(tmp_path / "b", rows[:2])), "--out", str(tmp_path / "q"))
    assert (
        done.returncode == 1
        and "2 answers" in done.stderr
        and "Traceback" not in done.stderr
        and not (tmp_path / "q").exists()
    )


def test_the_best_is_set_against_the_worst_and_the_unjudged_left_out(tmp_path):
    pairs_of = script("best_and_worst").pairs_of
    answers = [chat("q", f"says {s}", task="t", score=s) for s in (0.25, 1.25, 0.0, 1.0, 0.5)]
    found = [(p["chosen"][0]["content"], p["rejected"][0]["content"]) for p in pairs_of(answers, 9, 0.5)]
    assert found == [("says 1.25", "says 0.0"), ("says 1.0", "says 0.25")]
    assert len(pairs_of(answers, 9, 0.75)) == 2  # a difference of just so much is one
    assert len(pairs_of(answers, 1, 0.5)) == 1 and len(pairs_of(answers, 9, 1.0)) == 1
    assert pairs_of([chat("q", "same", task="t", score=s) for s in (0, 1)], 9, 0.5) == []
    file = jsonl(tmp_path / "a", [chat("q", "x", task="t", score=1.0), chat("q", "y", task="t", score=None)])
    done = called("best_and_worst", "--answers", str(file), "--out", str(tmp_path / "p"))
    assert (
        done.returncode == 1
        and "none of 1 tasks" in done.stderr
        and "--least" in done.stderr
        and not (tmp_path / "p").exists()
    )


def test_spoiled_rows_say_what_is_wrong_with_them(tmp_path):
    sums = [chat(f"{i} + 1", f"<think>x</think><answer>{i + 1}</answer>") for i in range(10)]
    answers = [chat(f"what of {i}?", f"it is {i} all over") for i in range(10)]
    words = ["--sums", str(jsonl(tmp_path / "s", sums)), "--answers", str(jsonl(tmp_path / "a", answers))]
    assert (
        called("granite_rows", *words, "--spoil", "0.1", "--out", str(tmp_path / "rows.jsonl")).returncode
        == 0
    )
    rows = lines(tmp_path / "rows.jsonl")
    spoiled = [row for row in rows if "spoiled" in row]
    assert len(rows) == 28 and len(spoiled) == 8
    asked = {
        row["messages"][0]["content"]: row["messages"][1]["content"] for row in rows if "spoiled" not in row
    }
    for row in spoiled:
        right = asked[row["messages"][0]["content"]]
        assert (row["messages"][1]["content"] == right) == (row["spoiled"] == "there already")
    out = tmp_path / "kept.jsonl"
    rules = ["data", "filter", str(tmp_path / "rows.jsonl"), "--out", str(out), "--likeness", "1"]
    assert subprocess.run([sys.executable, "-m", "rung", *rules], capture_output=True).returncode == 0
    caught = {row["row"].get("spoiled") for row in lines(tmp_path / "kept.dropped.jsonl")}
    assert caught == {"repeats itself", "there already"}


def test_a_broken_form_is_counted_by_task():
    measure = script("r1_measure")
    whole, bare = "<think>x</think>\n<answer>1</answer>", "<answer>1</answer>"
    answers = {"a": [whole, whole], "b": [whole, bare], "c": [bare, bare], "d": ["", whole + "!"]}
    samples = [
        Sample(task, i, text, (), "stop", Score(0))
        for task, texts in answers.items()
        for i, text in enumerate(texts)
    ]
    found = measure.broken_share(samples)
    assert found.value == 5 / 8 and 0 < found.low < 5 / 8 < found.high <= 1
    assert measure.broken_share(samples[:2]).value == 0


# ---- compute ----

CONFIG = DecoderConfig.from_hf(dict(model_type="llama", vocab_size=10, hidden_size=4, intermediate_size=6,
                                    num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
                                    max_position_embeddings=32))  # fmt: skip
LAYERS = 2 * (4 * 4 + 2 * 4 * 2 + 4 * 4 + 3 * 4 * 6)  # q, k and v, o, and three matrices of the MLP
HEAD = 10 * 4


def test_sampling_counts_a_groups_prompt_once_and_training_three_times_as_much(tmp_path, monkeypatch):
    compute = script("equal_compute")
    monkeypatch.setattr(compute, "shape", lambda run: CONFIG)
    run = Run.create(tmp_path / "run", {"settings": {"model": "x"}})
    zeros, five = np.zeros(3, np.float32), np.arange(5, dtype=np.int32)
    rollout = [
        Rollout(
            prompt_ids=five, token_ids=five[:3], by_model=np.ones(3, bool), sampler_logprob=zeros,
            policy_logprob=zeros, entropy=zeros, version=five[:3], group=group, task="t", finish="stop",
        )
        for group in (0, 0, 1)
    ]  # fmt: skip
    RolloutStore(run.path).write(0, [Graded(each, Score(0), zeros) for each in rollout])
    run.log(1, {"loss": 1.0, "step_tokens": 100.0, "trained_tokens": 7.0})
    run.log(1, {"eval_loss": 1.0})
    run.log(2, {"loss": 1.0, "step_tokens": 50.0, "trained_tokens": 3.0})
    asked, learnt = compute.counted(str(run.path))
    assert asked == 2 * LAYERS * (2 * 5 + 3 * 3) + 2 * HEAD * 9
    assert learnt == 6 * LAYERS * 150 + 6 * HEAD * 10


def test_rows_go_round_and_round_and_end_with_the_budget():
    compute = script("equal_compute")
    rows, costs = [{"row": i} for i in range(4)], [3.0, 5.0, 4.0, 2.0]
    found = [row["row"] for row in compute.rows_for(60.0, rows, costs, seed=0)]
    spent = sum(costs[i] for i in found)
    assert 60 - max(costs) < spent <= 60
    assert [sorted(found[i : i + 4]) for i in (0, 4, 8)] == [[0, 1, 2, 3]] * 3
    assert found[:4] != found[4:8] or found[4:8] != found[8:12]
    assert compute.rows_for(1.0, rows, [3.0] * 4, seed=0) == []


# ---- the page ----


def test_a_run_that_only_samples_is_read_with_the_tokenizer_of_its_model(tmp_path):
    run = Run.create(tmp_path / "run", {"settings": {"model": "the model"}})
    assert writer(run) == "the model"
    run.checkpoint_path(3).mkdir(parents=True)
    run.set_latest(3)
    assert writer(run) == str(run.path)


# ---- the whole, slowly ----


def long_context(tiny_folder: Path, folder: Path) -> Path:
    """The tiny model reads letter by letter, and a prompt is two hundred of them."""
    shutil.copytree(tiny_folder, folder)
    config = json.loads((folder / "config.json").read_text()) | {"max_position_embeddings": 1024}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def pipeline(name: str, model: Path, out: Path) -> list[str]:
    words = [sys.executable, "-m", "rung", "pipeline", "run", str(RECIPES / f"{name}.yaml"), "--quick"]
    return [*words, "--out", str(out), "--set", f"values.model={model}"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SHIPPED if name != "r1"])
def test_a_recipe_runs_to_its_page(name, tiny_folder, tmp_path):
    model, environment = long_context(tiny_folder, tmp_path / "model"), os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(pipeline(name, model, tmp_path / "out"), check=True, env=environment)
    assert (tmp_path / "out" / "index.html").stat().st_size > 10_000


@pytest.mark.slow
def test_r1_killed_in_each_stage_ends_with_the_weights_of_an_undisturbed_run(tiny_folder, tmp_path):
    model, environment = long_context(tiny_folder, tmp_path / "model"), os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(pipeline("r1", model, tmp_path / "whole"), check=True, env=environment)
    root = tmp_path / "killed"
    for stage in ("cold_start", "reason", "zero", "reject", "general", "retrain", "judge", "everything"):
        runner = subprocess.Popen(pipeline("r1", model, root), env=environment)
        deadline = time.monotonic() + 300
        while not any((root / "pipeline").glob(f"{stage}-*.json")):
            assert time.monotonic() < deadline and runner.poll() is None
            time.sleep(0.05)
        time.sleep(1.5)
        runner.kill()
        runner.wait()
    subprocess.run(pipeline("r1", model, root), check=True, env=environment)
    weights = sorted((tmp_path / "whole").glob("*/checkpoints/*/model.safetensors"))
    assert len(weights) >= 6
    for file in weights:
        again = root / file.relative_to(tmp_path / "whole")
        assert again.read_bytes() == file.read_bytes(), file
    assert (root / "index.html").exists()
