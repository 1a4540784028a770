"""Any causal model that transformers can open, behind the decoder's interface: slower, and as right.

Each document becomes one right-padded row, so isolation holds for every architecture; padding is told by
length. There is no key-value cache on this path: sampling reads the whole prefix again for each token. What
an architecture does to its logits after the head is not ours to know, so opening a model compares the two
ways to logits on a few tokens and refuses where they differ.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from rung.errors import UserError
from rung.models.decoder import Attend, Decoder, Documents, Hidden


@dataclass(frozen=True)
class FallbackConfig:
    """The few facts the rest of rung reads of a model it did not build."""

    hf: dict[str, Any]
    vocabulary: int
    width: int
    layers: int
    context: int
    tied: bool
    logit_softcap: float | None
    logit_scale: float  # on the hidden states, which is the same as on the logits before a softcap
    experts: tuple[None, ...] = ()


class TransformersDecoder(nn.Module):
    def __init__(self, path: Path, hf: dict[str, Any], dtype: torch.dtype):
        super().__init__()
        self.inner = _open(path, hf, dtype)
        text = self.inner.config.get_text_config()
        self.config = FallbackConfig(
            hf=hf,
            vocabulary=text.vocab_size,
            width=text.hidden_size,
            layers=text.num_hidden_layers,
            context=getattr(text, "max_position_embeddings", None) or 1 << 20,
            tied=bool(getattr(text, "tie_word_embeddings", False)),
            logit_softcap=getattr(text, "final_logit_softcapping", None),
            logit_scale=getattr(text, "logit_scale", None)
            or 1 / (getattr(text, "logits_scaling", None) or 1),
        )
        self._must_agree(path)

    batch_invariant = False  # transformers promises nothing of the kind

    @property
    def checkpointing(self) -> bool:
        return bool(self.inner.is_gradient_checkpointing)

    @checkpointing.setter
    def checkpointing(self, wanted: bool) -> None:
        if wanted:
            self.inner.gradient_checkpointing_enable({"use_reentrant": False})
        elif self.checkpointing:
            self.inner.gradient_checkpointing_disable()

    @property
    def head_weight(self) -> Tensor:
        return self.inner.get_output_embeddings().weight

    @property
    def head_bias(self) -> Tensor | None:
        return getattr(self.inner.get_output_embeddings(), "bias", None)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """A state dict is a checkpoint, as for the decoder: names and shapes of files, each weight once."""
        from transformers.core_model_loading import revert_weight_conversion

        tensors = revert_weight_conversion(self.inner, self.inner.state_dict(*args, **kwargs))
        tied = getattr(self.inner, "all_tied_weights_keys", None) or ()
        return {name: tensor for name, tensor in tensors.items() if name not in tied}

    def forward(
        self,
        token_ids_N: Tensor,
        positions_N: Tensor,
        attend: Attend,
        perturb: Callable[[Tensor], Tensor] | None = None,
    ) -> Hidden:
        if not isinstance(attend, Documents):
            raise TypeError("the transformers fallback has no key-value cache; pass Documents(lengths)")
        if attend.parents:
            raise TypeError("the transformers fallback cannot branch documents; collate without groups")
        lengths_B = torch.tensor(attend.lengths, device=token_ids_N.device)
        real_BT = torch.arange(int(lengths_B.max()), device=lengths_B.device) < lengths_B[:, None]
        embedded_ND = self.inner.get_input_embeddings()(token_ids_N)
        if perturb is not None:
            embedded_ND = perturb(embedded_ND)
        embedded_BTD = embedded_ND.new_zeros(*real_BT.shape, embedded_ND.shape[-1])
        embedded_BTD = embedded_BTD.masked_scatter(real_BT[..., None], embedded_ND)
        out = self.inner.base_model(
            inputs_embeds=embedded_BTD, attention_mask=real_BT.long(), use_cache=False
        )
        return Hidden(out.last_hidden_state[real_BT] * self.config.logit_scale)

    def logits(self, states_ND: Tensor) -> Tensor:
        logits_NV = nn.functional.linear(states_ND, self.head_weight, self.head_bias)
        cap = self.config.logit_softcap
        return logits_NV if cap is None else cap * torch.tanh(logits_NV / cap)

    @torch.no_grad()
    def _must_agree(self, path: Path) -> None:
        """Our way to the logits of a few tokens must be the model's own."""
        self.inner.eval()
        ids_N = torch.arange(4) % self.config.vocabulary
        ours_NV = self.logits(self(ids_N, ids_N, Documents((4,))).states_ND).float()
        theirs_NV = self.inner(ids_N[None], use_cache=False).logits[0].float()
        tolerance = 1e-3 if self.head_weight.dtype == torch.float32 else 0.05
        if not torch.allclose(ours_NV, theirs_NV, rtol=tolerance, atol=tolerance):
            raise UserError(
                f"{path} is a {self.config.hf['model_type']} model, which turns its last hidden states into "
                "logits in a way rung does not know: its log-probabilities would be wrong. Use a model of "
                "another family"
            )


Model = Decoder | TransformersDecoder


def _open(path: Path, hf: dict[str, Any], dtype: torch.dtype) -> Any:
    """The model, or a word on why transformers has none to offer."""
    from transformers import AutoModelForCausalLM

    try:  # it imports a stranger's architecture and reads a stranger's files
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, local_files_only=True, output_loading_info=True
        )
        model, found = loaded
    except (ValueError, ImportError, OSError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"{path} is a {hf['model_type']} model, which transformers cannot open as a causal language "
            f"model: {error}. Fetch or export it again"
        ) from error
    missing, extra = sorted(found["missing_keys"]), sorted(found["unexpected_keys"])
    if missing or extra:  # transformers would fill the gaps with random numbers and go on
        raise UserError(
            f"{path} does not hold the model its config.json describes: {len(missing)} tensors are missing "
            f"{missing[:3]}, {len(extra)} have no place {extra[:3]}. Fetch or export it again"
        )
    return model
