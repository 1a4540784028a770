"""`rung reward`, `rung score` and reward models as rewards, end to end on a tiny model."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from rung.cli import status
from rung.errors import UserError
from rung.metrics import METRICS
from rung.models.scalar import load_scalar
from rung.pipelines.judging import reward_named
from rung.pipelines.scoring import Member, Scorer, open_scorer
from rung.rewards.score import Abstain, Attempt, Score
from rung.rewards.workers import Graders
from rung.run import Run


def write(file: Path, rows) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def chat(text):
    return [{"role": "user", "content": text}]


def say(text):
    return [{"role": "assistant", "content": text}]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("rm")
    pairs = [
        {"prompt": chat("q" * (i % 5 + 1)), "chosen": say(f"xy{i}" * (i % 3 + 1)), "rejected": say(f"zq{i}")}
        for i in range(24)
    ]
    margins = [row | {"margin": i % 3} for i, row in enumerate(pairs)]
    thumbs = [
        {
            "prompt": row["prompt"],
            "completion": row["chosen"] if i % 2 else row["rejected"],
            "label": bool(i % 2),
        }
        for i, row in enumerate(pairs)
    ]
    steps = [
        {"prompt": row["prompt"], "completions": ["ab", f"cd{i}", "ef"], "labels": [1, i % 2, 0.5]}
        for i, row in enumerate(pairs)
    ]
    made = {"pairs": pairs, "margins": margins, "thumbs": thumbs, "steps": steps}
    return {name: write(folder / f"{name}.jsonl", rows) for name, rows in made.items()}


@pytest.fixture(autouse=True)
def one_thread(tmp_path, monkeypatch):
    monkeypatch.setenv("RUNG_CACHE", str(tmp_path / "cache"))
    torch.set_num_threads(1)


def words(folder, data, out, *more) -> list[str]:
    fixed = ["--model", folder, "--data", data, "--out", out, "--max-length", "200", "--step-pairs", "6"]
    fixed += ["--eval-share", "0.25", "--precision", "fp32", "--optimizer.learning-rate", "1e-3"]
    return [str(word) for word in ["reward", *fixed, "--micro-tokens", "250", *more]]


def metrics(run: Path) -> list[dict]:
    return [
        {name: value for name, value in row.items() if not METRICS[name].machine}
        for row in Run.open(run).metrics()
    ]


def outcome(run: Path):
    last = run / "checkpoints" / (run / "LATEST").read_text().strip()
    found = {str(p.relative_to(last)): p.read_bytes() for p in sorted(last.rglob("*")) if p.is_file()}
    return metrics(run), found, (run / "calibration.json").read_bytes()


@pytest.fixture(scope="module")
def trained(tiny_folder, files, tmp_path_factory):
    """One run of each kind."""
    folder = tmp_path_factory.mktemp("trained")
    torch.set_num_threads(1)
    for kind, data, more in (
        ("pairs", "pairs", ()), ("other", "margins", ("--seed", "1", "--method.centre", "0.01")),
        ("outcome", "thumbs", ("--kind", "outcome")), ("process", "steps", ("--kind", "process")),
        ("bare", "pairs", ("--eval-share", "0")),
    ):  # fmt: skip
        assert status(words(tiny_folder, files[data], folder / kind, *more)) == 0
    return folder


def test_a_run_reports_its_calibration_and_is_a_model_transformers_opens(trained, files):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    run = trained / "pairs"
    calibration = json.loads((run / "calibration.json").read_text())
    assert calibration["accuracy"]["count"] == 6 and calibration["length"]["prefers_longer"]["count"] > 0
    last = metrics(run)[-1]
    assert last["eval_pair_accuracy"] == pytest.approx(calibration["accuracy"]["value"])
    assert {"eval_loss", "eval_score_gap"} <= last.keys()
    folder = run / "checkpoints" / (run / "LATEST").read_text().strip()
    about = load_scalar(run).about
    assert (about.kind, about.mean, about.deviation) == (
        "pairs",
        calibration["mean"],
        calibration["deviation"],
    )
    row = json.loads(files["pairs"].read_text().splitlines()[0])
    [verdict] = open_scorer([str(run)], precision="fp32").verdicts([(row["prompt"], row["chosen"])])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    theirs = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    ids = tokenizer.apply_chat_template(row["prompt"] + row["chosen"], return_tensors="pt", return_dict=True)
    assert theirs(ids["input_ids"]).logits.item() == pytest.approx(verdict.value, abs=1e-5)
    assert "above chance" in Run.open(run).status()["reason"] or "coin" in Run.open(run).status()["reason"]


VARIANTS = {"full": (), "lora": ("--lora.rank", "4"), "bf16": ("--precision", "bf16")}


@pytest.fixture(scope="module")
def broken(tiny_folder, files, tmp_path_factory) -> dict[str, tuple[list, Path, list]]:
    """Each killed in its fourth step and resumed, from one process, since loading torch takes longest."""
    folder, jobs = tmp_path_factory.mktemp("killed"), []
    for name, more in VARIANTS.items():
        arguments = ("--steps", "5", "--save-every", "2", "--lora.dropout", "0.1", *more)
        line = words(tiny_folder, files["margins"], folder / name, *arguments)
        jobs.append(
            {"words": line, "out": str(folder / name), "kill": ["rung.train", "_finish_gradients", 4]}
        )
    (folder / "jobs.json").write_text(json.dumps(jobs))
    command = [sys.executable, str(Path(__file__).with_name("rl_kills.py")), str(folder / "jobs.json")]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    endings = json.loads(done.stdout.splitlines()[-1])
    return {
        name: (job["words"], Path(job["out"]), end)
        for name, job, end in zip(VARIANTS, jobs, endings, strict=True)
    }


@pytest.mark.parametrize("name", VARIANTS)
def test_killed_and_resumed_it_is_the_same_run_to_the_bit(broken, tmp_path, name):
    line, run, (died, resumed, said) = broken[name]
    assert (died, resumed) == (-signal.SIGKILL, 0) and "resumed after step 2" in said, said
    straight = [str(tmp_path / "straight") if word == str(run) else word for word in line]
    assert status(straight) == 0
    assert outcome(tmp_path / "straight") == outcome(run)


def test_margins_are_part_of_what_a_resumed_run_is_held_to(tiny_folder, files, tmp_path, capsys, monkeypatch):
    import rung.train

    original = rung.train._finish_gradients

    def interrupting(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGINT)
        return original(*args, **kwargs)

    data = tmp_path / "margins.jsonl"
    shutil.copy(files["margins"], data)
    with monkeypatch.context() as patch:
        patch.setattr(rung.train, "_finish_gradients", interrupting)
        assert status(words(tiny_folder, data, tmp_path / "run", "--steps", "5")) == 130
    write(data, [json.loads(line) | {"margin": 0.5} for line in data.read_text().splitlines()])
    assert status(["reward", "--resume", str(tmp_path / "run")]) == 2
    assert "digest" in capsys.readouterr().err


def test_margin_of_the_row_reaches_the_loss(tiny_folder, files, tmp_path):
    """Weights at their start, learning rate 0: the mean loss differs by what the margins say."""
    still = ("--steps", "1", "--step-pairs", "18", "--optimizer.learning-rate", "0")
    for name in ("pairs", "margins"):
        assert status(words(tiny_folder, files[name], tmp_path / name, *still)) == 0
    plain, with_margin = (metrics(tmp_path / name)[0]["loss"] for name in ("pairs", "margins"))
    assert plain == pytest.approx(np.log(2), abs=0.02)
    assert with_margin > plain + 0.3  # margins 0, 1, 2: ln(1 + e^m) is 0.69, 1.31, 2.13 at no gap
    assert metrics(tmp_path / "pairs")[0]["score_gap"] == metrics(tmp_path / "margins")[0]["score_gap"]


def test_the_gradient_is_that_of_the_pairs_however_they_lie(tiny_folder, files, tmp_path):
    for name, micro in (("one", "120"), ("all", "4000")):
        arguments = words(
            tiny_folder, files["pairs"], tmp_path / name, "--steps", "3", "--optimizer.clip", "0"
        )
        arguments[arguments.index("--micro-tokens") + 1] = micro
        assert status(arguments) == 0
    one, many = (metrics(tmp_path / name) for name in ("one", "all"))
    for a, b in zip(one, many, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5) and a["grad_norm"] == pytest.approx(
            b["grad_norm"], rel=1e-3
        )


def test_outcome_and_process_models_say_what_they_are(trained):
    outcome_model, process_model = (load_scalar(trained / kind) for kind in ("outcome", "process"))
    assert outcome_model.about.kind == "outcome" and process_model.about.step_end == "\n\n"
    assert {"label_accuracy", "positive_labels", "eval_label_accuracy"} <= metrics(trained / "process")[
        -1
    ].keys()
    scorer = open_scorer([str(trained / "outcome")])
    [verdict] = scorer.verdicts([(chat("q"), say("xy"))])
    assert 0 < verdict.value < 1


def test_a_process_model_is_read_at_the_ends_of_steps(trained):
    """min, product, last and mean of sigmoid of the values at the marks of the document itself."""
    member = Member.open(str(trained / "process"), "fp32")
    asked = (chat("q"), say("ab\n\ncd7\n\nef"))
    [example] = member.examples([asked])
    [value_T] = member.values([example])
    text = [member.encoder.tokenizer.decode(example.token_ids[: t + 1]) for t in range(len(example))]
    ends = [
        next(t for t, said in enumerate(text) if said.endswith(end)) for end in ("ab\n\n", "cd7\n\n", "ef")
    ]
    chances = 1 / (1 + np.exp(-value_T[ends].astype(float)))
    expected = {"min": chances.min(), "product": chances.prod(), "last": chances[-1], "mean": chances.mean()}
    for aggregate, value in expected.items():
        [found] = member.scores([asked], aggregate)
        assert found == pytest.approx(value)


def test_batched_scores_are_those_of_one_at_a_time(trained):
    scorer = open_scorer([str(trained / "pairs")], precision="fp32")
    asked = [(chat("q" * n), say("xy" * (n % 4 + 1))) for n in range(1, 40)]
    together = [verdict.value for verdict in scorer.verdicts(asked)]
    assert together == pytest.approx([scorer.verdicts([one])[0].value for one in asked], abs=1e-5)
    assert scorer.verdicts([]) == []


def test_an_ensemble_standardises_its_members(trained):
    names = [str(trained / "pairs"), str(trained / "other")]
    asked = [(chat("q"), say("xy1")), (chat("qq"), say("zzz"))]
    rows = []
    for name in names:
        about = load_scalar(name).about
        scores = [v.value for v in open_scorer([name], precision="fp32").verdicts(asked)]
        rows.append([(score - about.mean) / about.deviation for score in scores])
    rows = np.array(rows)
    for combine, expected in (
        ("mean", rows.mean(0)),
        ("worst", rows.min(0)),
        ("uncertain", rows.mean(0) - 2 * rows.var(0)),
    ):
        found = open_scorer(names, combine=combine, weight=2.0, precision="fp32").verdicts(asked)
        assert [v.value for v in found] == pytest.approx(expected, rel=1e-5)
        assert [v.parts["disagreement"] for v in found] == pytest.approx(rows.std(0), rel=1e-5)


def test_members_that_cannot_be_compared_are_refused(trained):
    with pytest.raises(UserError, match="does not know how its scores are spread"):
        open_scorer([str(trained / "pairs"), str(trained / "bare")])
    with pytest.raises(UserError, match="of one kind"):
        open_scorer([str(trained / "pairs"), str(trained / "outcome")])
    with pytest.raises(UserError, match="No reward model was named"):
        open_scorer([])


def test_a_policy_is_no_reward_model(tiny_folder):
    with pytest.raises(UserError, match="is no reward model"):
        open_scorer([str(tiny_folder)])


def test_what_cannot_be_read_abstains_and_the_rest_is_scored(trained):
    scorer = open_scorer([str(trained / "pairs")])
    asked = [
        (chat("q"), say("")),
        (chat("q"), say("xy")),
        (chat("q"), say("x" * 400)),
        (chat("q"), chat("again")),
    ]
    found = scorer.verdicts(asked)
    assert [type(v) for v in found] == [Abstain, Score, Abstain, Abstain]
    assert "reads 256" in found[2].reason


def test_a_reward_model_with_another_tokenizer_writes_the_conversation_in_its_own(trained, tmp_path):
    """The attempt carries ids of a policy's tokenizer, which mean nothing here and must not matter."""
    reward = reward_named(f"rm:{trained / 'pairs'}")
    attempts = [
        Attempt(tuple(chat("q")), "xy", token_ids=ids, messages=tuple(say("xy")))
        for ids in ((), (9_999, 123_456))
    ]
    with Graders(reward) as graders:
        first, second = graders.grade(attempts)
    [own] = open_scorer([str(trained / "pairs")]).verdicts([(chat("q"), say("xy"))])
    assert first == second == own


def test_one_without_a_chat_template_is_refused_for_conversations(trained, tmp_path):
    folder = tmp_path / "bare"
    latest = Run.open(trained / "pairs").latest()
    shutil.copytree(latest, folder)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="no chat template"):
        reward_named(f"rm:{folder}")
    text = open_scorer([str(folder)]).verdicts([("2+2=", "4")])
    assert isinstance(text[0], Score)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("?combine=best", "mean, worst, uncertain"),
        ("?wight=2", "no option 'wight'"),
        ("?weight=x", "no number"),
    ],
)
def test_misspelt_reward_options_are_refused(trained, spec, message):
    with pytest.raises(UserError, match=message):
        reward_named(f"rm:{trained / 'pairs'}{spec}")


def test_rung_score_adds_scores_and_says_why_not(trained, files, tmp_path, capsys):
    rows = [json.loads(line) for line in files["pairs"].read_text().splitlines()[:4]]
    rows.insert(1, rows[0] | {"chosen": say("")})
    data, out = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    model = str(trained / "pairs")
    assert status(["score", str(data), "--model", model, "--out", str(out)]) == 0
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(found) == 5 and found[1]["score"] is None and "empty" in found[1]["unscored"]
    expected = open_scorer([model]).verdicts(
        [(rows[0]["prompt"], rows[0][side]) for side in ("chosen", "rejected")]
    )
    assert [found[0]["chosen_score"], found[0]["rejected_score"]] == pytest.approx(
        [v.value for v in expected]
    )
    said = capsys.readouterr().err
    assert "5, 4 scored" in said and "1: chosen is an empty answer" in said and "accuracy" in said
    assert status(["score", str(data), "--model", model, "--out", str(out)]) == 2
    assert "never written over" in capsys.readouterr().err
    assert status(["score", str(out), "--model", model]) == 2
    assert "has a column" in capsys.readouterr().err


def test_rung_score_keeps_the_best_in_their_order(trained, files, tmp_path, capsys):
    model, data = str(trained / "outcome"), str(files["thumbs"])
    assert status(["score", data, "--model", model]) == 0
    scores = [json.loads(line)["score"] for line in capsys.readouterr().out.splitlines()]
    assert status(["score", data, "--model", model, "--best", "0.25"]) == 0
    kept = [json.loads(line)["score"] for line in capsys.readouterr().out.splitlines()]
    assert sorted(kept) == sorted(scores)[-6:] and kept == [s for s in scores if s in kept]
    middle = sorted(scores)[12]
    assert status(["score", data, "--model", model, "--threshold", repr(middle)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 12
    assert status(["score", data, "--model", model, "--best", "0.5", "--threshold", "0"]) == 2
    assert status(["score", data, "--model", model, "--best", "0"]) == 2


@pytest.mark.parametrize(
    ("kind", "rows", "message"),
    [
        ("pairs", [{"prompt": chat("q"), "chosen": say("a"), "rejected": say("a")}], "equals chosen"),
        ("pairs", [{"prompt": chat("q"), "chosen": say(""), "rejected": say("a")}], "empty answer"),
        ("pairs", [{"chosen": chat("q") + say("a"), "rejected": chat("r") + say("a")}], "different prompts"),
        ("pairs", [{"prompt": chat("q"), "chosen": say("a"), "rejected": say("b"), "margin": -1}], "margin is -1"),
        ("pairs", [
            {"prompt": chat("q"), "chosen": say("a"), "rejected": say("b"), "margin": 1},
            {"prompt": chat("q"), "chosen": say("a"), "rejected": say("b")},
        ], "rows.jsonl:2: has no margin"),
        ("outcome", [{"prompt": chat("q"), "completion": say("a"), "label": "yes"}], "label"),
        ("outcome", [{"prompt": chat("q"), "completion": say("a"), "label": True}] * 8, "All 8 labels are good"),
        ("process", [{"prompt": chat("q"), "completions": ["a"], "labels": [True, False]}], "2 entries for 1"),
    ],
)  # fmt: skip
def test_bad_rows_stop_before_there_is_a_run_folder(tiny_folder, tmp_path, capsys, kind, rows, message):
    data = write(tmp_path / "rows.jsonl", rows)
    assert status(words(tiny_folder, data, tmp_path / "run", "--kind", kind)) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_pairs_cut_to_equal_are_left_out_and_counted(tiny_folder, tmp_path, capsys):
    rows = [{"prompt": chat("q"), "chosen": say(f"{i}a"), "rejected": say(f"{i}b")} for i in range(8)]
    rows.append({"prompt": chat("q"), "chosen": say("x" * 90 + "a"), "rejected": say("x" * 90 + "b")})
    data = write(tmp_path / "rows.jsonl", rows)
    arguments = words(tiny_folder, data, tmp_path / "run", "--overlong", "truncate", "--steps", "1")
    arguments[arguments.index("--max-length") + 1] = "60"
    assert status(arguments) == 0
    assert "1 pairs are equal token by token" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--method.margin", "-1", "--method.margin is -1"),
        ("--kind", "best", "best"),
        ("--max-length", "999", "context"),
    ],
)
def test_bad_options_stop_before_there_is_a_run_folder(
    tiny_folder, files, tmp_path, capsys, flag, value, message
):
    assert status(words(tiny_folder, files["pairs"], tmp_path / "run", flag, value)) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_a_scorer_of_members_checks_its_ways(trained):
    member = Member.open(str(trained / "pairs"))
    with pytest.raises(UserError, match="min, product, last, mean"):
        Scorer([member], aggregate="max")
