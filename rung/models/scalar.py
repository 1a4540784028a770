"""A decoder that says one number for each token: reward models, process reward models, critics.

The trunk is the policy's own (`decoder.py`), and where a policy has its vocabulary head this has a vector:
value = w . state, without a bias, in float32. A reward model is read at the last token of a document, a process
reward model at the last token of each step, a critic everywhere.

On disk it is a Hugging Face `...ForSequenceClassification` folder with one label, which plain `transformers`
opens to the same scores. That class finds the last token by searching the pad id from the right, so the pad id
written must be one that never ends a document: where a tokenizer pads with its end of text, which documents
do end in, another special token is named in its place. Here the last token is told by length.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rung.batch import Batch
from rung.errors import UserError
from rung.models.config import DecoderConfig, supported
from rung.models.decoder import Decoder, Documents
from rung.models.folder import load_into, read_config, read_generation_config, special_tokens, write_files
from rung.models.hub import resolve
from rung.models.load import load_model
from rung.models.lora import adapted_layers, merge_adapter

ABOUT = "rung_reward"  # the key of config.json that holds what `transformers` has no word for


@dataclass(frozen=True)
class About:
    """What a reader of the scores must know."""

    kind: str = "outcome"  # or "pairs", "costs", "process", "critic"
    step_end: str = ""  # of a process model: the text that ends a step
    mean: float = 0.0  # of the scores of held-out answers
    deviation: float = 0.0  # the same; 0 is unknown
    accuracy: float = 0.0  # on held-out rows; 0 is unknown


class ScalarModel(nn.Module):
    """`trunk` and `head`. Call it with a batch for values of all tokens, `score` for one of each document."""

    def __init__(self, trunk: Decoder, seed: int = 0, about: About | None = None):
        super().__init__()
        if not trunk.config.tied:  # the vocabulary head has nothing to do here
            del trunk.lm_head
            trunk.config = replace(trunk.config, tied=True)
        self.trunk, self.about = trunk, about or About()
        width, device = trunk.config.width, trunk.model.embed_tokens.weight.device
        self.head = nn.Linear(width, 1, bias=False, dtype=torch.float32, device=device)
        # Drawn on the CPU, so that one seed is one head on every device. A tenth of the scale of 2009.01325: scores
        # then begin near 0 and the loss near ln 2, and few pairs need not first unlearn what the dice prefer.
        drawn_1D = torch.randn(1, width, generator=torch.Generator().manual_seed(seed))
        drawn_1D *= 0.1 / math.sqrt(width + 1)
        if device.type != "meta":
            self.head.weight.data.copy_(drawn_1D)

    @property
    def config(self) -> DecoderConfig:
        """The trunk's, with a vocabulary of one: so is the arithmetic of the head counted."""
        return replace(self.trunk.config, vocabulary=1)

    @property
    def checkpointing(self) -> bool:
        return self.trunk.checkpointing

    @checkpointing.setter
    def checkpointing(self, wanted: bool) -> None:
        self.trunk.checkpointing = wanted

    def forward(self, batch: Batch) -> Tensor:
        """float32 value of every token of the batch given its document so far, `[N]`."""
        documents = Documents(batch.lengths, batch.parents, self.trunk.batch_invariant)
        hidden = self.trunk(batch.token_ids_N, batch.positions_N, documents)
        return F.linear(hidden.states_ND.float(), self.head.weight).squeeze(1)

    def score(self, batch: Batch) -> Tensor:
        """float32 value at the last token of each document, `[B]`. Of a shared prompt it is its own last token."""
        return self(batch)[last_tokens(batch)]


def last_tokens(batch: Batch) -> Tensor:
    """Index into N of the last token of each document, `[B]`: by length, whatever its id."""
    return torch.tensor(batch.lengths, device=batch.token_ids_N.device).cumsum(0) - 1


def is_scalar(path: Path) -> bool:
    """Whether a model folder holds a sequence classification head."""
    architectures = read_config(path).get("architectures") or [""]
    return architectures[0].endswith("ForSequenceClassification")


def load_scalar(
    name: str | Path,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    *,
    seed: int = 0,
) -> ScalarModel:
    """The scalar model in a folder; of a causal language model its trunk, with a fresh head drawn from `seed`.

    The trunk is in `dtype`, the head in float32. Raises UserError where the folder holds a classifier of more
    than one label, or a family whose score `transformers` could not read again.
    """
    path = resolve(str(name))
    if (path / "adapter_config.json").exists() or not is_scalar(path):
        trunk = load_model(path, dtype, device)
        if not isinstance(trunk, Decoder):
            raise UserError(
                f"{name} is of a family that rung runs through transformers, and a scalar head needs rung's own "
                "decoder. Take a model of the Llama, Mistral, Qwen, SmolLM3, OLMo2 or Gemma family"
            )
        classifier(trunk.config.hf)
        if adapted_layers(trunk):
            merge_adapter(trunk)
        return ScalarModel(trunk, seed)
    config = read_config(path)
    labels = len(config.get("id2label") or {0: "", 1: ""})  # transformers' default is two
    if labels != 1:
        raise UserError(
            f"{name} is a classifier of {labels} labels, and a reward model has one (num_labels=1)"
        )
    if not supported(config):
        raise UserError(f"{name} is a {config['model_type']} classifier, a family rung's decoder cannot run")
    with torch.device("meta"):
        read = replace(DecoderConfig.from_hf(config), tied=True)
        model = ScalarModel(Decoder(read), about=About(**config.get(ABOUT, {})))
    load_into(nn.ModuleDict({"model": model.trunk.model, "score": model.head}), path)
    model.trunk.to(dtype)
    model.head.float()
    return model.to(device)


def scalar_tensors(model: ScalarModel) -> dict[str, Tensor]:
    """The weights under the names of a `...ForSequenceClassification` file, adapters folded in."""
    tensors = {name: tensor.detach().cpu() for name, tensor in model.trunk.state_dict().items()}
    for name, layer in adapted_layers(model.trunk).items():
        own = {key: tensors.pop(f"{name}.{key}") for key in ("lora_A", "lora_B", "base.weight")}
        product_OD = own["lora_B"].float() @ own["lora_A"].float()
        base_OD = own["base.weight"]
        tensors[f"{name}.weight"] = (base_OD.float() + layer.scale * product_OD).to(base_OD.dtype)
        if layer.base.bias is not None:
            tensors[f"{name}.bias"] = tensors.pop(f"{name}.base.bias")
    return tensors | {"score.weight": model.head.weight.detach().cpu()}


def write_scalar(folder: Path, model: ScalarModel, tokenizer: Any, source: Path | None = None) -> None:
    """The files of a sequence classification folder, into one that exists; see `rung.publish` for a whole one.

    `source` is the folder the model came from, whose generation config names the ids that end a text.
    """
    hf = model.config.hf
    defaults = (read_generation_config(source) if source else {}) or special_tokens(hf, tokenizer)
    pad = pad_token(tokenizer, ending_ids(tokenizer, defaults))
    config = {
        **{key: value for key, value in hf.items() if key not in ("problem_type", "num_labels")},
        "architectures": [classifier(hf)],
        "id2label": {"0": "reward"},
        "label2id": {"reward": 0},
        "pad_token_id": tokenizer.convert_tokens_to_ids(pad),
        ABOUT: asdict(model.about),
    }
    before, tokenizer.pad_token = tokenizer.pad_token, pad
    write_files(folder, scalar_tensors(model), config, tokenizer, defaults)
    tokenizer.pad_token = before


def classifier(hf: dict[str, Any]) -> str:
    """The class that `transformers` has for a family's sequence classification."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

    family = hf["model_type"]
    if family not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES:
        raise UserError(
            f"transformers has no sequence classification for {family}, so a reward model of that family could "
            "not be saved for others to open. Take a model of another family"
        )
    return MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES[family]


def ending_ids(tokenizer: Any, generation_config: dict[str, Any]) -> set[int]:
    """Ids that may be the last of a document."""
    ends = generation_config.get("eos_token_id")
    found = {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])}
    return {end for end in found if end is not None}


def pad_token(tokenizer: Any, ends: set[int]) -> str:
    """A special token that ends no document: the tokenizer's own pad if it is one, else the first other."""
    special = [tokenizer.pad_token_id, tokenizer.unk_token_id]
    special += sorted(id for id, token in tokenizer.added_tokens_decoder.items() if token.special)
    for candidate in special:
        if candidate is not None and candidate not in ends:
            return tokenizer.convert_ids_to_tokens(candidate)
    raise UserError(
        "every special token of this tokenizer ends a text, so none can pad: a batch padded with it would be "
        "scored at the wrong token. Add one: tokenizer.add_special_tokens({'pad_token': '<|pad|>'})"
    )
