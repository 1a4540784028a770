"""A family of metrics, such as the parts of a reward, has one line in the table."""

import pytest

from rung.commands.runs import mark_best, metric_table, names
from rung.metrics import METRICS, metric_of, out_of_range
from rung.run import Run


def test_a_member_has_the_meaning_of_its_family():
    assert metric_of("reward/format") is METRICS["reward/"] is metric_of("reward/a/b")
    assert metric_of("reward") is METRICS["reward"]
    assert metric_of("rewards/format") is None and metric_of("loss/") is None and metric_of("loss/x") is None
    assert out_of_range("reward/format", float("nan")) == "not a number"
    assert out_of_range("reward/format", 1e9) == "" == out_of_range("unheard/of", float("nan"))


def test_a_run_logs_and_shows_members_in_the_place_of_their_family(tmp_path):
    run = Run.create(tmp_path / "run", {})
    run.log(1, {"reward/format": 0.5, "reward": 1.0, "loss": 2.0, "reward/correct": 0.5, "reward_std": 0.1})
    with pytest.raises(KeyError, match="rewards/format"):
        run.log(1, {"rewards/format": 0.5})
    rows = run.metrics()
    assert names(rows) == ["loss", "reward", "reward/correct", "reward/format", "reward_std"]
    assert list(metric_table(rows).columns[5].cells)[3] == METRICS["reward/"].meaning
    assert mark_best("reward/format", [0.25, 0.5]) == ["0.25", "[bold green]0.5[/]"]
