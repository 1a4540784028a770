"""Models the decoder does not know run through transformers and cannot tell the difference."""

import pytest
import torch
from decoder_case import SIZES, packed, tokens
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from rung.batch import Example, collate
from rung.errors import UserError
from rung.models.decoder import Documents
from rung.models.fallback import TransformersDecoder
from rung.models.folder import write_folder
from rung.models.load import load_model
from rung.models.policy import score

GPT2 = dict(vocab_size=97, n_embd=32, n_layer=2, n_head=4, n_positions=128, bos_token_id=1, eos_token_id=2)
CASES = {
    "learned positions, tied": ("gpt2", GPT2),
    "a bias on the head": ("phi", {}),
    "logits times a scale": ("cohere", dict(logit_scale=0.3)),
    "logits divided by a scale": ("granite", dict(logits_scaling=8.0, embedding_multiplier=3.0)),
    "experts fused in memory": ("mixtral", dict(num_local_experts=4)),
    "no attention at all": ("mamba", dict(vocab_size=97, hidden_size=32, num_hidden_layers=2)),
    "RoPE that changes with length": (
        "llama",
        dict(rope_parameters=dict(rope_type="dynamic", rope_theta=1e4, factor=2.0)),
    ),
}


def saved(case, folder):
    family, changes = CASES[case]
    sizes = {} if family in ("gpt2", "mamba") else SIZES
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **{**sizes, **changes})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("case", CASES)
def test_scores_of_packed_documents_are_the_models_own_with_their_gradients(case, tmp_path):
    theirs = saved(case, tmp_path)
    ours = load_model(tmp_path).eval()
    assert isinstance(ours, TransformersDecoder)
    documents = [tokens(20, 1), tokens(5, 2), tokens(33, 3)]
    rows = [Example(ids.numpy(), torch.ones(len(ids), dtype=torch.bool).numpy(), "row") for ids in documents]
    logprobs = score(ours, collate(rows)).logprob_M
    expected = torch.cat(
        [theirs(ids[None]).logits[0, :-1].log_softmax(-1).gather(1, ids[1:, None])[:, 0] for ids in documents]
    )
    torch.testing.assert_close(logprobs, expected, rtol=1e-5, atol=1e-4)
    logprobs.sum().backward()
    expected.sum().backward()
    gradients = dict(theirs.named_parameters())
    for name, parameter in ours.inner.named_parameters():
        wanted = gradients[name].grad
        assert (parameter.grad - wanted).norm() <= 1e-3 * wanted.norm() + 1e-6, name


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_a_state_dict_is_a_checkpoint(case, tmp_path):
    theirs = saved(case, tmp_path / "theirs")
    ours = load_model(tmp_path / "theirs")
    on_disk = load_file(tmp_path / "theirs" / "model.safetensors")
    state = ours.state_dict()
    assert state.keys() == on_disk.keys()
    assert all(torch.equal(state[name], on_disk[name]) for name in on_disk)
    write_folder(tmp_path / "ours", state, ours.config.hf)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval()
    ids = tokens(9)[None]
    assert torch.equal(again(ids).logits, theirs(ids).logits)


@torch.no_grad()
def test_a_document_is_deaf_to_its_neighbours_to_the_last_bit(tmp_path):
    saved("learned positions, tied", tmp_path)
    ours = load_model(tmp_path).eval()
    mine = tokens(12, 1)
    one = packed(ours, [tokens(20, 2), mine, tokens(3, 3)])[20:32]
    other = packed(ours, [tokens(20, 4), mine, tokens(3, 5)])[20:32]
    assert torch.equal(one, other)


def test_noise_and_recomputation_reach_the_inner_model(tmp_path):
    saved("learned positions, tied", tmp_path)
    ours = load_model(tmp_path).eval()
    seen = []
    ids = tokens(4)
    ours(ids, torch.arange(4), Documents((4,)), lambda x: seen.append(x) or x)
    torch.testing.assert_close(seen[0], ours.inner.get_input_embeddings()(ids))
    for ours.checkpointing in (True, False):
        assert ours.inner.is_gradient_checkpointing == ours.checkpointing


def test_a_cache_is_refused(tmp_path):
    saved("learned positions, tied", tmp_path)
    with pytest.raises(TypeError, match="no key-value cache"):
        load_model(tmp_path)(tokens(3), torch.arange(3), lambda *a, **k: None)


def test_a_head_that_rung_cannot_follow_is_refused(tmp_path):
    """BERT puts a dense layer between its last hidden states and its output embedding."""
    config = AutoConfig.for_model(
        "bert", vocab_size=97, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, is_decoder=True
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(
        UserError, match="bert model, which turns its last hidden states into logits in a way"
    ):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("transformer.h.0.mlp.c_fc.weight"), r"1 tensors are missing .*mlp\.c_fc\.weight"),
        (lambda t: t.update(spare=torch.ones(2)), "1 have no place .*spare"),
        (lambda t: t.update({"transformer.ln_f.bias": torch.ones(7)}), "cannot open"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_told_and_not_filled_with_noise(change, message, tmp_path):
    saved("learned positions, tied", tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=message):
        load_model(tmp_path)


def test_truncated_weights_are_told(tmp_path):
    saved("learned positions, tied", tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match="cannot open"):
        load_model(tmp_path)
