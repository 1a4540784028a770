"""The name of weights in memory: another for any other bit, the same for the same bits wherever they lie."""

import numpy as np
import pytest
import torch
from torch import nn

from rung.models.fingerprint import INTEGERS, fingerprint
from rung.models.folder import write_files
from rung.models.hub import load_tokenizer
from rung.models.load import load_model


@pytest.fixture(scope="module")
def model(tiny_folder):
    return load_model(tiny_folder)


def small(dtype=torch.float32) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 3), nn.Linear(3, 2, bias=False)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_every_single_bit_counts(dtype):
    model = small(dtype)
    seen = {fingerprint(model)}
    flips = 0
    for parameter in model.parameters():
        integers = parameter.data.view(INTEGERS[parameter.element_size()]).view(-1)
        for place in range(len(integers)):
            for bit in range(8 * parameter.element_size()):
                mask = np.array(1 << bit, np.uint64).astype(f"u{parameter.element_size()}")
                mask = int(mask.view(f"i{parameter.element_size()}"))
                integers[place] ^= mask
                seen.add(fingerprint(model))
                integers[place] ^= mask
                flips += 1
    assert len(seen) == flips + 1
    assert fingerprint(model) in seen


def test_a_bit_of_each_weight_of_a_real_decoder_counts(model):
    seen = {fingerprint(model)}
    for parameter in model.parameters():
        with torch.no_grad():
            bits = parameter.view(torch.int32).view(-1)
            bits[-1] ^= 1
            seen.add(fingerprint(model))
            bits[-1] ^= 1
    assert len(seen) == len(list(model.parameters())) + 1


def test_zero_and_minus_zero_and_two_kinds_of_nan_differ():
    model = small()
    names = set()
    for bits in (0, -(2**31), 0x7FC00000, 0x7FC00001):
        model[0].weight.data.view(torch.int32)[0, 0] = bits
        names.add(fingerprint(model))
    assert len(names) == 4


def test_saving_and_loading_keeps_it(model, tiny_folder, tmp_path):
    state = {key: value.detach() for key, value in model.state_dict().items()}
    write_files(tmp_path, state, model.config.hf, load_tokenizer(str(tiny_folder)), None)
    assert fingerprint(load_model(tmp_path)) == fingerprint(model)


def test_it_depends_on_names_shapes_and_dtypes_and_not_on_order_or_strides():
    class Named(nn.Module):
        def __init__(self, *names, transposed=False):
            super().__init__()
            for name in names:
                value = torch.arange(6.0).reshape(2, 3) + ord(name)
                value = value.T.contiguous().T if transposed else value
                self.register_parameter(name, nn.Parameter(value))

    assert fingerprint(Named("a", "b")) == fingerprint(Named("b", "a"))
    assert fingerprint(Named("a", "b", transposed=True)) == fingerprint(Named("a", "b"))
    assert fingerprint(Named("a")) != fingerprint(Named("b"))
    swapped = Named("a", "b")
    swapped.a.data, swapped.b.data = swapped.b.data, swapped.a.data
    assert fingerprint(swapped) != fingerprint(Named("a", "b"))
    flat = Named("a")
    flat.a.data = flat.a.data.reshape(3, 2)
    assert fingerprint(flat) != fingerprint(Named("a"))
    zeros = [nn.Linear(2, 2).to(dtype) for dtype in (torch.float16, torch.bfloat16)]
    for layer in zeros:
        nn.init.zeros_(layer.weight), nn.init.zeros_(layer.bias)
    assert fingerprint(zeros[0]) != fingerprint(zeros[1])


def test_only_what_is_trained_where_asked_for():
    model = small()
    model[0].requires_grad_(False)
    trained, whole = fingerprint(model, trained_only=True), fingerprint(model)
    model[0].weight.data += 1
    assert fingerprint(model, trained_only=True) == trained and fingerprint(model) != whole
    model[1].weight.data += 1
    assert fingerprint(model, trained_only=True) != trained


def test_it_is_sixteen_hexadecimal_digits_and_leaves_the_weights_alone(model):
    before = {name: value.clone() for name, value in model.named_parameters()}
    name = fingerprint(model)
    assert len(name) == 16 and int(name, 16) >= 0
    assert all(torch.equal(value, before[key]) for key, value in model.named_parameters())


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_device_does_not_matter(tiny_folder, model):
    assert fingerprint(load_model(tiny_folder, device="cuda")) == fingerprint(model)
