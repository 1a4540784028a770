"""`rung diagnose` on run folders as rung leaves them: real small runs, damaged ones, several at once."""

import json

import pytest

from rung import cli
from rung.run import Run


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")


@pytest.fixture(scope="module")
def sft(tmp_path_factory, tiny_folder, rows_file):
    out = tmp_path_factory.mktemp("runs") / "sft"
    words = ["--data", str(rows_file), "--model", str(tiny_folder), "--steps", "30", "--eval-share", "0.2"]
    words += ["--eval-every", "5", "--step-tokens", "256", "--max-length", "128", "--precision", "fp32"]
    assert cli.status(["sft", *words, "--optimizer.learning-rate", "3e-3", "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def rl(tmp_path_factory, tiny_folder):
    """A model that knows nothing: it is never right, and its answers run into the limit."""
    out = tmp_path_factory.mktemp("runs") / "rl"
    words = ["--env", "arithmetic", "--model", str(tiny_folder), "--rounds", "12", "--prompts", "4"]
    words += ["--max-tokens", "8", "--test-tasks", "10", "--eval-every", "6", "--precision", "fp32"]
    assert cli.status(["rl", *words, "--out", str(out)]) == 0
    return out


@pytest.fixture
def diagnose(capsys):
    """`(exit status, output)`."""

    def call(*words):
        capsys.readouterr()
        code = cli.status(["diagnose", *map(str, words)])
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return call


def test_a_healthy_run_says_what_was_looked_at(sft, diagnose):
    code, out = diagnose(sft)
    assert code == 0 and "nothing wrong was found" in out
    assert "held-out loss: " in out and "learning: loss " in out and "spikes need more than 32 steps" in out


def test_a_sick_run_has_findings_with_remedies_and_the_folder_is_left_alone(rl, diagnose):
    before = {path: path.stat().st_mtime_ns for path in rl.rglob("*")}
    code, out = diagnose(rl)
    assert code == 0 and "dead groups" in out and "truncated" in out and "remedy: " in out
    assert out.index("not seen") > out.index("looked at")
    assert before == {path: path.stat().st_mtime_ns for path in rl.rglob("*")}


def test_json_is_one_object_a_run(sft, rl, diagnose):
    code, out = diagnose(sft, rl, "--json")
    healthy, sick = map(json.loads, out.splitlines())
    assert code == 0 and healthy["findings"] == [] and healthy["run"] == str(sft)
    assert {"dead groups", "truncated"} <= {finding["name"] for finding in sick["findings"]}
    assert sick["state"] == "finished" and "stability" in sick["looked_at"] and sick["not_seen"]


def test_strict_fails_on_what_is_to_stop_for(tmp_path, sft, diagnose):
    run = Run.create(tmp_path / "burst", {"command": "sft"})
    run.log(1, {"loss": 2.0, "grad_norm": 1.0})
    run.fail("The loss of step 2 is nan, from [red]rows.jsonl:7\x1b[31m. Nothing was saved")
    code, out = diagnose(run.path, "--strict")
    assert (
        code == 1
        and "stop  instability, step 2" in out
        and "[red]rows.jsonl:7" in out
        and "\x1b[31m" not in out
    )
    assert diagnose(run.path)[0] == 0 and diagnose(sft, "--strict")[0] == 0
    assert diagnose(sft, run.path, "--strict")[0] == 1


@pytest.mark.parametrize("width", ["40", "120"])
def test_several_runs_side_by_side(sft, rl, diagnose, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", width)
    _, out = diagnose(sft, rl)
    assert max(map(len, out.splitlines())) <= int(width)
    rows = [line.split() for line in out.splitlines()]
    assert ["sft", "rl"] in rows
    assert any(row[:4] == ["dead", "groups", "-", "warn,"] for row in rows)


def test_a_run_without_a_step_is_not_called_healthy(tmp_path, diagnose):
    run = Run.create(tmp_path / "young", {"command": "sft"})
    code, out = diagnose(run.path)
    assert code == 0 and "nothing could be looked at" in out and "no step was logged" in out


@pytest.mark.parametrize(
    ("name", "content"),
    [("config.json", "{"), ("config.json", "[]"), ("metrics.jsonl", "3\n"), ("metrics.jsonl", '{"loss": 1}\n'),
     ("metrics.jsonl", "no row\n"), ("status.json", "{"), ("rollouts/round-000003.parquet", "not Parquet")],
)  # fmt: skip
def test_a_damaged_folder_is_refused_by_name(tmp_path, diagnose, name, content):
    run = Run.create(tmp_path / "broken", {"command": "sft"})
    (run.path / "rollouts").mkdir()
    (run.path / name).write_text(content)
    code, out = diagnose(run.path)
    assert code == 2 and "broken" in out and "Traceback" not in out


def test_what_is_no_run_is_said_before_anything_is_read(tmp_path, sft, diagnose):
    code, out = diagnose(sft, tmp_path)
    assert code == 2 and "no config.json" in out and "looked at" not in out
    assert diagnose()[0] == 2
