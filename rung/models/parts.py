"""The parts a decoder layer is built of: norms, feed-forward, mixture of experts. No part knows another."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rung.kernels.elementwise import gated, rms_norm
from rung.kernels.linear import Linear
from rung.models.config import DecoderConfig, Experts


class RMSNorm(nn.Module):
    """x / rms(x) * (weight + offset), the mean square taken in float32 (arXiv 1910.07467)."""

    def __init__(self, width: int, epsilon: float, offset: float = 0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.full((width,), 1.0 - offset))
        self.epsilon, self.offset = epsilon, offset

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.epsilon, self.offset)


class DyT(nn.Module):
    """weight * tanh(alpha x) + bias: a norm without statistics (arXiv 2503.10622). alpha starts at 0.5."""

    def __init__(self, width: int, epsilon: float, offset: float = 0.0):
        super().__init__()
        self.alpha = nn.Parameter(torch.tensor([0.5]))
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * torch.tanh(self.alpha * x) + self.bias


class MLP(nn.Module):
    """down(activation(gate x) * up x)."""

    def __init__(self, width: int, hidden: int, activation: str, bias: bool = False):
        super().__init__()
        self.gate_proj = Linear(width, hidden, bias=bias)
        self.up_proj = Linear(width, hidden, bias=bias)
        self.down_proj = Linear(hidden, width, bias=bias)
        self.activation = activation

    def forward(self, x_ND: Tensor) -> tuple[Tensor, None]:
        return self.down_proj(gated(self.gate_proj(x_ND), self.up_proj(x_ND), self.activation)), None


class Router(nn.Module):
    """One logit per expert; float32 softmax over all experts, then the k largest."""

    def __init__(self, width: int, experts: Experts):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(experts.count, width))
        nn.init.normal_(self.weight, std=0.02)
        self.experts = experts

    def forward(self, x_ND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits_NE = F.linear(x_ND, self.weight)
        weights_Nk, chosen_Nk = logits_NE.float().softmax(-1).topk(self.experts.top_k)
        if self.experts.normalise:
            weights_Nk = weights_Nk / weights_Nk.sum(-1, keepdim=True)
        return logits_NE, weights_Nk.to(x_ND.dtype), chosen_Nk


class MixtureOfExperts(nn.Module):
    """Each token's output is the weighted sum of its k experts; every expert sees only its own tokens.

    How many those are depends on the whole micro-batch, and the rounding of a matrix product on its shape: a
    document's neighbours can move its last bits, and nothing more. Dense models do not have that.
    """

    def __init__(self, config: DecoderConfig, experts: Experts):
        super().__init__()
        self.gate = Router(config.width, experts)
        self.experts = nn.ModuleList(
            MLP(config.width, experts.width, config.activation) for _ in range(experts.count)
        )

    def forward(self, x_ND: Tensor) -> tuple[Tensor, Tensor]:
        """The output and the router's logits, which the balancing losses read."""
        logits_NE, weights_Nk, chosen_Nk = self.gate(x_ND)
        out_ND = torch.zeros_like(x_ND)
        for index, expert in enumerate(self.experts):
            rows, slots = (chosen_Nk == index).nonzero(as_tuple=True)
            out_rows, _ = expert(x_ND[rows])
            out_ND = out_ND.index_add(0, rows, out_rows * weights_Nk[rows, slots, None])
        return out_ND, logits_NE


def router_losses(logits_by_layer: tuple[Tensor, ...], top_k: int) -> dict[str, Tensor]:
    """What keeps a router honest, over all sparse layers of one micro-batch, each a scalar mean.

    balance  E * sum_e f_e P_e, f_e the choices per token that went to expert e, P_e its mean probability;
             k when perfectly even (arXiv 2101.03961, equations 4 to 6, layers pooled)
    z        mean of logsumexp(logits)^2, which keeps logits small (arXiv 2202.08906, equation 5)
    """
    logits_ME = torch.cat(logits_by_layer).float()
    count = logits_ME.shape[1]
    probabilities_ME = logits_ME.softmax(-1)
    chosen = probabilities_ME.topk(top_k).indices.flatten()
    share_E = torch.bincount(chosen, minlength=count) / len(logits_ME)
    return {
        "balance": count * (share_E * probabilities_ME.mean(0)).sum(),
        "z": logits_ME.logsumexp(-1).square().mean(),
    }
