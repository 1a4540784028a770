"""Any causal model that transformers can open, behind the decoder's interface: slower, never wrong about documents.

Each document becomes one right-padded row, so isolation holds for every architecture; padding is told by
length. There is no key-value cache on this path: sampling reads the whole prefix again for each token.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rung.models.decoder import Attend, Documents, Hidden


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
    experts: tuple[None, ...] = ()


class TransformersDecoder(nn.Module):
    def __init__(self, path: Path, hf: dict[str, Any], dtype: torch.dtype):
        super().__init__()
        from transformers import AutoModelForCausalLM

        inner = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, local_files_only=True)
        text = inner.config.get_text_config()
        self.inner = inner
        self.config = FallbackConfig(
            hf=hf,
            vocabulary=text.vocab_size,
            width=text.hidden_size,
            layers=text.num_hidden_layers,
            context=getattr(text, "max_position_embeddings", None) or 1 << 20,
            tied=bool(getattr(text, "tie_word_embeddings", False)),
            logit_softcap=getattr(text, "final_logit_softcapping", None),
        )

    @property
    def checkpointing(self) -> bool:
        return self.inner.is_gradient_checkpointing

    @checkpointing.setter
    def checkpointing(self, wanted: bool) -> None:
        if wanted:
            self.inner.gradient_checkpointing_enable({"use_reentrant": False})

    @property
    def head_weight(self) -> Tensor:
        return self.inner.get_output_embeddings().weight

    def forward(
        self,
        token_ids_N: Tensor,
        positions_N: Tensor,
        attend: Attend,
        perturb: Callable[[Tensor], Tensor] | None = None,
    ) -> Hidden:
        if not isinstance(attend, Documents):
            raise TypeError("the transformers fallback has no key-value cache; pass Documents(lengths)")
        lengths_B = torch.tensor(attend.lengths, device=token_ids_N.device)
        real_BT = torch.arange(int(lengths_B.max()), device=lengths_B.device) < lengths_B[:, None]
        embedded_ND = self.inner.get_input_embeddings()(token_ids_N)
        if perturb is not None:
            embedded_ND = perturb(embedded_ND)
        embedded_BTD = embedded_ND.new_zeros(*real_BT.shape, embedded_ND.shape[-1])
        embedded_BTD = embedded_BTD.masked_scatter(real_BT[..., None], embedded_ND)
        out = self.inner.base_model(inputs_embeds=embedded_BTD, attention_mask=real_BT.long(), use_cache=False)
        return Hidden(out.last_hidden_state[real_BT])

    def logits(self, states_ND: Tensor) -> Tensor:
        logits_NV = self.inner.get_output_embeddings()(states_ND)
        cap = self.config.logit_softcap
        return logits_NV if cap is None else cap * torch.tanh(logits_NV / cap)
