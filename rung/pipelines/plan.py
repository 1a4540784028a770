"""What a command will take, in memory and time, from its settings and the model's config: no weight is loaded.

Memory, in bytes, of P weights of which T are trained, b bytes each (2 in bf16 and fp16, 4 in fp32):

    program      the interpreter with torch and transformers                     BASE
    code         of products of many sizes, kept by oneDNN and PyTorch           CODE, in bf16 on a CPU that trains
    weights      the compute weights                                            b P
    masters      float32 masters, where the compute weights are narrower         4 T
    moments      AdamW 8 T; muon 4 T; adamw-8bit 2 T
    gradients    float32, kept between steps                                     4 T
    average      where an exponential average is kept                            4 T
    activations  of the N tokens that go through the model at once: what backward needs of each layer,
                     b N (4 D + 2 H d + 2 K d + 3 F)          with `recompute` b N D, and one layer whole
                 and one layer's gradients beside them
    head         one chunk of C <= 2^26 / V logits, b C V, and the head's gradient, 4 V D + b V D
    reference    a frozen copy of the start, where the loss or the reward asks for one        b P
    teacher      its weights, where it is asked live and is no server                         b P of the teacher
    critic       of PPO, where it has a trunk of its own: as much again as the policy; with a cost, twice that
    sampling     keys and values of S slots of T tokens, 2 b S T K d a layer; the linear layers once more in the layout
                 of the processor's product, b P on a CPU in bf16; S logits and the float32 work on them
    loading      the checkpoint's own tensors while the masters are filled from them

A run goes through phases - loading, sampling, training - and each frees what it alone needs; the plan is the largest.
Not counted is what a CPU process holds on to besides: pages freed within a step.

Disk: each checkpoint that stays holds the weights, the masters, the moments and the average.

Time is work over speed: the floating-point operations of the steps (rung/models/flops.py) over the share of the measured
matrix peak that training reaches, and sampled tokens over the speed of decoding, which reads every weight once a step.
Where the number of steps depends on data that is not there yet, the time is unknown, which is said.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from rung.endpoint import is_url
from rung.models.config import DecoderConfig
from rung.models.flops import training_flops
from rung.settings_online_dpo import OnlineDpo

if TYPE_CHECKING:
    from rung.advantages.recipes import Recipe

BASE = 0.42e9  # resident after importing torch, transformers and pyarrow, measured
CODE = 0.33e9  # of the 1,024 and 128 products that are kept, after some tens of steps, measured
CHUNK_ELEMENTS = 2**26  # logits of the head at once (kernels/linear_logprob_torch.py)
GRAIN = 64  # rows of the cache grow by so many tokens (rollouts/cache.py)
PROMPT = 96  # tokens assumed of a prompt


@dataclass(frozen=True)
class Rates:
    """How fast this machine is. `matrix` is the measured peak in FLOP/s, `memory` bytes a second that decoding reads."""

    matrix: float
    training: float = 0.35  # share of the peak that a step reaches
    memory: float = 1.0e10
    sampling: float = 0.08  # share of the peak that decoding many rows at once reaches


@dataclass(frozen=True)
class Plan:
    """`phases` maps a phase to what it holds, in GB; `memory` is the largest sum. `seconds` is None if unknown."""

    phases: Mapping[str, Mapping[str, float]]
    seconds: float | None = None
    remark: str = ""  # why the time is unknown, or what was assumed
    disk: float = 0.0  # GB that its checkpoints leave behind

    @property
    def memory(self) -> float:
        return max((sum(parts.values()) for parts in self.phases.values()), default=0.0)


@dataclass(frozen=True)
class Rows:
    """What is known of the data before it is tokenised: documents (pairs count once) and tokens of all of them."""

    documents: int
    tokens: float

    @property
    def mean(self) -> float:
        return self.tokens / max(self.documents, 1)


def plan(
    command: str,
    settings: Any,
    model: DecoderConfig,
    *,
    rates: Rates | None = None,
    rows: Rows | None = None,
    teacher: DecoderConfig | None = None,
) -> Plan:
    """The plan of one command. `rows` are its training data, `rates` the machine's; without them time is unknown.
    A teacher is taken to be as large as the model where its config is not given.

    Commands that neither train nor sample (merging, looking, checking) have a plan without phases.
    """
    has = partial(hasattr, settings)
    if has("env") and has("optimizer"):
        return reinforcement(settings, model, rates, teacher or model)
    if has("data") and has("optimizer"):
        return on_rows(command, settings, model, rates, rows, teacher or model)
    if has("max_tokens") or has("max_new_tokens"):
        return sampling_only(settings, model, rates)
    return Plan({}, remark="neither trains nor samples")


# ---- the parts ----


@dataclass(frozen=True)
class Size:
    """A model's weights, by what they are for."""

    config: DecoderConfig
    bytes: int  # of a compute weight
    cpu: bool

    @property
    def matrices(self) -> int:
        """Weights of the linear layers, the head not among them."""
        c = self.config
        attention = c.width * c.head_width * (2 * c.heads + 2 * c.kv_heads)
        dense = 3 * c.width * c.mlp_width
        return sum(
            attention + (dense if e is None else c.width * (3 * e.width + 1) * e.count) for e in c.experts
        )

    @property
    def embedding(self) -> int:
        return self.config.vocabulary * self.config.width

    @property
    def total(self) -> int:
        c = self.config
        return self.matrices + self.embedding * (1 if c.tied else 2) + c.width * (2 * c.layers + 1)

    def adapter(self, rank: int) -> int:
        """A LoRA of this rank on every linear layer: rank (inputs + outputs) each."""
        c = self.config
        q, kv = c.heads * c.head_width, c.kv_heads * c.head_width
        widths = 2 * (c.width + q) + 2 * (c.width + kv) + 3 * (c.width + c.mlp_width)
        return rank * widths * c.layers

    def activations(self, tokens: float, recompute: bool) -> float:
        """Bytes that backward needs of the layers: what each linear layer, norm, attention and product reads."""
        c = self.config
        q, kv = c.heads * c.head_width, c.kv_heads * c.head_width
        mlp = [c.mlp_width if e is None else e.width * e.top_k for e in c.experts]
        layers = [4 * c.width + 2 * q + 2 * kv + 3 * each for each in mlp]
        kept = c.width * c.layers + max(layers) if recompute else sum(layers)
        passing = 2 * max(mlp) + 2 * c.width  # the gradients of the layer that backward is in
        return self.bytes * tokens * (kept + passing)

    def head(self, tokens: float) -> float:
        """One chunk of logits, and the head's gradient in float32 and as it is handed on."""
        chunk = min(tokens, CHUNK_ELEMENTS / self.config.vocabulary)
        return self.bytes * chunk * self.config.vocabulary + self.embedding * (4 + self.bytes)

    def cache(self, rows: float, length: float) -> float:
        """Keys and values of rows that are being sampled."""
        c = self.config
        capacity = math.ceil((length + 1) / GRAIN) * GRAIN
        return 2.0 * self.bytes * rows * capacity * c.kv_heads * c.head_width * c.layers

    def packed(self) -> float:
        """The linear layers and the head once more, laid out for the processor's product."""
        return self.bytes * (self.matrices + self.embedding) if self.cpu and self.bytes == 2 else 0.0

    def drawing(self, rows: float) -> float:
        """Logits of the newest token of each row, and float32 work on them."""
        return rows * self.config.vocabulary * (self.bytes + 4)


def size_of(settings: Any, model: DecoderConfig) -> Size:
    from rung.pipelines.setup import choose_device, choose_dtype

    device = choose_device(getattr(settings, "device", "auto"))
    dtype = choose_dtype(getattr(settings, "precision", "auto"), device)
    return Size(model, dtype.itemsize, device.type == "cpu")


def trained_state(size: Size, settings: Any) -> dict[str, float]:
    """What stays in memory as long as a run trains: weights, masters, moments, gradients."""
    rank = settings.lora.rank
    trained = size.adapter(rank) if rank else size.total
    narrow = size.bytes < 4 and not rank  # an adapter is float32 itself
    hidden = size.matrices if settings.optimizer.name == "muon" else 0
    moments = {"adamw": 8.0 * trained, "muon": 8.0 * trained - 4.0 * hidden, "adamw-8bit": 2.0 * trained}
    return {
        "program": BASE if size.cpu else 0.0,
        "code": CODE if size.cpu and size.bytes == 2 else 0.0,
        "weights": float(size.bytes * size.total + (4 * trained if rank else 0)),
        "masters": 4.0 * trained * narrow,
        "moments": moments.get(settings.optimizer.name, 0.0),
        "gradients": 4.0 * trained,
        "average": 4.0 * trained * bool(settings.optimizer.average),
    }


def disk(size: Size, settings: Any, steps: int | None, models: int = 1) -> float:
    """GB of the checkpoints that stay. Of a LoRA the adapter is written, not what it adapts."""
    state = trained_state(size, settings)
    rank = settings.lora.rank
    weights = 4.0 * size.adapter(rank) if rank else state["weights"]
    saves = 1
    if settings.save_every:  # a number of steps that is not known yet is taken to be many
        saves = math.ceil(steps / settings.save_every) if steps else settings.keep or 1
    kept = min(settings.keep or saves, saves)
    return kept * models * (weights + state["masters"] + state["moments"] + state["average"]) / 1e9


def training_phase(size: Size, settings: Any, tokens: float, scored: float) -> dict[str, float]:
    """A step: `tokens` go through the model at once, `scored` of them through the head."""
    return {
        **trained_state(size, settings),
        "activations": size.activations(tokens, settings.recompute),
        "head": size.head(scored),
    }


# ---- the commands ----


def on_rows(
    command: str,
    settings: Any,
    model: DecoderConfig,
    rates: Rates | None,
    rows: Rows | None,
    teacher: DecoderConfig,
) -> Plan:
    """SFT, preferences, reward models: rows that are there, so the step's size is known with them."""
    size = size_of(settings, model)
    usual = (16384 if not size.cpu else 1024) if command == "sft" else (16384 if not size.cpu else 2048)
    at_once = settings.micro_tokens or usual
    step = step_tokens(settings, rows)
    tokens = min(at_once, step) if step else at_once
    phase = training_phase(size, settings, tokens, tokens) | asked_live(settings, teacher)
    steps = steps_of(settings, rows)
    left = disk(size, settings, steps)
    if rates is None or steps is None or step is None:
        return Plan(in_gb({"training": phase}), remark="time unknown: the data is not there yet", disk=left)
    work = steps * training_flops(model, step, step, min(settings.max_length, rows.mean if rows else 512))
    looks = 4 / 3 if hasattr(settings, "track_start") else 1.0  # a forward for the start's log-probs
    return Plan(in_gb({"training": phase}), work * looks / (rates.matrix * rates.training), disk=left)


def step_tokens(settings: Any, rows: Rows | None) -> float | None:
    documents = getattr(settings, "step_pairs", None) or getattr(settings, "step_documents", None)
    if documents is None:
        return float(settings.step_tokens)
    return documents * min(rows.mean, 2 * settings.max_length) if rows else None


def steps_of(settings: Any, rows: Rows | None) -> int | None:
    if settings.steps:
        return int(settings.steps)
    step = step_tokens(settings, rows)
    return math.ceil(settings.epochs * rows.tokens / step) if rows and step else None


def asked_live(settings: Any, teacher: DecoderConfig) -> dict[str, float]:
    """A teacher's weights while the student trains; none behind a server, or where its answers were kept before."""
    named: str = getattr(settings, "teacher", "")
    kept = hasattr(settings, "top_k") and settings.top_k > 0
    if not named or is_url(named) or kept:
        return {}
    size = size_of(settings, teacher)
    return {"teacher": float(size.bytes * size.total)}


def reinforcement(settings: Any, model: DecoderConfig, rates: Rates | None, teacher: DecoderConfig) -> Plan:
    """Rounds of sampling and updates, on the same weights in turns."""
    size = size_of(settings, model)
    state = trained_state(size, settings) | asked_live(settings, teacher)
    recipe, reference = rounds_of(settings)
    if reference:
        state["reference"] = float(size.bytes * size.total)
    cost = settings.cost.reward if hasattr(settings, "cost") else ""
    scored = [spec for spec in (settings.reward, cost) if spec.startswith("rm:")]
    if scored:  # each taken to be as large as the policy
        state["reward model"] = float(size.bytes * size.total * sum(len(s.split(",")) for s in scored))
    own = hasattr(settings, "critic") and settings.critic.trunk == "own"
    critics = own * (1 + bool(cost))
    if critics:
        process = state["program"] + state["code"]
        state["critic"] = critics * (sum(trained_state(size, settings).values()) - process)
    answers = settings.prompts * recipe.group_size
    length = PROMPT + settings.max_tokens
    rows = min(settings.slots, max(answers, settings.test_tasks if settings.eval_every else 0))
    sampling = {
        **state,
        "sampling": size.cache(rows, length) + size.packed() + size.drawing(rows),
    }
    shared = settings.prompts * PROMPT if settings.share_prompts else answers * PROMPT
    tokens = min(settings.micro_tokens, shared + answers * settings.max_tokens)
    training = state | {
        "activations": size.activations(tokens, settings.recompute) * (1 + critics),
        "head": size.head(tokens),
    }
    phases = in_gb({"sampling": sampling, "training": training})
    left = disk(size, settings, settings.rounds, 1 + critics)
    if rates is None:
        return Plan(phases, disk=left)
    written = settings.rounds * answers * settings.max_tokens
    learning = training_flops(model, written + settings.rounds * shared, written, length) * settings.epochs
    learning *= 1 + critics
    seconds = learning / (rates.matrix * rates.training) + decoding_seconds(size, written, rows, rates)
    return Plan(phases, seconds, remark="at most: as if every answer were max_tokens long", disk=left)


def rounds_of(settings: Any) -> tuple[Recipe, bool]:
    """The recipe of a command that samples, and whether a frozen copy of the start stands beside the policy."""
    if hasattr(settings, "teacher"):  # which is the reference there
        from rung.pipelines import distill_on_policy

        return distill_on_policy.recipe_for(settings), False
    if isinstance(settings, OnlineDpo):
        from rung.pipelines import online_dpo
        from rung.pipelines.preference import REFERENCE_FREE

        return online_dpo.recipe_for(settings), settings.method not in REFERENCE_FREE
    from rung.pipelines.recipe import recipe_of

    recipe = recipe_of(settings)
    return recipe, recipe.needs_reference


def sampling_only(settings: Any, model: DecoderConfig, rates: Rates | None) -> Plan:
    """Answers and nothing learned: evaluation, generation, self-training's data."""
    size = size_of(settings, model)
    longest: int = settings.max_tokens if hasattr(settings, "max_tokens") else settings.max_new_tokens
    rows: int = getattr(settings, "slots", 0) or getattr(settings, "batch", 32)
    phase = {
        "program": BASE if size.cpu else 0.0,
        "weights": float(size.bytes * size.total),
        "sampling": size.cache(rows, PROMPT + longest) + size.packed() + size.drawing(rows),
    }
    tasks = getattr(settings, "tasks", None)
    if rates is None or not tasks:
        return Plan(in_gb({"sampling": phase}), remark="time unknown: it follows the number of tasks")
    models = len(getattr(settings, "models", ()) or (1,))
    written = models * tasks * settings.samples * longest
    return Plan(
        in_gb({"sampling": phase}),
        decoding_seconds(size, written, rows, rates),
        "at most: as if every answer were long",
    )


def decoding_seconds(size: Size, tokens: float, rows: float, rates: Rates) -> float:
    """Each step multiplies one token of every row with all weights: bound by arithmetic or by reading them."""
    work = 2.0 * (size.matrices + size.embedding)
    step = max(rows * work / (rates.matrix * rates.sampling), size.bytes * work / 2 / rates.memory)
    return tokens / rows * step


def in_gb(phases: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    return {
        name: {part: value / 1e9 for part, value in parts.items() if value} for name, parts in phases.items()
    }
