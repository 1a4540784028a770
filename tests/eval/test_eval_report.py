"""The table names what was not scored; the plot is a picture with all of its curves in it."""

import numpy as np

from rung.eval.paired import compare
from rung.eval.passk import curve, pass_at, pass_curve
from rung.eval.records import Sample
from rung.eval.report import aligned, comparison_line, curve_table, plot_curves, tally_table
from rung.eval.tally import tally
from rung.rewards.score import Abstain, Failure, Score

VERDICTS = {"1": Score(1.0), "0": Score(0.0), "?": Abstain("tie"), "!": Failure("timeout")}


def counted(text):
    return tally([Sample(f"t:{i}", 0, "", [], "stop", VERDICTS[c], 12) for i, c in enumerate(text)])


def test_unscored_attempts_are_in_the_table_whenever_there_are_any():
    whole = tally_table({"base": counted("1100")})
    assert "unscored" not in whole and "50.0%" in whole and "2 of 4" in whole
    torn = tally_table({"base": counted("1100"), "trained": counted("11!?")})
    assert "1 timeout, 1 abstained" in torn and "50.0% / 100.0%" in torn and "100.0%" in torn
    lines = torn.splitlines()
    assert len(lines) == 3 and lines[1].split()[-4:] == ["0", "50.0%", "/", "50.0%"]


def test_nothing_scored_is_said():
    assert "nothing was scored" in tally_table({"base": counted("!!")})


def test_a_comparison_in_a_line():
    found = compare({"a": [0.0], "b": [1.0], "c": [0.0]}, {"a": [1.0], "b": [1.0], "d": [1.0]})
    line = comparison_line("base", "trained", found)
    assert (
        line.startswith("trained - base: +50.0 points [") and "2 tasks left out" in line and "McNemar" in line
    )


def test_curves_as_a_table_show_powers_of_two_and_the_end():
    table = curve_table({"base": pass_curve([6, 6], [1, 3]), "short": pass_curve([2, 2], [0, 1])})
    assert [line.split()[0] for line in table.splitlines()] == ["k", "1", "2", "4", "6"]
    assert table.splitlines()[-1].endswith("-") and "33.3%" in table


def test_columns_are_aligned():
    assert aligned([["a", "bb"], ["ccc", "d"]]) == "a    bb\nccc   d"


def test_the_plot_is_written_and_its_colours_are_there(tmp_path):
    generator = np.random.default_rng(0)
    curves = {
        name: curve(np.stack([pass_at(32, c) for c in generator.binomial(32, p, 30)]))
        for name, p in (("base", 0.05), ("trained", 0.3))
    }
    out = tmp_path / "deep" / "curves.png"
    plot_curves(curves, out, crossover=(8.0, 4.0, float("inf")))
    from matplotlib import image

    pixels = (image.imread(out)[:, :, :3] * 255).round().astype(int)
    for colour in ((0x2A, 0x6F, 0xBB), (0xD9, 0x73, 0x0D)):
        assert (np.abs(pixels - colour).sum(-1) < 12).sum() > 500
