"""Who optimises which weight, and what happens where a library is missing."""

import sys

import pytest
import torch

from rung.cli import status
from rung.models.load import load_model
from rung.optimizer import Masters, Stepper
from rung.settings import Optimizer


def groups(folder, settings):
    masters = Masters(load_model(folder))
    names = {id(weight): name for name, weight in masters.weights.items()}
    return {
        type(optimizer).__name__: [
            (group["weight_decay"], sorted(names[id(w)] for w in group["params"]))
            for group in optimizer.param_groups
        ]
        for optimizer in Stepper(masters, settings).optimizers
    }


def test_muon_takes_hidden_matrices_and_adamw_the_rest(tiny_folder):
    found = groups(tiny_folder, Optimizer(name="muon", weight_decay=0.1))
    ((decay, hidden),) = found["Muon"]
    assert decay == 0.1 and len(hidden) == 2 * 7 and all(".layers." in name for name in hidden)
    assert [decay for decay, _ in found["AdamW"]] == [0.1, 0.0]
    assert found["AdamW"][0][1] == ["model.embed_tokens.weight"]
    assert all("norm" in name for name in found["AdamW"][1][1])


def test_vectors_are_never_decayed(tiny_folder):
    matrices, vectors = groups(tiny_folder, Optimizer(weight_decay=0.1))["AdamW"]
    assert matrices[0] == 0.1 and not any("norm" in name for name in matrices[1])
    assert vectors[0] == 0.0 and all("norm" in name for name in vectors[1])


def test_a_muon_step_is_orthogonal_and_scaled_to_adamws_size(tiny_folder):
    """Newton-Schulz leaves singular values near 1; the update's scale is 0.2 sqrt(max(rows, columns))."""
    masters = Masters(load_model(tiny_folder))
    stepper = Stepper(masters, Optimizer(name="muon", weight_decay=0.0))
    name = "model.layers.0.mlp.up_proj.weight"
    before = masters.weights[name].detach().clone()
    torch.manual_seed(0)
    for weight in masters.weights.values():
        weight.grad = torch.randn_like(weight)
    stepper.step(0.01)
    update = (before - masters.weights[name].detach()) / (0.01 * 0.2 * max(before.shape) ** 0.5)
    values = torch.linalg.svdvals(update)
    assert values.min() > 0.5 and values.max() < 1.5


def test_a_missing_library_is_told_before_a_run_folder_exists(
    tiny_folder, rows_file, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "torchao", None)
    monkeypatch.setitem(sys.modules, "torchao.optim", None)
    out = tmp_path / "run"
    words = [
        "sft",
        "--model",
        str(tiny_folder),
        "--data",
        str(rows_file),
        "--max-length",
        "200",
        "--out",
        str(out),
    ]
    assert status([*words, "--optimizer.name", "adamw-8bit"]) == 2
    assert "rung[lowbit]" in capsys.readouterr().err and not out.exists()


@pytest.mark.slow  # torchao compiles its step
def test_eight_bit_state_steps_as_adamw_does_and_comes_back_from_a_file(tmp_path):
    """Its moments are rounded to 8 bits after each step: the first step is AdamW's own, and a file repeats the next."""
    pytest.importorskip("torchao", reason="pip install 'rung[lowbit]'")
    torch.manual_seed(0)
    start, slopes = torch.randn(64, 256), [torch.randn(64, 256) for _ in range(3)]

    def stepper(name):
        model = torch.nn.Linear(256, 64, bias=False)
        model.weight.data.copy_(start)
        return Stepper(Masters(model), Optimizer(name=name, weight_decay=0.1))

    def stepped(one, slope, rate=0.01):
        (weight,) = one.masters.weights.values()
        weight.grad = slope.clone()
        one.step(rate)
        return weight.detach().clone()

    exact, rounded, resumed = stepper("adamw"), stepper("adamw-8bit"), stepper("adamw-8bit")
    torch.testing.assert_close(stepped(rounded, slopes[0]), stepped(exact, slopes[0]), rtol=0, atol=1e-6)
    second, truth = stepped(rounded, slopes[1]), stepped(exact, slopes[1])
    assert 0 < (second - truth).abs().mean() < 0.1 * (truth - start).abs().mean()
    (moment,) = [s["exp_avg"] for s in rounded.optimizers[0].state.values()]
    assert moment.codes.dtype == torch.uint8

    torch.save(rounded.state(), tmp_path / "optimizer.pt")
    stepped(resumed, slopes[2])  # its state is made by a step
    resumed.load(torch.load(tmp_path / "optimizer.pt", weights_only=True))
    with torch.no_grad():
        resumed.masters.load(rounded.masters.weights)
    assert torch.equal(stepped(resumed, slopes[2]), stepped(rounded, slopes[2]))
