"""The measured peak: it is a speed of products that were done, and more machine cannot make it smaller."""

import time

import pytest
import torch

from rung.machine import cpu_features, machine_summary, matrix_peak


def test_the_peak_is_at_least_what_a_plain_product_reaches():
    left, right = torch.randn(512, 512), torch.randn(512, 512)
    reached = 0.0
    for _ in range(20):
        started = time.perf_counter()
        left @ right
        reached = max(reached, 2 * 512**3 / (time.perf_counter() - started))
    # a third: the two are measured at different moments of a machine that others use too
    assert matrix_peak(torch.float32, "cpu", 0.3) > reached / 3


def test_a_slow_dtype_does_not_hold_the_measurement_up(monkeypatch):
    """With products of a tenth of a second each, larger shapes than the budget allows are left out."""
    import rung.machine

    asked = []

    def slow(left, right, times):
        asked.append(left.shape)
        return 0.1 * (left.shape[0] / 512) ** 3

    monkeypatch.setattr(rung.machine, "product_seconds", slow)
    peak = matrix_peak(torch.float32, "cpu", 0.01)
    assert peak == pytest.approx(2 * 512**3 / 0.1)
    assert set(asked) == {(512, 512)}


def test_the_summary_can_go_into_json():
    import json

    summary = json.loads(json.dumps(machine_summary()))
    assert summary["torch"] == torch.__version__
    assert summary["usable_cores"] <= summary["cores"]
    assert summary["memory_gb"] > 0.5
    assert set(cpu_features()) == set(summary["cpu_features"])
