"""The command line: the table resolves, every end has its status, help is quick and fits the terminal."""

import errno
import importlib
import importlib.util
import json
import os
import resource
import subprocess
import sys
from types import SimpleNamespace

import pytest

from rung import cli
from rung.commands import COMMANDS, Command
from rung.errors import RunStopped, UserError
from rung.keys import ALIASES, find
from rung.schema import leaves


def rung(*words: str, **environment: str) -> subprocess.CompletedProcess:
    env = os.environ | environment
    return subprocess.run([sys.executable, "-m", "rung", *words], capture_output=True, text=True, env=env)


@pytest.fixture
def command(monkeypatch):
    """Put a function behind `rung doctor` that ends in a way of our choosing."""

    def install(function):
        from rung.commands.doctor import Doctor

        monkeypatch.setitem(
            sys.modules, "rung.commands.made_up", SimpleNamespace(Doctor=Doctor, main=function)
        )
        monkeypatch.setitem(COMMANDS, "doctor", Command("made_up", "Doctor", "main", "", "tools"))

    return install


def written(command: Command):
    """The module of a command, or an expected failure while it is not written yet."""
    if importlib.util.find_spec(f"rung.commands.{command.module}") is None:
        pytest.xfail(f"rung/commands/{command.module}.py is not written yet")
    return importlib.import_module(f"rung.commands.{command.module}")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_resolves_and_explains_each_of_its_keys(name):
    command = COMMANDS[name]
    module = written(command)
    assert callable(getattr(module, command.function))
    settings_class = getattr(module, command.settings)
    assert settings_class.__doc__
    silent = [key for key, leaf in leaves(settings_class).items() if not leaf.help]
    if silent and all(key.startswith("method.") for key in silent):
        pytest.xfail(f"the method says nothing of {', '.join(silent)}")
    assert silent == []


def test_every_alias_leads_somewhere():
    tables = [leaves(getattr(written(command), command.settings)) for command in COMMANDS.values()]
    assert [alias for alias in ALIASES if not any(find(alias, table) for table in tables)] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_quick_and_imports_no_torch(name):
    written(COMMANDS[name])
    code = (
        "import sys; from rung.cli import status\n"
        "try: status(sys.argv[1:])\n"
        "finally: assert not {'torch', 'transformers'} & set(sys.modules), 'heavy import'"
    )

    def cost() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        words = [sys.executable, "-c", code, *name.split(), "--help"]
        done = subprocess.run(words, capture_output=True, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert (done.returncode, done.stderr) == (0, "")
        assert f"usage: rung {name}" in done.stdout
        return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime

    # Processor time, which on an idle machine is all of the wall time. A busy one spoils the caches: it may try again.
    assert any(cost() < 0.5 for _ in range(3))


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UserError("rows.jsonl:3: no messages"), 2, "rung: error: rows.jsonl:3: no messages"),
        (RunStopped("did 3 of 5 steps", 1), 1, "rung: did 3 of 5 steps"),
        (RunStopped("interrupted, saved", 130), 130, "rung: interrupted, saved"),
        (KeyboardInterrupt(), 130, "rung: interrupted"),
    ],
)
def test_each_end_has_its_status_and_one_line(command, capsys, error, code, said):
    def end(settings):
        raise error

    command(end)
    assert cli.status(["doctor"]) == code
    assert capsys.readouterr().err.strip() == said


def test_a_bug_keeps_its_traceback(command):
    def bug(settings):
        raise ZeroDivisionError

    command(bug)
    with pytest.raises(ZeroDivisionError):
        cli.status(["doctor"])


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (3, 3)])
def test_a_command_may_return_its_own_status(command, returned, code):
    command(lambda settings: returned)
    assert cli.status(["doctor", "--json"]) == code


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["sfft"], ["`sfft`", "did you mean `rung sft`?"]),
        (["dta", "show"], ["`dta`", "did you mean `rung data`?"]),
        (["data", "shwo"], ["`data shwo`", "did you mean `rung data show`?"]),
        (["zzzz"], ["`zzzz`", "`rung --help` lists the commands"]),
        (["doctor", "--jsn"], ["--jsn", "did you mean json?"]),
        (["runs", "show"], ["run (a path)", "add RUN"]),
        (["runs", "show", "/nonexistent"], ["/nonexistent is not a run"]),
    ],
)
def test_mistakes_end_in_2_with_the_remedy(capsys, words, parts):
    assert cli.status(words) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("rung: error: ")
    assert all(part in said.err for part in parts), said.err


@pytest.mark.parametrize(("words", "code"), [([], 2), (["--help"], 0), (["-h"], 0)])
def test_overview_lists_every_command(capsys, words, code):
    assert cli.status(words) == code
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in COMMANDS)


@pytest.mark.parametrize(("words", "code"), [(["runs"], 2), (["runs", "--help"], 0)])
def test_a_family_lists_its_own(capsys, words, code):
    assert cli.status(words) == code
    text = capsys.readouterr().out
    assert "runs compare" in text and "doctor" not in text


@pytest.mark.parametrize("width", [30, 40, 60, 80, 200])
def test_the_overview_fits_the_terminal(monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    text = cli.overview()
    assert max(map(len, text.splitlines())) <= width
    for command in COMMANDS.values():
        assert " ".join(command.help.split()) in " ".join(text.split())


def test_version_and_module_entry():
    done = rung("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, "rung 0.1.0\n", "")


@pytest.mark.parametrize(
    "output", ["print('x' * 1000000)", "[print('x') for _ in range(100000)]", "print('x')"]
)
def test_a_reader_that_goes_away_is_no_error(output):
    """Whether the pipe breaks within a print, between two, or only when the buffer is flushed at the end."""
    code = (
        "import sys; from rung import cli\n"
        f"cli.dispatch = lambda argv: (input(), {output}, 0)[-1]\n"
        "sys.exit(cli.status([]))"
    )
    pipe = subprocess.PIPE
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=buffered
    )
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    assert process.communicate("go\n")[1] == ""
    assert process.returncode == 141


def test_a_full_disk_is_said_without_a_traceback(monkeypatch, capsys):
    def write(argv):
        raise OSError(errno.ENOSPC, "No space left on device", "runs/a/calls.jsonl")

    monkeypatch.setattr(cli, "dispatch", write)
    assert cli.status([]) == 1
    said = capsys.readouterr().err
    assert (
        said.startswith("rung: the disk is full, runs/a/calls.jsonl could not be written.")
        and "--resume" in said
    )
    monkeypatch.setattr(cli, "dispatch", lambda argv: os.stat("/nowhere/at/all"))
    with pytest.raises(FileNotFoundError):  # another OSError is a bug and keeps its traceback
        cli.status([])


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_output_that_finds_a_full_disk_is_told_once():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "rung", "--version"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)


def test_config_explain(capsys):
    assert cli.status(["config", "explain", "command", "--command", "config explain"]) == 0
    assert capsys.readouterr().out.split("\n")[1:4] == [
        "  the command whose key it is",
        "  takes    text",
        "  default  sft",
    ]
    assert cli.status(["config", "explain", "lora_r"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("lora.rank\n") and "a whole number" in text and "lora_r" in text
    assert cli.status(["config", "explain"]) == 0
    text = capsys.readouterr().out
    assert all(key in text for key in ("optimizer.learning_rate", "lora.alpha", "step_tokens"))
    assert cli.status(["config", "explain", "lora.rnk"]) == 2
    assert "did you mean lora.rank" in capsys.readouterr().err
    assert cli.status(["config", "explain", "x", "--command", "sfft"]) == 2


def test_doctor_reports_as_json_and_as_a_page(capsys):
    if importlib.util.find_spec("rung.models.hub") is None:
        pytest.xfail("the hub is not written yet")
    assert cli.status(["doctor", "--no-measure", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["versions"]["torch"] == importlib.metadata.version("torch")
    assert report["extras"]["plot"]["installed"] is True
    assert report["machine"]["memory_gb"] > report["memory_free_gb"] > 0
    assert cli.status(["doctor", "--no-measure"]) == 0
    page = capsys.readouterr().out
    missing = [name for name, extra in report["extras"].items() if not extra["installed"]]
    for word in ("transformers", "memory", "extras", *(f'"rung[{name}]"' for name in missing)):
        assert word in page
