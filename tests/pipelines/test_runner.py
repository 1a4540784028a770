"""The runner: what is done is not done again, what was interrupted goes on, nothing half-done counts.

Stages are small scripts here, so that it is the runner that is tested; the last tests, which are slow, kill real ones.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from rung.errors import RunStopped, UserError
from rung.pipelines.recipe_file import read_recipe
from rung.pipelines.runner import located, prepare, run_recipe, write_record
from rung.pipelines.stage_key import Digests
from rung.run import Run

WRITE = """
import sys
from pathlib import Path
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
with open(Path(__file__).with_name("log"), "a") as log:
    log.write(given["--name"] + "\\n")
if given.get("--fail"):
    sys.exit(int(given["--fail"]))
text = "".join(Path(given[key]).read_text() for key in ("--from", "--also") if key in given)
out = Path(given["--out"])
out.mkdir(exist_ok=True)
(out / "text").write_text(text + given["--name"] + given.get("--text", "\\n"))
"""

CHAIN = """
stages:
  a: {script: SCRIPT, with: {name: a}}
  b: {script: SCRIPT, with: {name: b, from: "${a.folder}/text"}}
  c: {script: SCRIPT, with: {name: c}}
  d: {script: SCRIPT, with: {name: d, from: "${b.folder}/text", also: "${c.folder}/text"}}
"""


class Case:
    def __init__(self, folder: Path, text: str = CHAIN, script: str = WRITE):
        self.folder, self.log = folder, folder / "log"
        (folder / "write.py").write_text(script)
        self.log.write_text("")
        self.file, self.root = folder / "recipe.yaml", folder / "out"
        self.file.write_text(text.replace("SCRIPT", str(folder / "write.py")))

    def recipe(self, *overrides: str):
        return read_recipe(self.file, settings_of, overrides=overrides)

    def run(self, *overrides: str) -> str:
        """The stages that were run, by what they say themselves."""
        self.log.write_text("")
        run_recipe(self.recipe(*overrides), self.root, "the same again")
        return self.ran()

    def ran(self) -> str:
        return self.log.read_text().replace("\n", "")

    def places(self, *overrides: str):
        return {place.stage.name: place for place in located(self.recipe(*overrides), self.root, Digests())}


@dataclass(frozen=True)
class Rate:
    learning_rate: float = 1e-3


@dataclass(frozen=True)
class Train:
    data: tuple[str, ...] = ()
    out: str = ""
    resume: str = ""
    optimizer: Rate = field(default_factory=Rate)


@dataclass(frozen=True)
class Sample:
    env: str = ""
    out: str = ""
    resume: str = ""


@dataclass(frozen=True)
class Eval:
    env: str = ""
    out: str = ""


def settings_of(name: str) -> type:
    return {"train": Train, "eval": Eval, "sample": Sample}[name]


@pytest.fixture
def case(tmp_path) -> Case:
    return Case(tmp_path)


def test_a_recipe_runs_in_order_and_then_not_again(case, capfd):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert case.run() == "abcd"
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert (case.places()["d"].folder / "text").read_text() == "a\nb\nc\nd\n"
    assert case.run() == ""
    assert "[4/4] d: done before" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("change", "ran"), [("a.text=1", "abd"), ("b.text=1", "bd"), ("c.text=1", "cd"), ("d.text=1", "d")]
)
def test_a_changed_stage_runs_with_what_builds_on_it(case, change, ran):
    case.run()
    assert case.run(change) == ran
    assert case.run() == ""  # the results of before are still there under their own names
    assert case.run(change) == ""


def test_a_changed_script_is_a_changed_stage(case):
    case.run()
    (case.folder / "write.py").write_text(WRITE + "# changed\n")
    assert case.run() == "abcd"


def test_a_result_that_was_removed_is_made_again(case):
    case.run()
    folder = case.places()["b"].folder
    (folder / "text").unlink()
    folder.rmdir()
    assert case.run() == "b"


def test_a_folder_without_a_finished_record_does_not_count(case):
    case.run()
    place = case.places()["b"]
    (place.folder / "left").write_text("by a kill")
    for state in ("running", "failed", "stopped"):
        record = json.loads(place.record_file.read_text()) | {"state": state}
        place.record_file.write_text(json.dumps(record))
        assert case.run() == "b"
        assert not (place.folder / "left").exists()
    place.record_file.unlink()
    assert case.run() == "b"


def test_a_stage_that_fails_ends_the_run_with_its_code_and_keeps_what_is_done(case):
    with pytest.raises(RunStopped, match=r"the stage b ended with exit code 7.*the same again") as stop:
        case.run("b.fail=7")
    assert stop.value.code == 7 and case.ran() == "ab"
    assert case.places("b.fail=7")["b"].record()["state"] == "failed"
    assert case.run() == "bcd"


def test_a_stage_that_says_it_was_interrupted_has_stopped_and_not_failed(case):
    with pytest.raises(RunStopped, match=r"stopped in the stage b.*the same again") as stop:
        case.run("b.fail=130")
    assert stop.value.code == 130 and case.ran() == "ab"
    assert case.places("b.fail=130")["b"].record()["state"] == "stopped"


def test_a_stage_killed_from_outside_is_said(tmp_path):
    case = Case(tmp_path, script="import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(RunStopped, match="a was killed by signal 9") as stop:
        case.run()
    assert stop.value.code == 1


def test_nothing_is_trained_on_an_empty_file(tmp_path):
    text = (
        "stages:\n  a: {script: SCRIPT, stdout: rows.jsonl}\n  b: {script: SCRIPT, with: {data: '${a.file}'}}"
    )
    case = Case(tmp_path, text, script="print()")
    with pytest.raises(UserError, match=r"b reads .*rows.jsonl, and it has 0 rows: the stage a let nothing"):
        case.run()


def test_a_missing_file_is_said_before_there_is_a_folder(tmp_path):
    case = Case(tmp_path, "stages: {a: {command: train, with: {data: gone.jsonl}}}")
    with pytest.raises(UserError, match=r"a reads gone\.jsonl, and there is no such file"):
        case.run()
    assert not case.root.exists()


def test_a_file_in_a_stages_folder_is_looked_for_without_its_weight(tmp_path):
    case = Case(tmp_path, CHAIN.replace("${a.folder}/text", "${a.folder}/txt:0.5"))
    with pytest.raises(UserError, match=r"b reads .*/txt, and the stage a has left no such"):
        case.run()


def test_an_input_that_an_earlier_stage_did_not_leave_is_said(tmp_path):
    case = Case(tmp_path, CHAIN.replace("${a.folder}", "${a.rollouts}"))
    with pytest.raises(
        UserError, match=r"recipe.yaml:4: b reads .*rollouts/text, and the stage a has left no such"
    ):
        case.run()


def test_a_stage_that_does_not_write_its_file_has_failed(tmp_path):
    case = Case(tmp_path, "stages: {a: {script: SCRIPT, with: {out: rows.jsonl}}}", script="pass")
    with pytest.raises(RunStopped, match=r"did not write .*rows.jsonl"):
        case.run()
    assert case.places()["a"].record()["state"] == "failed"


def test_what_is_printed_becomes_a_file_only_when_the_stage_ends_well(tmp_path):
    script = "import sys\nprint('one', flush=True)\nsys.exit('--fail' in sys.argv)"
    case = Case(tmp_path, "stages: {a: {script: SCRIPT, stdout: said, with: {x: 1}}}", script)
    with pytest.raises(RunStopped):
        case.run("a.fail=1")
    assert list(case.places("a.fail=1")["a"].folder.iterdir()) == []
    case.run()
    assert case.places()["a"].output.read_text() == "one\n"


def test_time_and_memory_are_measured(tmp_path):
    script = "import time\nfilled = bytearray(200_000_000)\nfilled[::4096] = b'x' * len(filled[::4096])\ntime.sleep(0.3)"
    case = Case(tmp_path, "stages: {a: {script: SCRIPT, stdout: x}}", script)
    began = time.monotonic()
    # As a command: a child's peak begins at its parent's size, and pytest may be large by now.
    command = [sys.executable, "-m", "rung", "pipeline", "run", str(case.file), "--out", str(case.root)]
    subprocess.run(command, check=True)
    record = case.places()["a"].record()
    assert 0.2 < record["peak_memory"] < 0.3 and 0.3 <= record["seconds"] < time.monotonic() - began


def test_time_adds_up_over_interruptions_and_memory_is_the_most_there_was(case):
    (case.root / "pipeline").mkdir(parents=True)
    write_record(case.places()["a"], "stopped", seconds=1000.0, peak_memory=50.0)
    case.run()
    record = case.places()["a"].record()
    assert 1000 < record["seconds"] < 1100 and record["peak_memory"] == 50


# ---- interruptions ----


WAIT = """
import signal, sys, time
from pathlib import Path
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
out = Path(given["--out"])
out.mkdir()
ends = []
def saved(*_):
    with (out / "saved").open("a") as file:
        file.write("once ")
    ends.append(time.monotonic() + 0.3)
signal.signal(signal.SIGINT, saved)
signal.signal(signal.SIGTERM, saved)
(out / "begun").touch()
while not Path(__file__).with_name("go").exists():
    if ends and time.monotonic() > ends[0]:
        sys.exit(130)
    time.sleep(0.01)
(out / "text").write_text("through")
"""


@pytest.fixture
def start(tmp_path) -> Iterator[Callable[..., tuple[Case, subprocess.Popen]]]:
    """A runner in the middle of its first stage of two; none is left behind, whatever the test finds."""
    runners = []

    def start(code: int = 130) -> tuple[Case, subprocess.Popen]:
        text = "stages: {a: {script: SCRIPT}, b: {script: SCRIPT, with: {from: '${a.folder}'}}}"
        case = Case(tmp_path, text, WAIT.replace("130", str(code)))
        words = [sys.executable, "-m", "rung", "pipeline", "run", str(case.file), "--out", str(case.root)]
        runner = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True)
        runners.append(runner)
        wait_for((case.places()["a"].folder / "begun").exists)
        return case, runner

    yield start
    for runner in runners:
        runner.kill()
        runner.wait()
        runner.stderr.close()


def wait_for(condition, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_reaches_the_stage_once_and_says_how_to_go_on(start, tmp_path, number):
    case, runner = start()
    os.killpg(runner.pid, number)  # to the whole group, as a terminal sends it
    _, said = runner.communicate(timeout=60)
    assert runner.returncode == 130
    assert f"Go on with: rung pipeline run {case.file} --out {case.root}" in said
    place = case.places()["a"]
    assert (place.folder / "saved").read_text() == "once " and place.record()["state"] == "stopped"
    (tmp_path / "go").touch()
    case.run()
    assert sorted(path.name for path in place.folder.iterdir()) == ["begun", "text"]


def test_a_stage_that_ends_well_on_ctrl_c_is_done_and_no_other_begins(start):
    case, runner = start(code=0)
    runner.send_signal(signal.SIGINT)
    _, said = runner.communicate(timeout=60)
    assert runner.returncode == 130 and "stopped in the stage a; what is done is kept" in said
    assert case.places()["a"].done() and not case.places()["b"].folder.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux to end the child with its parent")
def test_kill_9_leaves_nobody_working_and_the_same_again_starts_clean(start, tmp_path):
    case, runner = start()
    children = psutil.Process(runner.pid).children()
    assert len(children) == 1
    with pytest.raises(UserError, match="is being run by another process"):
        case.run()
    runner.kill()
    runner.wait()
    wait_for(lambda: not children[0].is_running() or children[0].status() == psutil.STATUS_ZOMBIE)
    assert case.places()["a"].record()["state"] == "running"
    (tmp_path / "go").touch()
    case.run()
    assert (case.places()["a"].folder / "text").read_text() == "through"


# ---- going on ----


def command_case(tmp_path, command: str):
    case = Case(
        tmp_path,
        f"stages: {{a: {{command: {command}, with: {{{'data' if command == 'train' else 'env'}: x}}}}}}",
    )
    return case, case.places()["a"]


def test_a_training_with_a_checkpoint_is_resumed_and_one_without_begins_anew(tmp_path):
    case, place = command_case(tmp_path, "train")
    assert place.way() == "run"
    (case.root / "pipeline").mkdir(parents=True)
    Run.create(place.folder, {})
    assert place.way() == "run"
    partial = place.folder.with_name(place.folder.name + ".partial")
    partial.mkdir()
    assert prepare(place, [place], "run")[:2] == ["rung", "train"]
    assert not place.folder.exists() and not partial.exists()
    run = Run.create(place.folder, {})
    run.checkpoint_path(3).mkdir(parents=True)
    run.set_latest(3)
    run.stop("asked to")
    assert place.way() == "resume"
    assert prepare(place, [place], "resume") == ["rung", "train", "--resume", str(place.folder)]
    run.finish()
    assert place.way() == "finish"  # the command is through, and the runner was killed before it wrote so


def test_a_command_that_resumes_without_checkpoints_is_resumed_from_its_folder(tmp_path):
    _, place = command_case(tmp_path, "sample")
    assert place.way() == "run"
    Run.create(place.folder, {}).stop("asked to")
    assert place.way() == "resume"


def test_an_evaluation_goes_on_from_its_answers(tmp_path):
    case, place = command_case(tmp_path, "eval")
    (place.folder / "model.partial").mkdir(parents=True)
    (case.root / "pipeline").mkdir()
    write_record(place, "running")
    assert place.way() == "repeat"
    record = place.record()
    place.record_file.write_text(json.dumps(record | {"code": "another"}))
    assert place.way() == "run"  # answers of two sources do not mix
    write_record(place, "running")
    words = prepare(place, [place], "repeat")
    assert words[:3] == ["rung", "eval", "--config"] and (place.folder / "model.partial").exists()
    assert f"out: {place.folder}" in Path(words[3]).read_text()


# ---- real commands, killed in each stage ----

REAL = """
stages:
  demonstrate:
    command: sft
    with: {data: ROWS, model: MODEL, steps: 40, step_documents: 4, max_length: 200, save_every: 1}
  reinforce:
    command: grpo
    with: {env: arithmetic, model: "${demonstrate.model}", rounds: 8, prompts: 2, group: 4, max_tokens: 12,
           test_tasks: 4, train_tasks: 20, save_every: 1}
  measure:
    command: eval
    with: {models: "${reinforce.model}", env: arithmetic, tasks: 40, max_tokens: 12, samples: 4, slots: 4}
"""


@pytest.mark.slow
def test_killed_in_every_stage_the_models_are_bit_for_bit_those_of_an_undisturbed_run(
    tmp_path, tiny_folder, rows_file
):
    file = tmp_path / "recipe.yaml"
    file.write_text(REAL.replace("ROWS", str(rows_file)).replace("MODEL", str(tiny_folder)))
    words = [sys.executable, "-m", "rung", "pipeline", "run", str(file), "--out"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*words, str(tmp_path / "whole")], check=True, env=environment)
    root = tmp_path / "killed"
    begun = {
        "demonstrate": "demonstrate-*/LATEST", "reinforce": "reinforce-*/LATEST",
        "measure": "measure-*/*.partial/samples.jsonl",
    }  # fmt: skip
    for stage, sign in begun.items():
        runner = subprocess.Popen([*words, str(root)], env=environment)
        wait_for(lambda sign=sign: any(path.stat().st_size for path in root.glob(sign)), 900)
        runner.kill()
        runner.wait()
        state = json.loads(next((root / "pipeline").glob(f"{stage}-*.json")).read_text())["state"]
        assert state == "running", "the stage was through before it could be killed"
    subprocess.run([*words, str(root)], check=True, env=environment)
    whole = sorted(tmp_path.glob("whole/*/checkpoints/*/model.safetensors"))
    assert len(whole) >= 2
    for weights in whole:
        again = root / weights.relative_to(tmp_path / "whole")
        assert again.read_bytes() == weights.read_bytes(), weights
    answers = [next(folder.glob("measure-*/*/samples.jsonl")) for folder in (tmp_path / "whole", root)]
    assert answers[0].read_bytes() == answers[1].read_bytes()
