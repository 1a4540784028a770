"""Users' functions in three signatures, as they were written for TRL, verl and rung."""

import pickle
import textwrap

import pytest

from rung.errors import UserError
from rung.rewards.calling import judge, judge_all
from rung.rewards.score import Abstain, Attempt, Failure, Score
from rung.rewards.user import files_behind, load_file, load_reward

ASKED = ({"role": "system", "content": "be brief"}, {"role": "user", "content": "2+2?"})
ATTEMPTS = [
    Attempt(ASKED, "4", "4", token_ids=(7, 8), task="sums:1", extra={"level": 1}),
    Attempt(ASKED, "five", "4", token_ids=(9,), task="sums:2", extra={"level": 2}),
]


def load(tmp_path, body, name="f"):
    file = tmp_path / "rewards.py"
    file.write_text(textwrap.dedent(body))
    return load_reward(f"{file}:{name}")


def test_trl_with_messages(tmp_path):
    reward = load(
        tmp_path,
        """
        def f(prompts, completions, answer, level, completion_ids, **kwargs):
            assert kwargs["reference"] == answer
            assert [p[-1]["content"] for p in prompts] == ["2+2?"] * len(prompts)
            assert [p[0]["role"] for p in prompts] == ["system"] * len(prompts)
            said = [c[0]["content"] for c in completions]
            return [10 * l + (s == a) + len(i) / 10 for s, a, l, i in zip(said, answer, level, completion_ids)]
        """,
    )
    assert (reward.style, reward.batched) == ("trl", True)
    assert judge_all(reward, ATTEMPTS) == [Score(11.2), Score(20.1)]
    assert judge(reward, ATTEMPTS[1]) == Score(20.1)
    assert pickle.loads(pickle.dumps(reward)) == reward


@pytest.mark.parametrize("annotation", ["list[str]", "'list[str]'", "'List[str]'"])
def test_trl_with_text(tmp_path, annotation):
    reward = load(
        tmp_path, f"def f(completions: {annotation}, prompts=None):\n return [len(c) for c in completions]"
    )
    assert judge_all(reward, ATTEMPTS) == [Score(1.0), Score(4.0)]


def test_trl_with_every_turn(tmp_path):
    turns = ({"role": "assistant", "content": "call"}, {"role": "tool", "content": "4"})
    attempt = Attempt(ASKED, "4", messages=(*turns, {"role": "assistant", "content": "4"}))
    reward = load(tmp_path, "def f(completions, **kw): return [float(len(c)) for c in completions]")
    assert judge(reward, attempt) == Score(3.0)


def test_trl_none_abstains_and_nothing_becomes_zero(tmp_path):
    reward = load(
        tmp_path,
        """
        import math, numpy
        def f(completions, **kwargs):
            return numpy.array([1.0, 0.0]) if len(completions) == 2 else [None, math.nan, "x", True, 2]
        """,
    )
    assert judge_all(reward, ATTEMPTS) == [Score(1.0), Score(0.0)]
    verdicts = judge_all(reward, [ATTEMPTS[0]] * 5)
    assert verdicts[0] == Abstain("f returned None")
    assert [verdict.kind for verdict in verdicts[1:3]] == ["invalid", "invalid"]
    assert verdicts[3:] == [Score(1.0), Score(2.0)]


@pytest.mark.parametrize("returned", ["[]", "[1.0, 2.0]", "1.0", "'1'", "None", "{'score': 1.0}"])
def test_trl_of_wrong_length_or_kind(tmp_path, returned):
    reward = load(tmp_path, f"def f(completions, **kwargs): return {returned}")
    verdict = judge(reward, ATTEMPTS[0])
    assert isinstance(verdict, Failure) and verdict.kind == "invalid"
    assert all(isinstance(v, Failure) for v in judge_all(reward, ATTEMPTS * 2))


def test_trl_asynchronous(tmp_path):
    body = """
    import asyncio
    async def f(completions, **kwargs):
        await asyncio.sleep(0)
        return [1.0] * len(completions)
    """
    assert judge_all(load(tmp_path, body), ATTEMPTS) == [Score(1.0), Score(1.0)]


def test_trl_missing_column_fails_and_says_which(tmp_path):
    verdict = judge(load(tmp_path, "def f(completions, colour, **kwargs): return [1.0]"), ATTEMPTS[0])
    assert verdict.kind == "exception" and "colour" in verdict.detail


VERL = """
def f(data_source, solution_str, ground_truth, extra_info=None):
    return {returned}
"""


@pytest.mark.parametrize(
    ("returned", "verdict"),
    [
        ("float(solution_str == ground_truth)", Score(1.0)),
        ("extra_info['level']", Score(1.0)),
        ("float(data_source == 'sums')", Score(1.0)),
        ("{'score': 0.5, 'acc': True, 'pred': '4'}", Score(0.5, {"acc": 1.0})),
        ("{'acc': 1.0}", "invalid"),
        ("{'score': None}", "invalid"),
        ("{'score': float('nan')}", "invalid"),
        ("None", "invalid"),
        ("1 / 0", "exception"),
    ],
)
def test_verl(tmp_path, returned, verdict):
    reward = load(tmp_path, VERL.format(returned=returned))
    assert (reward.style, reward.batched) == ("verl", False)
    found = judge(reward, ATTEMPTS[0])
    assert (found.kind if isinstance(verdict, str) else found) == verdict


def test_verl_columns_of_its_own_rows(tmp_path):
    reward = load(tmp_path, VERL.format(returned="{'gsm8k': 1.0}[data_source] + extra_info['index']"))
    row = {"data_source": "gsm8k", "extra_info": {"index": 2}}
    assert judge(reward, Attempt((), "4", "4", extra=row)) == Score(3.0)


def test_verl_with_fewer_parameters(tmp_path):
    reward = load(tmp_path, "def f(solution_str, ground_truth): return float(solution_str == ground_truth)")
    assert judge_all(reward, ATTEMPTS) == [Score(1.0), Score(0.0)]


def test_rungs_own(tmp_path):
    body = """
    from rung.rewards.score import Abstain, Score
    def f(attempt, bonus=0.5):
        return Score(bonus, {"n": 1.0}) if attempt.answer == "4" else Abstain("eh")
    """
    reward = load(tmp_path, body)
    assert reward.style == "rung"
    assert judge_all(reward, ATTEMPTS) == [Score(0.5, {"n": 1.0}), Abstain("eh")]


def test_neighbouring_files_and_files_of_one_name(tmp_path):
    for folder, value in (("one", 1.0), ("two", 2.0)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"neighbour_{folder}.py").write_text(f"VALUE = {value}")
        body = f"from neighbour_{folder} import VALUE\ndef f(attempt): return VALUE"
        assert judge(load(tmp_path / folder, body), ATTEMPTS[0]) == Score(value)
    one, two = (load_file(str(tmp_path / folder / "rewards.py")).f for folder in ("one", "two"))
    assert (pickle.loads(pickle.dumps(one)), pickle.loads(pickle.dumps(two))) == (one, two)
    assert files_behind(pickle.dumps(one)) == (str(tmp_path / "one" / "rewards.py"),)


@pytest.mark.parametrize(
    ("body", "name", "says"),
    [
        ("def g(attempt): return 1.0", "f", r"no function 'f'; it has \['g'\]"),
        ("f = 3", "f", "no function"),
        ("def f(a, b): return 1.0", "f", r"takes \('a', 'b'\)"),
        ("def f(): return 1.0", "f", "completions"),
        ("def f(attempt, *, key): return 1.0", "f", "completions"),
        ("def f(:", "f", "SyntaxError"),
        ("import no_such_module", "f", "no_such_module"),
        ("raise SystemExit(3)", "f", "SystemExit"),
    ],
)
def test_what_cannot_work_is_told(tmp_path, body, name, says):
    with pytest.raises(UserError, match=says):
        load(tmp_path, body, name)


@pytest.mark.parametrize(
    "spec", ["f", "rewards.py", "rewards.py:", "missing.py:f", "rewards.txt:f", "rewards.py:a.b"]
)
def test_specs_that_name_nothing(tmp_path, monkeypatch, spec):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rewards.py").write_text("def f(attempt): return 1.0")
    with pytest.raises(UserError, match=r"write path/to/file\.py:function"):
        load_reward(spec)
    assert load_reward("rewards.py:f").name == "f"
