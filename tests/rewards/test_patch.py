"""SWE-RL's reward on hand-made diffs: form, application, argument order, the mean over files."""

import difflib

import pytest

from rung.rewards.patch import PatchSimilarity, apply, diff, edits, similarity
from rung.rewards.score import Attempt, Failure

OLD = "def f(x):\n    y = x\n    return y\n"
NEW = "def f(x):\n    y = x + 1\n    return y\n"


def block(search="    y = x", replace="    y = x + 1", path="a.py"):
    return f"```python\n### {path}\n<<<<<<< SEARCH\n{search}\n=======\n{replace}\n>>>>>>> REPLACE\n```\n"


def answer(*blocks, thought="hm"):
    return f"<think>{thought}</think>\n<solution>\n{''.join(blocks)}</solution>"


def grade(text, files=None, right=None, **settings):
    task = {"extra": {"files": files or {"a.py": OLD}}, "reference": right or {"a.py": NEW}}
    return PatchSimilarity(**settings)(Attempt((), text, **task))


def test_the_right_change_is_worth_one():
    assert grade(answer(block())).value == 1.0
    assert grade(block(), tags=False).value == 1.0


def test_the_diff_has_three_lines_of_context_and_no_file_names():
    assert diff(OLD, NEW) == "@@ -1,3 +1,3 @@\n def f(x):\n-    y = x\n+    y = x + 1\n     return y"
    assert diff(OLD, OLD) == ""
    long = "".join(f"{i}\n" for i in range(20))
    assert diff(long, long.replace("10\n", "ten\n")).splitlines()[1:4] == [" 7", " 8", " 9"]
    # A deleted line that looks like a header stays.
    assert "--- gone" in diff("-- gone\nb\n", "b\n")


def test_a_near_change_is_worth_the_ratio():
    model, wanted = diff(OLD, OLD.replace("= x", "= x + 2")), diff(OLD, NEW)
    # One character of the diff differs: 2 * matches / total.
    assert len(model) == len(wanted)
    expected = (len(model) - 1) / len(model)
    assert grade(answer(block(replace="    y = x + 2"))).value == pytest.approx(expected)


def test_the_ratio_is_not_symmetric_and_the_model_comes_first():
    old = "a\n"
    left, right = "tide\n", "diet\n"  # difflib's own example of asymmetry, inside diffs
    first = difflib.SequenceMatcher(None, diff(old, left), diff(old, right), autojunk=False).ratio()
    second = difflib.SequenceMatcher(None, diff(old, right), diff(old, left), autojunk=False).ratio()
    assert first != second
    assert similarity({"f": old}, {"f": left}, {"f": right}) == first


def test_long_diffs_are_compared_without_the_junk_heuristic():
    old, new = "", "ab " * 400
    other = "ab " * 399 + "cd "
    expected = difflib.SequenceMatcher(None, diff(old, other), diff(old, new), autojunk=False).ratio()
    heuristic = difflib.SequenceMatcher(None, diff(old, other), diff(old, new)).ratio()
    assert heuristic < expected == similarity({"f": old}, {"f": other}, {"f": new})


def test_files_touched_by_one_side_only_count_zero():
    files = {"a.py": OLD, "b.py": OLD, "c.py": "untouched"}
    both = {"a.py": NEW, "b.py": NEW}
    assert grade(answer(block(), block(path="b.py")), files, both).value == 1.0
    assert grade(answer(block()), files, both).value == 0.5
    assert grade(answer(block(), block(path="b.py")), files, {"a.py": NEW}).value == 0.5
    assert grade(answer(block(path="b.py")), files, {"a.py": NEW}).value == 0.0


def test_no_change_on_either_side_is_one():
    there_and_back = answer(block(), block(search="    y = x + 1", replace="    y = x"))
    assert grade(there_and_back, right={"a.py": OLD}).value == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "",
        block(),  # no tags
        answer(),
        answer(block(), thought=" "),
        answer(block()).replace("</think>", ""),
        answer(block()) + "<solution></solution>",
        f"<solution>{block()}</solution><think>hm</think>",
        answer(block(search="    z = x")),
        answer(block(search="y = x")),  # the indentation is missing
        answer(block(replace="    y = x")),  # changes nothing
        answer(block(path="b.py")),
        answer(block(search="")),  # a new file where one stands
        answer(block().replace("### a.py\n", "")),
        answer(block().replace(">>>>>>> REPLACE\n", "")),
        answer(block().replace("=======\n", "")),
        answer(block().replace("```python\n", "").replace("```", "")),
    ],
)
def test_broken_form_is_minus_one(text):
    assert grade(text).value == -1.0
    assert grade(text).parts == {"applies": 0.0}


def test_edits_in_order_on_the_edited_file():
    second = block(search="    y = x + 1", replace="    y = x + 2")
    assert apply(edits(block() + second), {"a.py": OLD}) == {"a.py": OLD.replace("= x", "= x + 2")}
    twice = {"a.py": "p\np\n"}
    assert apply([("a.py", "p", "q")], twice) == {"a.py": "q\np\n"}
    assert apply([("new.py", "", "hello")], {})["new.py"].strip() == "hello"
    assert edits(block(search="```\nx", replace="### y")) == [("a.py", "```\nx", "### y")]


def test_a_broken_task_fails():
    assert isinstance(PatchSimilarity()(Attempt((), answer(block()), {"a.py": NEW})), Failure)
    assert isinstance(
        PatchSimilarity()(Attempt((), answer(block()), extra={"files": {"a.py": OLD}})), Failure
    )
