"""`rung envs list|show` as a user sees them."""

import pytest

from rung.cli import status


def said(capsys, *words: str) -> str:
    assert status(["envs", *words]) in (0, None)
    return capsys.readouterr().out


def test_list_names_own_environments_and_every_set_of_reasoning_gym(capsys):
    out = said(capsys, "list")
    for name in (
        "arithmetic",
        "countdown",
        "guess",
        "lookup",
        "gsm8k:PATH",
        "FILE.py:FUNCTION",
        "chain_sum",
        "sudoku",
    ):
        assert name in out
    assert "codeio" not in out and "composite" not in out


def test_show_gives_prompt_reference_and_both_verdicts(capsys):
    out = said(capsys, "show", "arithmetic?digits=2")
    assert "10,000 training tasks, one turn" in out
    assert "What is" in out and 'after "Answer:"' in out and "reference" in out
    right, wrong = out.split("verdict")[1:]
    assert "value=1.0" in right and "value=0.0" in wrong


def test_show_a_task_by_its_index(capsys):
    out = said(capsys, "show", "arithmetic", "--index", "5", "--seed", "2")
    assert "arithmetic:train:2:5" in out and "the answers below are to arithmetic:example" in out


def test_show_plays_every_turn(capsys):
    out = said(capsys, "show", "guess")
    assert out.count("Higher.") >= 5 and "up to 6 turns of the model" in out
    out = said(capsys, "show", "arithmetic?tools=calculator&tools_in_template=true")
    assert "tools      calculator" in out and "84" in out  # 12 * (3 + 4)


def test_show_says_where_no_answer_is_known(capsys):
    assert "no answer is known to be right beforehand" in said(capsys, "show", "reasoning-gym/rush_hour")


@pytest.mark.parametrize("words", [("show", "arithmetik"), ("show", "arithmetic", "--index", "10000")])
def test_mistakes_exit_with_2(words, capsys):
    assert status(["envs", *words]) == 2
    assert "did you mean" in (err := capsys.readouterr().err) or "there is no task 10000" in err
