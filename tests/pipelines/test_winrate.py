"""Win rates by a judge: sides, games, the numbers against their own formulas, and a judge that dies in between."""

import json
import re
from math import log

import pytest
from judge_server import Fake, server

from rung import endpoint
from rung.cli import status
from rung.errors import RunStopped, UserError
from rung.eval.ratings import win_rate
from rung.pipelines.winrate import Side, answer_of, numbers, of_file, of_result, play, report
from rung.rewards.asking import Ledger
from rung.rewards.judge import Pairwise


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(endpoint, "PAUSES", (0.01,))


def side(name, answers):
    talk = {key: ({"role": "user", "content": key},) for key in answers}
    return Side(name, {key: (talk[key], answer) for key, answer in answers.items()})


def seen(text):
    return [re.search(rf"<answer_{x}>\n(.*?)\n</answer_{x}>", text, re.DOTALL).group(1) for x in "ab"]


def more_stars(text):
    a, b = (each.count("*") for each in seen(text))
    return "Verdict: " + ("A" if a > b else "B" if b > a else "tie")


def judge(say=more_stars, **budget):
    return Pairwise(Ledger(Fake(lambda q: say(q.messages[-1]["content"]), **budget)))


def test_wins_ties_and_elo_are_those_of_the_games():
    good = side("good", {f"{i}": "**" for i in range(10)})
    poor = side("poor", {f"{i}": "***" if i < 2 else "** " if i < 4 else "" for i in range(10)})
    judged = play([good, poor], judge())
    assert [game.outcome for game in judged.games] == [0.0] * 2 + [0.5] * 2 + [1.0] * 6
    [[one], elo] = numbers(judged)
    assert one.raw.value == pytest.approx(0.7) == win_rate(judged.games, "good").value
    # Bradley-Terry of two: the log odds of the win rate, on the Elo scale
    assert elo["good"].value - elo["poor"].value == pytest.approx(400 / log(10) * log(0.7 / 0.3))
    assert judged.consistent[("good", "poor")] == 10
    assert judged.games[0].first_length == 2.0 and judged.games[0].second_length == 3.0


def test_three_sides_meet_pairwise_on_what_all_share():
    a, b = side("a", {"1": "*", "2": "*", "3": "x"}), side("b", {"1": "", "2": "**"})
    c = side("c", {"2": "***", "1": "* ", "4": ""})
    judged = play([a, b, c], judge())
    assert {(g.first, g.second, g.prompt): g.outcome for g in judged.games} == {
        ("a", "b", "1"): 1.0, ("a", "b", "2"): 0.0, ("a", "c", "1"): 0.5, ("a", "c", "2"): 0.0,
        ("b", "c", "1"): 0.0, ("b", "c", "2"): 0.0,
    }  # fmt: skip
    assert judged.unshared == 2 and "2 prompts were not answered by all" in report(judged)
    assert len({g.prompt for g in play([a, b, c], judge(), limit=1).games}) == 1


def test_a_judge_of_places_wins_nobody_anything_and_is_told_apart():
    judged = play(
        [side("a", {"1": "x", "2": "y"}), side("b", {"1": "u", "2": "v"})], judge(lambda text: "Verdict: A")
    )
    assert {g.outcome for g in judged.games} == {0.5} and judged.consistent[("a", "b")] == 0
    assert "0%" in report(judged)


def test_without_a_verdict_it_is_counted_and_neither_tie_nor_loss():
    def say(text):
        return "well" if "odd" in text else more_stars(text)

    judged = play([side("a", {"1": "odd", "2": "*"}), side("b", {"1": "", "2": ""})], judge(say))
    assert len(judged.games) == 1 and judged.abstained[("a", "b")] == {"the judge gave no verdict": 1}
    with pytest.raises(RunStopped, match="1  the judge gave no verdict"):
        numbers(play([side("a", {"1": "odd"}), side("b", {"1": ""})], judge(say)))


def test_a_win_for_length_alone_disappears_at_equal_length():
    def longer(text):
        a, b = map(len, seen(text))
        # the longer one wins, but in every fifth prompt, so that length does not sort the wins
        return "Verdict: " + ("A" if (a > b) != ("fifth" in text) else "B")

    lengths = [(20 + i, 10 + 5 * (i % 5)) for i in range(40)]
    word = {i: f"fifth {i}" if i % 5 == 0 else f"p {i}" for i in range(40)}
    a = side("a", {word[i]: "a" * n for i, (n, _) in enumerate(lengths)})
    b = side("b", {word[i]: "b" * n for i, (_, n) in enumerate(lengths)})
    [[one], _] = numbers(play([a, b], judge(longer)))
    assert one.controlled.length_effect.value > 0 and one.controlled.controlled.value < one.raw.value


def test_what_cannot_be_computed_is_said_beside_what_can():
    [[one], elo] = numbers(play([side("a", {"1": "*"}), side("b", {"1": ""})], judge()))
    assert one.raw.value == 1.0 and "at least 10 games" in one.controlled and "never took half a point" in elo


def test_no_prompt_in_common_is_an_error():
    with pytest.raises(UserError, match="no prompt in common"):
        play([side("a", {"1": ""}), side("b", {"2": ""})], judge())


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        ({"completion": "x"}, "x"),
        ({"completion": [{"role": "assistant", "content": "x"}]}, "x"),
        ({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "x"}]}, "x"),
        ({"messages": [{"role": "user", "content": "q"}]}, None),
        ({"prompt": "q"}, None),
    ],
)
def test_answers_are_found_in_rows(row, answer):
    assert answer_of(row) == answer


def files(tmp_path, stars=(2, 1), count=6):
    for name, n in zip("ab", stars, strict=True):
        rows = [{"prompt": f"q{i}", "completion": "*" * (n if i else 3 - n) + f" {i}"} for i in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [str(tmp_path / f"{name}.jsonl") for name in "ab"]


def command(tmp_path, state, *words):
    return status(
        [
            "eval",
            "winrate",
            *words,
            "--judge",
            state.url,
            "--concurrency",
            "1",
            "--out",
            str(tmp_path / "out"),
        ]
    )


def test_a_judge_that_dies_mid_way_goes_on_without_judging_twice(tmp_path, capsys):
    sides = files(tmp_path)
    with server() as state:
        state.say = lambda asked: more_stars(asked["messages"][-1]["content"])
        state.trouble = lambda number: 502 if number >= 5 else None
        assert command(tmp_path, state, *sides) == 1
        assert "the same command goes on" in capsys.readouterr().err
        assert not (tmp_path / "out" / "report.json").exists()
        state.trouble, state.asked = (lambda number: None), []
        assert command(tmp_path, state, *sides) == 0
        assert len(state.asked) == 12 - 5
        assert "83.3%" in capsys.readouterr().out
        assert command(tmp_path, state, *sides) == 0 and len(state.asked) == 7
    told = json.loads((tmp_path / "out" / "report.json").read_text())
    assert told["pairs"][0]["win_rate"]["value"] == pytest.approx(5 / 6) and told["pairs"][0]["judged"] == 6
    games = [json.loads(line) for line in (tmp_path / "out" / "games.jsonl").read_text().splitlines()]
    assert [game["outcome"] for game in games] == [0.0] + [1.0] * 5


def test_results_of_rung_eval_and_models_that_answer_now_are_sides_too(tmp_path, tiny_folder, capsys):
    assert status(["eval", str(tiny_folder), "--env", "arithmetic", "--tasks", "3", "--max-tokens", "3", "--out",
                   str(tmp_path / "evals"), "--precision", "fp32"]) == 0  # fmt: skip
    [folder] = (tmp_path / "evals").glob("*/result.json")
    result = of_result(folder.parent)
    assert len(result.answers) == 3
    rows = [{"prompt": list(messages)} for messages, _ in result.answers.values()]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with server() as writer, server() as state:
        writer.say = lambda asked: "***"
        state.say = lambda asked: more_stars(asked["messages"][-1]["content"])
        code = command(
            tmp_path, state, writer.url, str(folder.parent), "--prompts", str(tmp_path / "p.jsonl")
        )
        assert code == 0 and len(writer.asked) == 3
        assert command(tmp_path, state, writer.url, str(folder.parent)) == 2
    said = capsys.readouterr()
    assert "100.0%" in said.out and "add --prompts" in said.err


def test_wrong_words(tmp_path, capsys):
    a, b = files(tmp_path)
    with server() as state:
        assert command(tmp_path, state, a) == 2
        assert command(tmp_path, state, a, a) == 2
        assert command(tmp_path, state, a, "nowhere") == 2
        assert not state.asked
    assert status(["eval", "winrate", a, b]) == 2
    error = capsys.readouterr().err
    assert "two or more" in error and "nobody judges" in error and "nowhere is neither" in error
    assert not (tmp_path / "out").exists()
    (tmp_path / "c.jsonl").write_text('{"prompt": "q"}\n')
    with pytest.raises(UserError, match=r"c.jsonl:1: a prompt without an answer"):
        of_file(tmp_path / "c.jsonl")
