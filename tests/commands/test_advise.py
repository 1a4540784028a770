"""`rung advise`: command lines that rung itself accepts, plans, questions, JSON."""

import itertools
import json
import shlex
import subprocess
import sys
from types import SimpleNamespace

import pytest

from rung.cli import status
from rung.commands import advise, advise_plan
from rung.commands.advise import Advise, ask, described
from rung.commands.advise_plan import Machine, Step, machine_of, memory_here, read, steps_of
from rung.config import parse
from rung.errors import UserError
from rung.models.config import DecoderConfig
from rung.pipelines.advice import SIGNALS, TABLE
from rung.pipelines.plan import Plan, Rates, plan
from rung.settings_judge import JudgeReward

SMOLLM2 = dict(
    model_type="llama", vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
    num_attention_heads=9, num_key_value_heads=3, max_position_embeddings=8192, tie_word_embeddings=True,
)  # fmt: skip
LARGE = SMOLLM2 | dict(
    hidden_size=960,
    intermediate_size=2560,
    num_hidden_layers=32,
    num_attention_heads=15,
    num_key_value_heads=5,
)
PLACES = {
    "demonstrations": "my rows.jsonl", "pairs": "pairs.jsonl", "thumbs": "thumbs.jsonl", "verifier": "gsm8k:data",
    "reward": "rm", "judge": "http://127.0.0.1:1/v1", "teacher": "large",
}  # fmt: skip
ROOMY = Machine(100.0, Rates(1e12))


@pytest.fixture(autouse=True)
def shapes(monkeypatch):
    monkeypatch.setattr(
        advise_plan, "config_of", lambda name: DecoderConfig.from_hf(LARGE if name == "large" else SMOLLM2)
    )


def run(capsys, *words) -> str:
    assert status(["advise", "--teraflops", "1", "--memory", "100", *words]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.method)
@pytest.mark.parametrize("memory", [100.0, 0.1])
def test_every_line_is_accepted_by_the_command_it_names(row, memory):
    places = {name: PLACES[name] for name in row.needs}
    steps = steps_of(row, Advise(**places, out="my runs"), places, Machine(memory, Rates(1e12)))
    for step in steps:
        words = shlex.split(shlex.join(step.words))
        assert words == list(step.words) and words[0] == "rung"
        assert read(words[1:]) is not None  # the command's own parser, which knows every key and its type
        assert step.plan.phases or words[1] == "merge-adapter"
    starts = {step.words[step.words.index("--out") + 1] for step in steps if "--out" in step.words}
    assert len(starts) == len(steps)  # no step writes where another did


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.method)
def test_a_step_reads_what_an_earlier_one_writes(row):
    places = {name: PLACES[name] for name in row.needs}
    written: list[str] = []
    for step in steps_of(row, Advise(**places), places, ROOMY):
        for word in step.words:
            path = word.removeprefix("rm:")
            if path.startswith("runs/") and word != step.words[step.words.index("--out") + 1]:
                assert any(path == out or path.startswith(out + "/") for out in written), word
        written.append(step.words[step.words.index("--out") + 1])


def test_stages_follow_each_other_and_an_adapter_is_folded_in_between():
    row = next(row for row in TABLE if row.method == "GRPO after SFT")
    places = {name: PLACES[name] for name in row.needs}
    first, second = steps_of(row, Advise(), places, ROOMY)
    assert first.words[:4] == ("rung", "sft", "--model", "smollm2-135m")
    assert second.words[:4] == ("rung", "grpo", "--model", "runs/sft") and not second.changed
    first, fold, last = steps_of(row, Advise(), places, Machine(1.0, Rates(1e12)))
    assert first.words[-4:] == ("--lora.rank", "16", "--optimizer.learning-rate", "1e-03")
    assert fold.words == ("rung", "merge-adapter", "runs/sft", "--out", "runs/sft-merged")
    assert last.words[3] == "runs/sft-merged"


@pytest.mark.parametrize(
    "method", ["RLAIF: DPO on a judge's pairs", "SFT on revised answers", "rejection sampling", "RLHF"]
)
def test_what_asks_or_judges_moves_no_weight_so_the_training_after_it_starts_from_the_start(method):
    row = next(row for row in TABLE if row.method == method)
    places = {name: PLACES[name] for name in row.needs}
    *_, last = steps_of(row, Advise(), places, ROOMY)
    assert last.words[2:4] == ("--model", "smollm2-135m")


def test_a_line_that_has_adapters_already_gets_none_from_what_makes_it_fit():
    row = next(row for row in TABLE if row.method == "SFT with LoRA")
    [step] = steps_of(row, Advise(), {"demonstrations": "d.jsonl"}, Machine(0.1, Rates(1e12)))
    assert step.words.count("--lora.rank") == 1
    assert step.changed == ("--micro-tokens", "512", "--recompute")


def test_a_command_gets_the_first_change_with_which_it_fits():
    row = next(row for row in TABLE if row.method == "DPO")
    places = {"pairs": "p.jsonl"}
    usual = steps_of(row, Advise(), places, ROOMY)[0].memory
    found = [steps_of(row, Advise(), places, Machine(m, Rates(1e12)))[0] for m in (usual / 0.89, usual, 1.0)]
    assert found[0].memory > found[1].memory > found[2].memory
    for step in found:
        assert step.plan == plan(
            "dpo", read(step.words[1:]), DecoderConfig.from_hf(SMOLLM2), rates=Rates(1e12)
        )
    assert steps_of(row, Advise(), places, Machine(usual / 0.89, Rates(1e12)))[0].changed == ()
    assert steps_of(row, Advise(), places, Machine(usual, Rates(1e12)))[0].changed == (
        "--micro-tokens",
        "512",
    )
    lora = steps_of(row, Advise(), places, Machine(1.0, Rates(1e12)))[0]
    assert lora.changed[-2:] == ("--optimizer.learning-rate", "1e-05")  # ten times that of full weights


def test_a_live_teacher_takes_its_own_weights_and_a_served_one_none():
    student, teacher = (DecoderConfig.from_hf(values) for values in (SMOLLM2, LARGE))
    count = 32 * (960 * 64 * (2 * 15 + 2 * 5) + 3 * 960 * 2560) + 49152 * 960 + 960 * 65
    for command, more in (("distill", []), ("distill-on-policy", ["--env", "e"])):
        words = [command, "--teacher", "large", "--precision", "bf16", *more]
        alone, asked = (
            plan(command, read(some), student, teacher=teacher)
            for some in ([*words, "--teacher", "http://x/v1"], words)
        )
        assert "teacher" not in alone.phases["training"]
        assert asked.phases["training"]["teacher"] == pytest.approx(2 * count / 1e9)
        assert asked.memory - alone.memory == pytest.approx(2 * count / 1e9)
    kept = plan("distill", read(["distill", "--teacher", "large", "--top-k", "8"]), student, teacher=teacher)
    assert "teacher" not in kept.phases["training"]


def test_a_teacher_that_writes_the_rows_is_planned_by_its_own_size():
    row = next(row for row in TABLE if row.method == "SFT on a teacher's answers")
    asked, taught = steps_of(row, Advise(teacher="large"), {"teacher": "large"}, ROOMY)
    assert (
        asked.words[:4] == ("rung", "rft", "--model", "large")
        and "runs/teacher/demonstrations.jsonl" in taught.words
    )
    assert asked.plan == plan("rft", read(asked.words[1:]), DecoderConfig.from_hf(LARGE), rates=Rates(1e12))


def test_a_served_teacher_is_asked_for_its_likeliest_tokens():
    row = next(row for row in TABLE if row.method == "distillation on rows")
    places = {"teacher": "http://x/v1", "demonstrations": "d.jsonl"}
    [step] = steps_of(row, Advise(), places, ROOMY)
    assert read(step.words[1:]).top_k == 20


def test_only_a_teacher_in_memory_is_asked_for_whole_distributions_of_the_students_own_words():
    row = next(row for row in TABLE if row.method == "on-policy distillation")
    for teacher, method in (("large", "gkd"), ("http://x/v1", "reverse_kl")):
        [step] = steps_of(row, Advise(), {"teacher": teacher}, ROOMY)
        assert read(step.words[1:]).method == method


def test_time_is_known_where_the_rows_are_there(tmp_path, capsys):
    assert "time unknown" in run(capsys, "--pairs", str(tmp_path / "p.jsonl"))
    (tmp_path / "p.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n' * 64)
    found = json.loads(run(capsys, "--pairs", str(tmp_path / "p.jsonl"), "--json"))
    assert found["steps"][0]["seconds"] is not None and found["steps"][0]["remark"] == ""


def test_text_and_json_say_the_same(capsys):
    words = ["--pairs", "p.jsonl", "--verifier", "gsm8k:data", "--afford", "displacement"]
    found, text = json.loads(run(capsys, *words, "--json")), run(capsys, *words)
    assert (
        found["method"] == "IPO"
        and found["learns_from"] == ["pairs"]
        and list(found["unused"]) == ["verifier"]
    )
    assert found["alternative"]["risks_not_afforded"] and found["fits"] and found["memory_here_gb"] == 100
    for said in (
        found["method"],
        found["why"],
        found["ceiling"],
        found["alternative"]["steps"][0]["command"],
    ):
        assert said in text
    left_out = ", ".join(found["alternative"]["risks_not_afforded"])
    assert f"which --afford leaves out: {left_out}\n" in text
    assert "--afford leaves out" not in run(capsys, *words[:-2])
    assert f"{found['steps'][0]['memory_gb']:.1f} GB" in text and "likelihood displacement" in text
    assert found["steps"][0]["memory_gb"] == pytest.approx(
        max(sum(parts.values()) for parts in found["steps"][0]["phases_gb"].values()), abs=0.02
    )


def test_what_does_not_fit_is_said(capsys):
    assert status(["advise", "--pairs", "p", "--teraflops", "1", "--memory", "0.5"]) == 0
    said = capsys.readouterr().out
    assert (
        "warning: that is more than the 0.5 GB there are" in said
        and "to fit, it has --micro-tokens 512" in said
    )
    assert "warning" not in run(capsys, "--pairs", "p")


def test_every_step_has_to_fit():
    steps = [Step(("rung",), Plan({"training": {"weights": size}})) for size in (2.0, 3.0)]
    assert [described(TABLE[0], steps, memory)["fits"] for memory in (2.5, 3.0)] == [False, True]


def test_the_machine_is_the_one_told_and_else_this_one(monkeypatch):
    told = machine_of(16, 2)
    assert (told.memory, told.rates.matrix) == (16, 2e12)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(total=32 * 10**9))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert memory_here() == machine_of(0, 2).memory == 32
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr(
        "torch.cuda.get_device_properties", lambda i: SimpleNamespace(total_memory=80 * 10**9)
    )
    assert memory_here() == 80


def test_a_time_with_a_remark_is_a_bound():
    remark = "at most: as if every answer were max_tokens long"
    bound = Step(("rung",), Plan({"training": {"weights": 2.0}}, 7200.0, remark)).as_object()
    assert advise_plan.said(bound) == ["2.0 GB", "at most 2:00:00, as if every answer were max_tokens long"]
    exact = Step(("rung",), Plan({"training": {"weights": 2.0}}, 7200.0)).as_object()
    assert advise_plan.said(exact) == ["2.0 GB", "about 2:00:00"]
    assert advise_plan.said(Step(("rung",), Plan({}, remark="folds")).as_object()) == [
        "no memory to speak of",
        "folds",
    ]


def test_a_server_cannot_be_sampled_by_rft(capsys):
    places = ["--teacher", "http://x/v1", "--verifier", "gsm8k:data"]
    assert run(capsys, *places).startswith("method   GRPO: ")
    places[1] = "large"
    assert run(capsys, *places).startswith("method   GRPO after a teacher's checked answers: ")


def test_a_judge_file_is_shown_where_a_line_names_one(capsys):
    assert "judge.yaml holds   judge: http://x/v1" in run(capsys, "--judge", "http://x/v1")
    assert "holds" not in run(capsys, "--pairs", "p")


def test_a_judge_of_pairs_is_asked_for_duels(capsys, tmp_path):
    """Online DPO learns from comparisons; the file that its line names must say so, and be a judge file."""
    found = json.loads(run(capsys, "--judge", "http://x/v1", "--json"))
    assert found["alternative"]["method"] == "online DPO with a judge"
    [step] = found["alternative"]["steps"]
    assert step["command"] == (
        "rung online-dpo --model smollm2-135m --env rows:prompts.jsonl --reward judge.yaml --out runs/online"
    )
    file = tmp_path / "judge.yaml"
    file.write_text(found["files"]["judge.yaml"])
    given = parse(JudgeReward, ["--config", str(file)], "judge file")
    assert (given.judge, given.by) == ("http://x/v1", "critique")
    graded = json.loads(
        run(capsys, "--judge", "x", "--json", "--afford", "sampling", "over-optimisation", "entropy-collapse")
    )
    assert graded["method"] == "GRPO with a judge" and graded["files"] == {"judge.yaml": "judge: x"}
    assert "judge.yaml holds   judge: http://x/v1\n                   by: critique" in run(
        capsys, "--judge", "http://x/v1"
    )


def test_a_plan_stands_beside_every_answer_and_holds_what_online_dpo_holds(capsys):
    found = json.loads(run(capsys, "--reward", "rm:runs/rm", "--json"))
    assert (found["method"], found["learns_from"]) == ("PPO on a reward model", ["reward"])
    assert "--reward rm:runs/rm --critic.start runs/rm" in found["steps"][0]["command"]
    online = found["alternative"]["steps"][0]
    assert "rung online-dpo" in online["command"] and "--reward rm:runs/rm " in online["command"]
    training = online["phases_gb"]["training"]
    assert (
        training["reference"] == training["reward model"] == training["weights"] and "critic" not in training
    )
    assert online["seconds"] > 0 and online["remark"].startswith("at most")


def test_what_else_learns_from_the_same_is_named_with_its_lines(capsys):
    found = json.loads(run(capsys, "--pairs", "p.jsonl", "--json"))
    text = run(capsys, "--pairs", "p.jsonl")
    assert [row["method"] for row in found["further"]] == ["IPO", "RLHF", "online DPO by a reward model"]
    for row in found["further"]:
        assert f"further  {row['method']}: {row['why']}" in text
        for step in row["steps"]:
            assert step["command"] in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "no signal was named"),
        (("--afford", "sampling"), "no signal was named"),
        (("--pairs", "p", "--afford", "none"), "every method that learns from pairs risks"),
        (("--pairs", "p", "--afford", "none", "sampling"), "none and sampling"),
        (("--pairs", "p", "--afford", "forgeting"), "forgetting"),
        (("--judge", "judge.yaml"), "is a judge file"),
        (("--reward", "judge.yaml"), "is no folder of a reward model"),
        (("--reward", "score.py:kind"), "is a --verifier"),
        (("--teacher", "smollm2-135m"), "from itself is 0"),
        (("--pairs", "p", "--memory", "-1"), "--memory is -1"),
        (("--pairs", "p", "--memory", "inf"), "--memory is inf"),
        (("--pairs", "p", "--teraflops", "nan"), "--teraflops is nan"),
        (("--pear", "p"), "pairs"),
    ],
)
def test_what_cannot_be_answered_is_an_error(capsys, words, message):
    assert status(["advise", *words]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_questions_give_what_flags_give():
    answers = iter(["", "p.jsonl ", "", "", "", "", "", "y", "", "YES", "", "n", "no"])
    places, afford = ask(lambda question: next(answers))
    assert places == {"pairs": "p.jsonl"}
    assert afford == ("forgetting", "entropy-collapse", "mode-collapse", "sampling")
    assert next(answers, None) is None


def test_nothing_afforded_and_nothing_there():
    answers = iter(["d.jsonl", *[""] * 6, *["y"] * 6])
    assert ask(lambda question: next(answers)) == ({"demonstrations": "d.jsonl"}, ("none",))
    assert ask(lambda question: "") == ({}, ())


def test_a_terminal_is_asked(monkeypatch, capsys):
    monkeypatch.setattr(advise.sys, "stdin", type("Tty", (), {"isatty": staticmethod(lambda: True)}))
    answers = itertools.chain(["d.jsonl"], itertools.repeat(""))
    monkeypatch.setattr("builtins.input", lambda question: next(answers))
    assert "rung sft --model smollm2-135m --data d.jsonl" in run(capsys)


def test_an_empty_plan_is_no_memory():
    assert (
        Step(("rung",), plan("merge-adapter", read(["merge-adapter", "x", "--out", "y"]), None)).memory == 0
    )  # type: ignore[arg-type]


def test_the_flags_are_the_signals():
    assert all(hasattr(Advise(), name) for name in SIGNALS)


def test_help_needs_no_torch():
    code = "import sys; from rung.cli import status\ntry: status(['advise', '--help'])\nexcept SystemExit: pass\n"
    code += "print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).splitlines()[-1] == "False"


def test_failures_are_spelt_alike():
    from typing import get_args

    from rung.pipelines.advice import FAILURES

    assert get_args(advise.Failure) == (*FAILURES, "none")
    with pytest.raises(UserError):
        read(["sft", "--nonsense", "1"])
