"""Float32 truth over low-precision compute weights: masters, schedules, optimizers, loss scale, EMA.

The model computes in `bf16` (or fp16, or fp32); the optimizer only ever sees float32. Each trainable
weight has a float32 master whose `.grad` collects the micro-batches' gradients in float32, as they are
produced, so accumulation does not round; after a step the compute weight is the rounded master. Where
the compute weight is float32 it is its own master and nothing is copied.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from rung.errors import UserError
from rung.settings import Optimizer


class Masters:
    """The float32 masters of a model's trainable weights, by name."""

    def __init__(self, model: nn.Module):
        self.compute = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.weights: dict[str, Tensor] = {}
        self.buffers: dict[str, Tensor] = {}  # float32 gradients, kept between steps: fresh pages cost time
        for name, parameter in self.compute.items():
            if parameter.dtype == torch.float32:
                self.weights[name] = parameter
            else:
                self.weights[name] = parameter.detach().float()
                parameter.register_post_accumulate_grad_hook(
                    collector(self.weights[name], self.buffers, name)
                )

    def gradients(self, *, complete: bool = False) -> list[Tensor]:
        """Those that exist; `complete` makes zeros for the rest (an expert no token chose), so ranks agree."""
        if complete:
            for weight in self.weights.values():
                weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
        return [w.grad for w in self.weights.values() if w.grad is not None]

    def clear_gradients(self) -> None:
        for weight in self.weights.values():
            weight.grad = None

    @torch.no_grad()
    def publish(self) -> None:
        """Round the masters into the compute weights."""
        for name, parameter in self.compute.items():
            if self.weights[name] is not parameter:
                parameter.copy_(self.weights[name])

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:
        """Replace the masters' values, and the compute weights by their rounding."""
        for name, weight in self.weights.items():
            weight.copy_(tensors[name])
        self.publish()


def collector(master: Tensor, buffers: dict[str, Tensor], name: str):
    """What adds a weight's gradient to its master's. It must not know the weight: a hook that does is never freed, and
    with it the run's whole state, for the collector of cycles does not see hooks."""

    def collect(parameter: Tensor) -> None:
        assert parameter.grad is not None
        buffer = buffers.setdefault(name, torch.empty_like(master))
        if master.grad is None:
            master.grad = buffer.copy_(parameter.grad)
        else:
            buffer.add_(parameter.grad)
        parameter.grad = None

    return collect


def learning_rate(settings: Optimizer, step: int, steps: int) -> float:
    """The rate of optimizer step `step` (from 0) of `steps`: a pure function, so a resume needs no state.

    Every schedule rises linearly over `warmup` steps. Then: constant; cosine and linear fall to
    `final_share` of the peak at the last step; wsd stays and falls linearly over the last `decay` steps.
    """
    warmup = _steps(settings.warmup, steps)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    floor, span = settings.final_share, max(steps - 1 - warmup, 1)
    done = min((step - warmup) / span, 1.0)
    if settings.schedule == "constant":
        share = 1.0
    elif settings.schedule == "linear":
        share = 1.0 - (1.0 - floor) * done
    elif settings.schedule == "cosine":
        share = floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * done))
    else:
        decay = max(_steps(settings.decay, steps), 1)
        share = 1.0 - (1.0 - floor) * min(max(step - (steps - 1 - decay), 0) / decay, 1.0)
    return settings.learning_rate * share


def _steps(value: float, steps: int) -> int:
    """A whole number is steps, a fraction below 1 a share of the run."""
    return round(value * steps) if 0 < value < 1 else round(value)


class Stepper:
    """The optimizer over the masters: one library optimizer, or Muon for matrices with AdamW for the rest."""

    def __init__(self, masters: Masters, settings: Optimizer, factors: Mapping[str, float] | None = None):
        """`factors`: how a name begins -> a factor on the learning rate of such weights; 1 for all others."""
        self.masters, self.settings = masters, settings
        self.optimizers = _build(masters.weights, settings, factors or {})

    @torch.no_grad()
    def step(self, rate: float) -> None:
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                # torchao compiles its step and reads the rate, a tensor, in there.
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(rate * group["rate_factor"])
                else:
                    group["lr"] = rate * group["rate_factor"]
            optimizer.step()
        self.masters.publish()

    def state(self) -> list[dict]:
        return [optimizer.state_dict() for optimizer in self.optimizers]

    def load(self, state: list[dict]) -> None:
        for optimizer, part in zip(self.optimizers, state, strict=True):
            optimizer.load_state_dict(part)


def _build(
    weights: dict[str, Tensor], settings: Optimizer, factors: Mapping[str, float]
) -> list[torch.optim.Optimizer]:
    # Norms and biases are not decayed: pulling a gain towards 0 is no regularisation.
    matrices = [w for w in weights.values() if w.ndim >= 2]
    vectors = [w for w in weights.values() if w.ndim < 2]
    own = {id(w): rate for n, w in weights.items() for start, rate in factors.items() if n.startswith(start)}
    if settings.name == "muon":
        hidden = [
            w for n, w in weights.items() if w.ndim == 2 and "embed_tokens" not in n and "lm_head" not in n
        ]
        taken = {id(w) for w in hidden}
        rest = _groups([w for w in matrices if id(w) not in taken], vectors, settings, own)
        muon = torch.optim.Muon(
            _by_rate(hidden, own, {"rate_factor": settings.muon_factor}),
            momentum=0.95,
            weight_decay=settings.weight_decay,
            adjust_lr_fn="match_rms_adamw",
        )
        return [muon, _adamw(rest, settings)]
    groups = _groups(matrices, vectors, settings, own)
    if settings.name == "adamw":
        return [_adamw(groups, settings)]
    return [_torchao(groups, settings)]


def _groups(
    matrices: Iterable[Tensor], vectors: Iterable[Tensor], settings: Optimizer, own: Mapping[int, float]
) -> list[dict]:
    return [
        *_by_rate(matrices, own, {"weight_decay": settings.weight_decay, "rate_factor": 1.0}),
        *_by_rate(vectors, own, {"weight_decay": 0.0, "rate_factor": 1.0}),
    ]


def _by_rate(weights: Iterable[Tensor], own: Mapping[int, float], options: dict) -> list[dict]:
    """A group for each learning rate that is asked for; `own` names the factor of a weight by its id."""
    groups: dict[float, list[Tensor]] = {}
    for weight in weights:
        groups.setdefault(own.get(id(weight), 1.0), []).append(weight)
    return [
        {**options, "params": params, "rate_factor": options["rate_factor"] * factor}
        for factor, params in groups.items()
    ]


def _adamw(groups: list[dict], settings: Optimizer) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, betas=settings.betas, eps=settings.epsilon, fused=True)


def _torchao(groups: list[dict], settings: Optimizer) -> torch.optim.Optimizer:
    try:
        from torchao.optim import AdamW8bit, CPUOffloadOptimizer
    except ImportError:
        raise UserError(
            f"optimizer.name={settings.name} comes from torchao, which is not installed. "
            "Write: pip install 'rung[lowbit]', or choose --optimizer.name adamw."
        ) from None
    if settings.name == "adamw-8bit":
        return AdamW8bit(groups, betas=settings.betas, eps=settings.epsilon)
    if not torch.cuda.is_available():
        raise UserError(
            "optimizer.name=adamw-offload keeps optimizer state in host memory for a model on a GPU, and no "
            "CUDA device is present: the state is in host memory already. Choose --optimizer.name adamw."
        )
    return CPUOffloadOptimizer(
        groups, torch.optim.AdamW, betas=settings.betas, eps=settings.epsilon, fused=True
    )


class LossScale:
    """Keeps small fp16 gradients above zero: doubles every 2,000 good steps, halves when one overflows.

    With `enabled` false it is 1 for ever, so the loop needs no branch.
    """

    def __init__(self, enabled: bool):
        self.enabled, self.value, self.good = enabled, 2.0**14 if enabled else 1.0, 0

    def accept(self, finite: bool) -> bool:
        """Whether the step may be taken; an fp16 overflow is skipped, everything else is not ours to hide."""
        if not self.enabled:
            return True
        self.good = self.good + 1 if finite else 0
        if not finite:
            self.value /= 2
        elif self.good % 2000 == 0:
            self.value *= 2
        return finite

    def state(self) -> dict:
        return {"value": self.value, "good": self.good}

    def load(self, state: dict) -> None:
        self.value, self.good = state["value"], state["good"]


class Average:
    """Exponential moving average of the masters: average <- decay average + (1 - decay) master."""

    def __init__(self, masters: Masters, decay: float):
        self.masters, self.decay = masters, decay
        self.weights = {n: w.detach().clone() for n, w in masters.weights.items()} if decay else {}

    @torch.no_grad()
    def update(self) -> None:
        if self.weights:
            current = [self.masters.weights[n].detach() for n in self.weights]
            torch._foreach_lerp_(list(self.weights.values()), current, 1.0 - self.decay)
