# ruff: noqa: E501  programs within strings
"""Every language: what its file says is consistent, and on machines that have it, right passes and wrong fails."""

import json
import subprocess
import sys

import pytest

from rung.commands.languages import version
from rung.errors import UserError
from rung.sandbox import bubblewrap, execute
from rung.sandbox.languages import LANGUAGES, language, toolchain
from rung.sandbox.languages.language import Toolchain
from rung.sandbox.pool import Pool, run
from rung.sandbox.program import Case, Limits, Program
from rung.sandbox.result import Broken, CompileError, Failed, Missing, Passed

DOUBLE = {  # reads a number, prints its double
    "python": "print(int(input()) * 2)",
    "typescript": 'const n: number = Number(require("fs").readFileSync(0, "utf8"));\nconsole.log(n * 2);',
    "javascript": 'console.log(Number(require("fs").readFileSync(0, "utf8")) * 2)',
    "go": 'package main\nimport "fmt"\nfunc main() { var n int; fmt.Scan(&n); fmt.Println(n * 2) }',
    "rust": 'fn main() { let mut s = String::new(); std::io::stdin().read_line(&mut s).unwrap(); println!("{}", s.trim().parse::<i64>().unwrap() * 2); }',
    "java": "public class Main { public static void main(String[] a) { System.out.println(new java.util.Scanner(System.in).nextInt() * 2); } }",
    "ocaml": 'let () = Printf.printf "%d\\n" (2 * int_of_string (String.trim (read_line ())))',
    "cpp": "#include <iostream>\nint main() { int n; std::cin >> n; std::cout << n * 2 << std::endl; }",
}
NONSENSE = "?? this is no program {{{"
SLOW = ("kotlin", "zig")  # ten seconds and more to compile


@pytest.fixture(scope="module")
def pool():
    try:
        bubblewrap.require()
    except UserError as error:
        pytest.skip(f"no isolation on this machine: {error}")
    with Pool(2) as pool:
        yield pool


@pytest.mark.parametrize("name", DOUBLE)
def test_right_passes_wrong_fails_and_nonsense_does_not_compile(pool, name):
    tools = toolchain(name)
    if tools is None:
        pytest.skip(f"{name} is not on this machine: {LANGUAGES[name].install}")
    cases = (Case("21\n", "42"), Case("-3\n", "-6"))
    wrong = DOUBLE[name].replace("* 2", "* 3").replace("(2 *", "(3 *")
    codes = (DOUBLE[name], wrong, NONSENSE)
    right, other, none = pool.map([Program(name, code, cases) for code in codes], Limits(compile_seconds=100))
    assert isinstance(right, Passed), right
    assert isinstance(other, Failed) and other.got == "63\n"
    assert isinstance(none, CompileError if tools.compile else Failed) and none.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SLOW, "hack"])
def test_the_slow_ones_run_their_smallest_program(pool, name):
    if toolchain(name) is None:
        pytest.skip(f"{name} is not on this machine: {LANGUAGES[name].install}")
    assert isinstance(run(Program(name, LANGUAGES[name].hello)), Passed)


def test_names_and_fences_mean_one_language_each():
    fences = [word for each in LANGUAGES.values() for word in each.fences]
    assert len(fences) == len(set(fences))
    assert all(language(word).name == each.name for each in LANGUAGES.values() for word in each.fences)
    assert len(LANGUAGES) == 11


@pytest.mark.parametrize("name", LANGUAGES)
def test_nothing_on_the_path_is_reported_as_missing(monkeypatch, tmp_path, name):
    if name == "python":
        pytest.skip("it runs rung")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    toolchain.cache_clear()
    sys.modules["rung.sandbox.languages.rust"].sysroot.cache_clear()
    try:
        assert isinstance(run(Program(name, ""), unsafe=True), Missing)
    finally:
        toolchain.cache_clear()
        sys.modules["rung.sandbox.languages.rust"].sysroot.cache_clear()


@pytest.mark.parametrize("script", ["sleep 60", "echo broken >&2; exit 1"])
def test_a_toolchain_that_hangs_or_is_broken_is_no_verdict_on_the_program(
    pool, monkeypatch, tmp_path, script
):
    (tmp_path / "cc.sh").write_text(script)
    tools = Toolchain(("./main",), compile=("/bin/sh", str(tmp_path / "cc.sh")), mounts=(str(tmp_path),))
    monkeypatch.setattr(execute, "toolchain", lambda name: tools)
    monkeypatch.setattr(execute, "HEALTHY", set())
    original = execute.Limits
    monkeypatch.setattr(execute, "Limits", lambda: original(compile_seconds=0.5))
    end = run(Program("go", "package main"), Limits(compile_seconds=0.5))
    assert isinstance(end, Broken) and "Go" in end.detail


def test_versions_are_asked_with_patience_but_not_for_ever(monkeypatch):
    monkeypatch.setattr("rung.commands.languages.ANSWER_SECONDS", 0.2)
    assert "did not answer" in version(("/bin/sleep", "9"))
    assert "broken" in version(("/nowhere/tool",))
    assert version(("/bin/echo", "tool 1.2")) == "tool 1.2"


def test_the_command_lists_every_language():
    said = subprocess.run(
        [sys.executable, "-m", "rung", "languages", "--json"], capture_output=True, text=True
    )
    report = json.loads(said.stdout)
    assert set(report["languages"]) == set(LANGUAGES)
    assert report["languages"]["python"]["version"] and report["sandbox"]
