"""`rung rl --sampler vllm` with vLLM itself (make peers): slow, because it takes a while to start."""

from pathlib import Path

import numpy as np
import pytest
import torch
from rl_case import play, rounds, steps

from rung.models.fingerprint import fingerprint
from rung.models.load import load_model

PYTHON = Path(__file__).parents[2] / ".venv-vllm" / "bin" / "python"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON.is_file(), reason="vLLM is not installed (make peers)"),
]


@pytest.fixture(scope="module")
def wide(tiny_folder, tmp_path_factory):
    """Heads of 32, the smallest that vLLM's attention on a CPU has."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(5)
    folder = tmp_path_factory.mktemp("wide")
    config = LlamaConfig(
        vocab_size=260, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=32, max_position_embeddings=256, bos_token_id=1, eos_token_id=2,
        pad_token_id=None, tie_word_embeddings=True, initializer_range=0.3,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_folder).save_pretrained(folder)
    return folder


def test_vllm_samples_each_round_with_the_weights_of_then(wide, tmp_path, monkeypatch):
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    run = play(
        wide, tmp_path / "run", sampler="vllm", vllm_python=PYTHON, vllm_cache_gb=0.25, rounds=2, save_every=1, eval_every=1,
        optimizer__learning_rate=0.02,
    )  # fmt: skip
    for number, (graded, folder) in enumerate(
        zip(rounds(run), [wide, run / "checkpoints" / "step-000001"], strict=True)
    ):
        digest = fingerprint(load_model(folder), trained_only=True)
        for record in graded:
            assert record.rollout.digest == digest and set(record.rollout.version) == {number}
            assert np.isnan(record.rollout.entropy).all()
            assert np.allclose(record.rollout.sampler_logprob, record.rollout.policy_logprob)
    for row in steps(run):  # float32: rounding, also after the push
        assert 0 < row["sampler_gap_max"] < 1e-3
        assert row["ratio_max"] == pytest.approx(1, abs=1e-3) and row["ratio_max"] != 1  # from the sampler
    assert all("rollout_entropy" not in row and "heldout_score" in row for row in steps(run))
