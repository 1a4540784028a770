"""A policy with its critics as one module: what PPO trains, in one state and one optimizer.

The critic `value` expects the reward still to come, `cost`, where there is one, the cost. Each is a scalar model
of its own, so that in a checkpoint it is a folder that `transformers` opens, beside the policy's files:

    critic/value/, critic/cost/     a sequence classification model each

or, on a shared trunk, a vector that reads the policy's own states, all of them in critic/heads.safetensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rung.batch import Batch, prediction_sites
from rung.errors import UserError
from rung.models.decoder import Decoder
from rung.models.hub import resolve
from rung.models.policy import trained_sites
from rung.models.scalar import About, ScalarModel, is_scalar, load_scalar, write_scalar

FOLDER, HEADS = "critic", "heads.safetensors"


class ActorCritic(nn.Module):
    """`actor`, and in `critic` scalar models of their own or heads on the actor's trunk, by name."""

    def __init__(self, actor: nn.Module, critic: dict[str, nn.Module]):
        super().__init__()
        self.actor = actor
        self.critic = nn.ModuleDict(critic)

    @property
    def shared(self) -> bool:
        return not any(isinstance(part, ScalarModel) for part in self.critic.values())

    @property
    def heads(self) -> dict[str, Any]:
        """Those that read the actor's states, for `policy.score`."""
        return dict(self.critic.items()) if self.shared else {}

    def values(self, batch: Batch) -> dict[str, Tensor]:
        """What critics of their own expect before each trained token of the batch, `[M]` in float32."""
        sites_M = prediction_sites(batch)[0]
        found = {name: part for name, part in self.critic.items() if isinstance(part, ScalarModel)}
        return {name: part(batch)[sites_M] for name, part in found.items()}

    def all_values(self, batch: Batch) -> dict[str, Tensor]:
        """The same for critics of either kind, without the policy's scores."""
        if not self.shared:
            return self.values(batch)
        actor: Any = self.actor
        states_MD = trained_sites(actor, batch).states_MD
        return {name: head(states_MD.float()).squeeze(1) for name, head in self.heads.items()}

    def write(self, folder: Path, tokenizer: Any, source: Path) -> None:
        """The critics' files, into the folder of the actor."""
        (folder / FOLDER).mkdir()
        if self.shared:
            weights = {name: head.weight.detach().cpu() for name, head in self.heads.items()}
            save_file(weights, folder / FOLDER / HEADS)
            return
        for name, part in self.critic.items():
            assert isinstance(part, ScalarModel)
            (folder / FOLDER / name).mkdir()
            write_scalar(folder / FOLDER / name, part, tokenizer, source)


def own_critics(
    names: Sequence[str], start: str, dtype: torch.dtype, device: torch.device, saved: Path | None
) -> dict[str, nn.Module]:
    """A network for each name: as saved in a checkpoint, else from `start`.

    Of a reward model the head is kept, which already knows what to expect at the end of an answer; a policy gets
    one of zeros, so that the first advantages are the returns.
    """
    critics: dict[str, nn.Module] = {}
    for name in names:
        critic = load_scalar(str(saved / FOLDER / name) if saved else start, dtype, device)
        if saved is None and not is_scalar(resolve(start)):
            nn.init.zeros_(critic.head.weight)
        critic.about = About(kind="critic")
        critics[name] = critic.requires_grad_(True)
    return critics


def shared_heads(
    names: Sequence[str], actor: Decoder, device: torch.device, saved: Path | None
) -> dict[str, nn.Module]:
    """A vector for each name on the actor's states, zeros at first."""
    width = actor.config.width
    heads = {name: nn.Linear(width, 1, bias=False, dtype=torch.float32, device=device) for name in names}
    stored = load_file(saved / FOLDER / HEADS) if saved else {}
    for name, head in heads.items():
        with torch.no_grad():
            head.weight.copy_(stored[name]) if saved else head.weight.zero_()
    return dict(heads)


def check_same_tokens(name: str, vocabulary: int, wanted: int) -> None:
    """A model that reads the policy's ids must know as many."""
    if vocabulary < wanted:
        raise UserError(
            f"{name} knows {vocabulary} tokens and the policy {wanted}, so it reads other text than was written. "
            "Take a model with the policy's tokenizer."
        )
