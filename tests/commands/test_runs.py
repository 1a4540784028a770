"""`rung runs`: what is told of run folders, and that reading leaves them as they are."""

import math
from pathlib import Path

import pytest

from rung import cli
from rung.commands.plots import running_mean
from rung.commands.runs import find_runs, last, mark_best, number, short_names
from rung.run import Run


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")


@pytest.fixture
def runs(tmp_path) -> list[Path]:
    """Two runs that differ in the learning rate; the second failed at step 3 with a tiny supervised share."""
    made = []
    for name, rate, steps in (("first", 1e-4, 40), ("deep/second", 3e-4, 3)):
        run = Run.create(tmp_path / name, {"settings": {"seed": 1, "optimizer": {"learning_rate": rate}}})
        for step in range(1, steps + 1):
            metrics = {"loss": 3.0 - rate * step, "tokens_per_second": 100.0 * step, "supervised_share": 0.5}
            if steps == 3:
                metrics["supervised_share"] = 0.001
            run.log(step, metrics)
        run.finish() if steps == 40 else run.fail("the loss of step 4 is [nan]")
        made.append(run.path)
    return made


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_list(runs, tmp_path, capsys):
    (tmp_path / "first" / "checkpoints" / "step-000040").mkdir(parents=True)
    (tmp_path / "first" / "checkpoints" / "step-000040" / "config.json").write_text(
        "{}"
    )  # a model, not a run
    before = content(tmp_path)
    assert cli.status(["runs", "list", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    second, first = lines[1].split(), lines[2].split()  # newest first
    assert second[1:4] == ["failed", "3", "2.999"] and first[1:4] == ["finished", "40", "2.996"]
    assert content(tmp_path) == before


def test_list_of_nothing(tmp_path, capsys):
    assert cli.status(["runs", "list", str(tmp_path)]) == 0
    assert "no runs" in capsys.readouterr().out
    assert cli.status(["runs", "list", str(tmp_path / "gone")]) == 2


def test_show_tells_meaning_and_flags_what_is_out_of_range(runs, capsys):
    assert cli.status(["runs", "show", str(runs[1])]) == 0
    text = capsys.readouterr().out
    assert "failed: the loss of step 4 is [nan]" in text
    assert "supervised_share is 0.001, below 0.01" in text
    assert "trained tokens over all tokens of the step" in text
    row = next(line.split() for line in text.splitlines() if line.startswith("tokens_per_second"))
    assert row[1:4] == ["100", "300", "300"]  # first, last, best: more is better
    assert cli.status(["runs", "show", str(runs[0])]) == 0
    assert "below" not in capsys.readouterr().out


def test_show_of_a_run_without_rows(tmp_path, capsys):
    Run.create(tmp_path / "new", {})
    assert cli.status(["runs", "show", str(tmp_path / "new")]) == 0
    assert "no step has been logged yet" in capsys.readouterr().out


def test_compare_shows_settings_that_differ_and_medians_of_speeds(runs, capsys):
    assert cli.status(["runs", "compare", *map(str, runs)]) == 0
    rows = {
        line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines() if line.strip()
    }
    assert rows["settings.optimizer.learning_rate"] == ["0.0001", "0.0003"]
    assert "settings.seed" not in rows
    assert rows["steps"] == ["40", "3"]
    assert rows["tokens_per_second"] == ["(median)", "2,050", "200"]  # of 100..4000 and 100..300
    assert cli.status(["runs", "compare", str(runs[0])]) == 2


def test_the_best_is_marked_on_the_better_side():
    assert mark_best("loss", [2.0, 1.0, None]) == ["2", "[bold green]1[/]", "-"]
    assert mark_best("tokens_per_second", [2.0, 1.0]) == ["[bold green]2[/]", "1"]
    assert mark_best("loss", [math.nan, 1.0, 2.0])[0] == "nan"
    assert mark_best("grad_norm", [2.0, 1.0]) == ["2", "1"]  # neither side is better
    assert mark_best("loss", [1.0, 1.0]) == ["1", "1"]


def test_plot_writes_a_png_and_names_what_it_cannot_draw(runs, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    out = tmp_path / "new" / "curves.png"
    assert (
        cli.status(["runs", "plot", *map(str, runs), "--metrics", "loss", "entropy", "--out", str(out)]) == 0
    )
    assert out.read_bytes()[:4] == b"\x89PNG" and out.stat().st_size > 5000
    assert cli.status(["runs", "plot", str(runs[0])]) == 0
    assert (runs[0] / "plot.png").exists()
    capsys.readouterr()
    assert cli.status(["runs", "plot", str(runs[0]), "--metrics", "entropy"]) == 2
    assert "entropy" in (said := capsys.readouterr().err) and "tokens_per_second" in said


def test_plot_without_matplotlib_names_the_extra(runs, monkeypatch, capsys):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert cli.status(["runs", "plot", str(runs[0])]) == 2
    assert 'pip install "rung[plot]"' in capsys.readouterr().err
    assert not (runs[0] / "plot.png").exists()


def test_the_running_mean_does_not_lag():
    line = [float(i) for i in range(100)]
    assert running_mean(line)[10:90] == pytest.approx(line[10:90])
    assert running_mean([1.0, 4.0, 1.0]) == [2.5, 2.0, 2.5]


def test_small_helpers(runs, tmp_path):
    assert [run.path for run in find_runs(tmp_path)] == [runs[1], runs[0]]
    assert short_names([Path("a/x"), Path("b/x")]) == ["a/x", "b/x"]
    assert short_names([Path("a/x"), Path("b/y")]) == ["x", "y"]
    assert last([{"loss": 1.0}, {"loss": 2.0}, {"step": 3}], "loss") == 2.0
    assert [number(v) for v in (None, 3, 12345.6, 0.00012347, 4096)] == [
        "-",
        "3",
        "12,346",
        "0.0001235",
        "4,096",
    ]
