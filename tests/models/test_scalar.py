"""The scalar model: read at the right token whatever surrounds it, and the same numbers in plain transformers."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rung.batch import Example, Pair, collate, collate_pairs
from rung.errors import UserError
from rung.models.folder import read_config, write_folder
from rung.models.load import load_model
from rung.models.lora import add_adapter
from rung.models.scalar import (
    About,
    last_tokens,
    load_scalar,
    pad_token,
    scalar_tensors,
    write_scalar,
)
from rung.models.small import END, PAD, write_small_model
from rung.publish import publish
from rung.settings import Lora

TEXTS = ["abca", "b", "abcabcab", "cc"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_small_model(
        tmp_path_factory.mktemp("m") / "base", "abc ", layers=2, width=24, heads=2, context=64
    )


@pytest.fixture(scope="module")
def tokenizer(base):
    return AutoTokenizer.from_pretrained(base)


def example(ids):
    return Example(np.array(ids, np.int32), np.zeros(len(ids), bool), "")


def examples(tokenizer, texts=TEXTS):
    return [example(tokenizer(text + END).input_ids) for text in texts]


def saved(model, tokenizer, base, path):
    with publish(path) as folder:
        write_scalar(folder, model, tokenizer, base)
    return path


@torch.no_grad()
def scored(model, batch):
    return model.eval().score(batch)


def theirs(path, texts=TEXTS, side="right"):
    model = AutoModelForSequenceClassification.from_pretrained(path, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(path, padding_side=side)
    inputs = tokenizer([text + END for text in texts], padding=True, return_tensors="pt")
    with torch.no_grad():
        return model, model(input_ids=inputs.input_ids, attention_mask=inputs.attention_mask).logits[:, 0]


def test_the_score_is_the_heads_product_with_the_last_state_of_each_document(base, tokenizer):
    model, batch = load_scalar(base), collate(examples(tokenizer))
    values_N = model(batch)
    assert values_N.shape == (sum(batch.lengths),) and values_N.dtype == torch.float32
    assert last_tokens(batch).tolist() == [4, 6, 15, 18]
    alone = torch.cat([scored(model, collate([one])) for one in examples(tokenizer)])
    torch.testing.assert_close(scored(model, batch), alone, rtol=0, atol=1e-6)


def test_a_shared_prompt_changes_no_score(base, tokenizer):
    model = load_scalar(base)
    chosen, rejected = examples(tokenizer, ["abcab", "abcc"])
    batch = collate_pairs([Pair(chosen, rejected)])
    assert batch.parents == (-1, 0, 0)
    together = scored(model, batch)[torch.tensor(batch.pairs[0])]
    torch.testing.assert_close(together, scored(model, collate([chosen, rejected])), rtol=0, atol=1e-6)


@pytest.mark.parametrize("side", ["right", "left"])
def test_transformers_opens_it_to_the_same_scores_padded_on_either_side(base, tokenizer, tmp_path, side):
    model = load_scalar(base, seed=3)
    path = saved(model, tokenizer, base, tmp_path / "rm")
    opened, scores = theirs(path, side=side)
    ours = scored(model, collate(examples(tokenizer)))
    assert opened.config.num_labels == 1
    if (
        side == "left"
    ):  # transformers counts positions from the padding unless told, which rotary models forgive
        torch.testing.assert_close(scores, ours, rtol=0, atol=1e-4)
    else:
        torch.testing.assert_close(scores, ours, rtol=0, atol=1e-5)


def test_a_tokenizer_that_pads_with_its_end_is_scored_at_the_end_all_the_same(base, tokenizer, tmp_path):
    """The trap: with pad = end, transformers takes the token before the end for the last one."""
    other = AutoTokenizer.from_pretrained(base, pad_token=END)
    assert other.pad_token_id == other.eos_token_id
    model = load_scalar(base, seed=3)
    path = saved(model, other, base, tmp_path / "rm")
    assert other.pad_token == END  # the caller's tokenizer is left as it was
    assert read_config(path)["pad_token_id"] == tokenizer.pad_token_id
    _, scores = theirs(path)
    torch.testing.assert_close(scores, scored(model, collate(examples(tokenizer))), rtol=0, atol=1e-5)
    wrong = collate([example(tokenizer(text).input_ids) for text in TEXTS])
    assert (scores - scored(model, wrong)).abs().max() > 1e-3


def test_no_token_left_to_pad_with_is_refused(tokenizer):
    with pytest.raises(UserError, match="scored at the wrong token"):
        pad_token(tokenizer, {0, 1})
    assert pad_token(tokenizer, {1}) == PAD


def test_it_opens_again_to_the_bit_with_what_is_known_about_it(base, tokenizer, tmp_path):
    model = load_scalar(base, seed=3)
    model.about = About("process", "\n\n", 0.5, 1.5, 0.7)
    path = saved(model, tokenizer, base, tmp_path / "rm")
    again = load_scalar(path)
    assert again.about == model.about
    batch = collate(examples(tokenizer))
    assert torch.equal(scored(again, batch), scored(model, batch))
    half = load_scalar(path, torch.bfloat16)
    assert half.head.weight.dtype == torch.float32 and torch.equal(half.head.weight, model.head.weight)
    assert half.trunk.model.embed_tokens.weight.dtype == torch.bfloat16


def test_a_head_stored_in_half_precision_computes_in_float32(base, tokenizer, tmp_path):
    path = saved(load_scalar(base), tokenizer, base, tmp_path / "rm")
    theirs = AutoModelForSequenceClassification.from_pretrained(path, dtype=torch.bfloat16)
    theirs.save_pretrained(tmp_path / "half")
    tokenizer.save_pretrained(tmp_path / "half")
    opened = load_scalar(tmp_path / "half", torch.bfloat16)
    assert opened.head.weight.dtype == torch.float32
    assert torch.equal(opened.head.weight, theirs.score.weight.float())


def test_one_seed_is_one_head_and_its_scale_is_a_tenth_over_root_width_plus_one(base):
    first, same, other = load_scalar(base, seed=1), load_scalar(base, seed=1), load_scalar(base, seed=2)
    assert torch.equal(first.head.weight, same.head.weight)
    assert not torch.equal(first.head.weight, other.head.weight)
    deviations = torch.cat([load_scalar(base, seed=seed).head.weight for seed in range(60)]).std().detach()
    assert float(deviations) == pytest.approx(0.1 / 5, rel=0.1)  # width 24


def test_an_untied_head_is_left_behind_and_adapters_are_folded_in(tmp_path, base, tokenizer):
    model = load_model(base)
    tensors = dict(model.state_dict()) | {"lm_head.weight": torch.randn(len(tokenizer), 24)}
    untied = tmp_path / "untied"
    write_folder(untied, tensors, {**read_config(base), "tie_word_embeddings": False}, tokenizer)
    scalar = load_scalar(untied, seed=3)
    assert "lm_head.weight" not in scalar_tensors(scalar)
    add_adapter(scalar.trunk, Lora(rank=2), seed=0)
    for name, parameter in scalar.trunk.named_parameters():
        if name.endswith("lora_B"):
            torch.nn.init.normal_(parameter)
    assert scalar.head.weight.requires_grad and not scalar.trunk.model.embed_tokens.weight.requires_grad
    path = saved(scalar, tokenizer, untied, tmp_path / "rm")
    batch = collate(examples(tokenizer))
    with_adapters, plain = scored(scalar, batch), scored(load_scalar(untied, seed=3), batch)
    assert (with_adapters - plain).abs().max() > 1e-3
    torch.testing.assert_close(scored(load_scalar(path), batch), with_adapters, rtol=0, atol=1e-5)
    torch.testing.assert_close(theirs(path)[1], with_adapters, rtol=0, atol=1e-5)


def test_gradients_reach_trunk_and_head(base, tokenizer):
    model = load_scalar(base)
    model.score(collate(examples(tokenizer))).sum().backward()
    grads = {name: p.grad for name, p in model.named_parameters()}
    assert all(grad is not None and grad.abs().sum() > 0 for grad in grads.values())


def test_a_classifier_of_several_labels_is_no_reward_model(base, tokenizer, tmp_path):
    path = saved(load_scalar(base), tokenizer, base, tmp_path / "rm")
    config = read_config(path) | {"id2label": {"0": "bad", "1": "good"}}
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="a classifier of 2 labels"):
        load_scalar(path)


def test_a_family_without_sequence_classification_is_refused_before_training(base):
    model = load_scalar(base)
    model.config.hf["model_type"] = "olmoe"
    with pytest.raises(UserError, match="no sequence classification for olmoe"):
        from rung.models.scalar import classifier

        classifier(model.config.hf)


def test_a_policy_is_not_read_from_a_reward_model(base, tokenizer, tmp_path):
    path = saved(load_scalar(base), tokenizer, base, tmp_path / "rm")
    with pytest.raises(UserError, match=r"score\.weight"):
        load_model(path)
