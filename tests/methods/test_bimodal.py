"""A teacher with two modes and a student that can have one: who covers, who seeks. The recipe's own fits, shorter."""

import importlib.util
from pathlib import Path

import pytest
import torch

from rung.kernels.linear_divergence import Measure

FILE = Path(__file__).parents[2] / "recipes" / "bimodal_distillation.py"


@pytest.fixture(scope="module")
def recipe():
    import sys

    spec = importlib.util.spec_from_file_location("bimodal_distillation", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclass looks itself up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def moments(recipe):
    """Of the teacher: forward KL to a parabola of logits matches mean and spread, whatever the start."""
    p_V = torch.softmax(recipe.teacher_logits(), 0)
    return recipe.Fit(p_V)


def covers(fit, moments):
    assert fit.mean == pytest.approx(moments.mean, abs=0.5)
    assert fit.spread == pytest.approx(moments.spread, abs=0.5)
    assert fit.between > 0.2  # where the teacher is less than once in ten thousand
    assert min(fit.near(18), fit.near(42)) > 0.1


def seeks(fit):
    assert fit.near(18) > 0.85 and fit.near(42) < 1e-6 and fit.between < 0.01
    assert fit.mean == pytest.approx(18, abs=0.5) and 1.7 < fit.spread < 3


def test_forward_kl_covers(recipe, moments):
    assert moments.between < 1e-4
    covers(recipe.by_divergence(Measure("forward_kl")), moments)


def test_reverse_kl_seeks(recipe):
    seeks(recipe.by_divergence(Measure("reverse_kl")))


def test_sequence_level_distillation_behaves_as_forward_kl(recipe, moments):
    """Errata of many texts: it is said to resemble reverse KL. Its likelihood of samples covers."""
    covers(recipe.by_teachers_samples(samples=32), moments)


def test_on_policy_distillation_behaves_as_reverse_kl(recipe):
    seeks(recipe.by_own_samples("reverse_kl"))


@pytest.mark.slow
def test_jensen_shannon_is_like_either_by_its_beta(recipe, moments):
    covers(recipe.by_divergence(Measure("jensen_shannon", 0.1)), moments)
    seeks(recipe.by_divergence(Measure("jensen_shannon", 0.9)))
