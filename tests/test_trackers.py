"""Trackers: imported only when asked for, refused by name when missing, fed the same rows."""

import sys
from types import SimpleNamespace

import pytest

from rung.errors import UserError
from rung.trackers import TRACKERS, flat, open_trackers

CONFIG = {"seed": 1, "lora": {"rank": 8}}


class Recorder:
    """A module that remembers every call made to it."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **kwargs: self.calls.append((name, args, kwargs)) or SimpleNamespace()


def test_none_is_the_default_and_imports_nothing(tmp_path, monkeypatch):
    for _, module, _ in TRACKERS.values():
        monkeypatch.setitem(sys.modules, module, None)  # importing it would raise
    assert open_trackers([], tmp_path, CONFIG) == []
    assert open_trackers(["none"], tmp_path, CONFIG) == []


@pytest.mark.parametrize("name", ["trackio", "wandb"])
def test_wandb_and_trackio(tmp_path, monkeypatch, name):
    module = Recorder()
    monkeypatch.setitem(sys.modules, name, module)
    (tracker,) = open_trackers([name, name], tmp_path / "first", CONFIG)
    tracker.log(3, {"loss": 1.5})
    tracker.finish()
    assert module.calls == [
        ("init", (), {"project": "rung", "name": "first", "config": CONFIG}),
        ("log", ({"loss": 1.5},), {"step": 3}),
        ("finish", (), {}),
    ]


def test_mlflow_gets_parameters_in_portions_it_accepts(tmp_path, monkeypatch):
    module = Recorder()
    monkeypatch.setitem(sys.modules, "mlflow", module)
    config = {f"k{i}": "x" * 7000 for i in range(250)}
    (tracker,) = open_trackers(["mlflow"], tmp_path / "first", config)
    tracker.log(3, {"loss": 1.5})
    tracker.finish()
    sent = [args[0] for name, args, _ in module.calls if name == "log_params"]
    assert [len(part) for part in sent] == [100, 100, 50]
    assert {len(value) for part in sent for value in part.values()} == {6000}
    assert [name for name, _, _ in module.calls if name != "log_params"] == [
        "set_experiment",
        "start_run",
        "log_metrics",
        "end_run",
    ]
    assert ("log_metrics", ({"loss": 1.5},), {"step": 3}) in module.calls


def test_tensorboard(tmp_path, monkeypatch):
    writer = Recorder()
    made = []
    module = SimpleNamespace(SummaryWriter=lambda log_dir: made.append(log_dir) or writer)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    (tracker,) = open_trackers(["tensorboard"], tmp_path, CONFIG)
    tracker.log(3, {"loss": 1.5, "grad_norm": 2.0})
    tracker.finish()
    assert made == [str(tmp_path / "tensorboard")]
    assert [call[1] for call in writer.calls if call[0] == "add_scalar"] == [
        ("loss", 1.5, 3),
        ("grad_norm", 2.0, 3),
    ]
    assert writer.calls[-1] == ("close", (), {})
    assert "lora.rank: 8" in writer.calls[0][1][1]


def test_real_tensorboard_writes_what_its_own_reader_reads(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (tracker,) = open_trackers(["tensorboard"], tmp_path, CONFIG)
    tracker.log(3, {"loss": 1.5})
    tracker.finish()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("loss")
    assert [(event.step, event.value) for event in events] == [(3, 1.5)]


def test_a_missing_package_is_named_with_the_command_and_nothing_is_opened(tmp_path, monkeypatch):
    module = Recorder()
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(UserError, match=r'mlflow.*pip install "rung\[mlflow\]"'):
        open_trackers(["wandb", "mlflow"], tmp_path, CONFIG)
    assert module.calls == []


def test_a_folder_that_a_tracker_left_behind_is_not_taken_for_it(tmp_path, monkeypatch):
    (tmp_path / "a_tracker").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(TRACKERS, "wandb", (TRACKERS["wandb"][0], "a_tracker", "wandb"))
    with pytest.raises(UserError, match="not installed"):
        open_trackers(["wandb"], tmp_path, CONFIG)


def test_an_unknown_tracker_is_refused_with_the_choices(tmp_path):
    with pytest.raises(UserError, match=r"'wandbb'.*tensorboard, trackio, wandb, mlflow"):
        open_trackers(["wandbb"], tmp_path, CONFIG)


def test_flat():
    assert flat({"a": 1, "b": {"c": {"d": 2}}}) == {"a": 1, "b.c.d": 2}
