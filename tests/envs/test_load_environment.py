"""The spelling of environments: names, options, tools, and what is said of mistakes."""

import subprocess
import sys

import pytest

from rung.envs.load import load_environment
from rung.envs.options import members, split_options, structured
from rung.errors import UserError


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("arithmetik", "did you mean arithmetic"),
        ("nothing like it at all", "there is no environment 'nothing like it at all'"),
        ("arithmetic:somewhere", "there is no environment 'arithmetic:somewhere'"),
        ("arithmetic?digit=2", "did you mean digits"),
        ("arithmetic?digits", "option 'digits' has no value"),
        ("arithmetic?digits=2&digits=3", "given twice"),
        ("arithmetic?digits=two", "digits='two' is not of the kind int"),
        ("arithmetic?digits=0", "not between 1 and 18"),
        ("arithmetic?operations=+x", r"not made of \+ - \*"),
        ("arithmetic?format=xml", "no answer format 'xml'; write plain, tags, think, none"),
        ("arithmetic?tools=hammer", "there is no tool 'hammer'"),
        ("arithmetic?max_turns=3", "max_turns is about tools"),
        ("guess?tools=calculator", "has turns of its own"),
        ("guess?numbers=1", "leaves nothing to guess"),
        ("", "there is no environment ''"),
    ],
)
def test_mistakes_are_named_with_a_remedy(spec, says):
    with pytest.raises(UserError, match=says):
        load_environment(spec)


def test_names_hold_what_changes_the_tasks_and_nothing_else():
    assert (
        load_environment("arithmetic?format=tags&operations=+&digits=3").name
        == "arithmetic?digits=3&operations=+"
    )
    assert load_environment("arithmetic?tools=calculator&max_turns=2").name == "arithmetic"


def test_splitting():
    assert split_options("a?x=1&y-z=b=c") == ("a", {"x": "1", "y_z": "b=c"})
    assert members("a?ops=[+,-]") == [("a?ops=[+,-]", None)]
    assert members("a?ops=[+,-]=2,b=1e-1") == [("a?ops=[+,-]", 2.0), ("b", 0.1)]
    assert members("rows:a=b.jsonl,gsm8k:x") == [("rows:a=b.jsonl", None), ("gsm8k:x", None)]
    assert (
        structured("[+,-]") == ["+", "-"] and structured("[1, 2]") == [1, 2] and structured("text") == "text"
    )


def test_sizes():
    environment = load_environment("arithmetic", train_size=7, test_size=0)
    assert (len(environment.train), len(environment.test)) == (7, 0)
    assert (
        len(load_environment("arithmetic").train) == 10_000
        and len(load_environment("arithmetic").test) == 200
    )


def test_no_torch():
    code = (
        "import sys; from rung.envs.load import load_environment as load; load('arithmetic,guess').train[0]; "
        "print([m for m in ('torch', 'transformers', 'reasoning_gym', 'datasets', 'math_verify') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
