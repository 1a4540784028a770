"""Settings of reinforcement learning: what is played, how it is graded, how rewards become an update."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from rung.settings import Lora, Optimizer

RecipeName = Literal[
    "reinforce", "rloo", "remax", "grpo", "dr_grpo", "dapo", "gspo", "cispo", "reinforce_plus_plus",
    "reinforce_plus_plus_baseline", "high_entropy", "entropy_shaped", "delta", "reason_maxxer",
]  # fmt: skip


@dataclass(frozen=True)
class LossParts:
    """Parts of the policy gradient that differ from the method's own; null keeps the method's."""

    clip_low: float | None = None
    """How far below 1 the ratio of an unwanted token is still pushed."""
    clip_high: float | None = None
    """How far above 1 the ratio of a wanted token is still pushed."""
    dual_clip: float | None = None
    """Largest ratio with which an unwanted token is pushed down, above 1."""
    aggregation: Literal["token", "sequence", "sequence_sum", "fixed"] | None = None
    """What counts alike: every token, every answer, an answer's sum, or that over max_length."""
    max_length: int | None = None
    """The constant of the aggregation `fixed`; by default max_tokens."""
    beta: float | None = None
    """Strength of the pull towards the reference, in the loss."""
    kl: Literal["k1", "k2", "k3"] | None = None
    """Estimator of the distance to the reference."""
    ratio_from: Literal["trainer", "sampler"] | None = None
    """The log-probs a ratio starts from; null is the sampler's where it is not rung's engine and nothing is corrected."""
    correction: Literal["none", "tis", "mis"] | None = None
    """Truncated or masked importance sampling against a sampler that disagrees with the trainer."""
    correction_level: Literal["token", "sequence"] | None = None
    """Whether that correction is of each token or of the product over the answer."""
    correction_max: float | None = None
    """Largest ratio trainer / sampler it lets through."""
    entropy_bonus: float | None = None
    """Reward for the entropy of each token's distribution."""


@dataclass(frozen=True)
class Parts:
    """Parts of the method that differ from its recipe; null keeps the recipe's."""

    estimator: (
        Literal[
            "reward", "batch_mean", "greedy", "leave_one_out", "group_mean", "group_normalized",
            "group_mean_batch_std",
        ]
        | None
    ) = None  # fmt: skip
    """The baseline a reward is compared with."""
    token_credit: Literal["uniform", "entropy_mask", "entropy_shaped", "decisions"] | None = None
    """Which tokens of an answer the credit falls on."""
    whiten: bool | None = None
    """Bring the advantages of a round to mean 0 and deviation 1."""
    kl_in_reward: Literal["none", "answer", "token"] | None = None
    """Subtract the distance to the reference from the reward: of the whole answer, or token by token."""
    reward_beta: float | None = None
    """Strength of that."""
    dynamic_sampling: bool | None = None
    """Play more tasks until enough groups have answers that differ in reward."""
    overlong_filter: bool | None = None
    """Answers that ran into their limit do not train."""


@dataclass(frozen=True)
class Rl:
    """Reinforcement learning from verifiable rewards: sample, grade, give credit, update."""

    env: str = ""
    """What is played: arithmetic, countdown, reasoning-gym/NAME, gsm8k:PATH, rows:PATH, FILE.py:function, a mixture."""
    reward: str = ""
    """Instead of the environment's reward: FILE.py:function, a judge file, FILE.yaml, or rm:FOLDER, a reward model."""
    method: RecipeName = "grpo"
    """The recipe: which credit, which loss, which defaults."""
    model: str = "smollm2-135m"
    """A known name, a Hugging Face id, a local folder, a run folder or a .gguf file."""
    out: str = ""
    """The run folder; by default a new one under runs/."""
    resume: str = ""
    """Continue this run folder from its latest checkpoint, with the settings it was started with."""
    rounds: int = 50
    """Rounds of sampling."""
    prompts: int = 8
    """Tasks of a round."""
    group: int | None = None
    """Answers to each task; null is the recipe's."""
    updates: int | None = None
    """Optimizer steps of a round; null is the recipe's. With 1 the learner is exactly the sampler."""
    epochs: int = 1
    """Times a round is gone through in its updates."""
    waves: int = 4
    """With dynamic sampling, at most this many times `prompts` tasks are played for a round."""
    max_tokens: int = 256
    """Longest turn of the model."""
    min_tokens: int = 0
    """Shortest turn of the model: before it, nothing that would end a turn is drawn."""
    max_length: int | None = None
    """Longest conversation; null is the model's context."""
    temperature: float = 1.0
    """Of sampling while training."""
    top_p: float = 1.0
    """Of sampling while training; below 1 the sampler is not the policy, and the mismatch is logged."""
    train_tasks: int = 10000
    """Tasks generated to train on, where the environment generates them."""
    test_tasks: int = 200
    """Held-out tasks."""
    difficulty_from: str = ""
    """A run folder: tasks that its rollouts show to be too hard or too easy are left out."""
    pass_rates: tuple[float, float] = (0.1, 0.9)
    """Which pass rates are neither; a task is left out only where its results make sure of it."""
    eval_every: int = 0
    """Steps between evaluations on the held-out tasks; one always follows the last step."""
    eval_temperature: float = 1.0
    """Of sampling while evaluating; 0 is greedy."""
    findings: Literal["warn", "stop"] = "warn"
    """What a grave finding about the run's health does."""
    grader_seconds: float = 20.0
    """A reward that takes longer has failed, which is no score."""
    grader_memory: float = 4.0
    """GB a reward may take."""
    sampler: Literal["engine", "hf", "vllm"] = "engine"
    """What samples: rung's engine on the trainer's own weights, transformers, or vLLM in a process of its own."""
    vllm_python: str = ""
    """The Python that vLLM is installed for; by default .venv-vllm/bin/python, else the running one."""
    vllm_cache_gb: float | None = None
    """Memory for vLLM's keys and values; null is 2 GB on a CPU, and on a GPU most of what there is, as vLLM has it."""
    vllm_seconds: float | None = None
    """How long vLLM may say nothing, its start included, before it counts as hung; null is ten minutes."""
    slots: int = 64
    """Answers sampled at once."""
    staleness: int = 0
    """Rounds that sampling may run ahead of learning, in a thread and on weights of its own."""
    batch_invariant: bool = False
    """Sampler and learner agree to the last bit, whatever is sampled together. Slower."""
    micro_tokens: int = 2048
    """Tokens that go through the model at once in an update; changes memory and speed, never the gradient."""
    share_prompts: bool = True
    """Compute a prompt once for all its answers."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Type of the compute weights; auto is bf16 where the machine multiplies it natively, else fp32."""
    head_float32: bool = False
    """Form the logits of a bf16 or fp16 model in float32."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto takes the first GPU."""
    recompute: bool = False
    """Recompute activations in backward (activation checkpointing): less memory, a third more work."""
    seed: int = 0
    """Order of the tasks and everything random."""
    save_every: int = 0
    """Steps between checkpoints; one always follows the last step."""
    keep: int = 2
    """Checkpoints kept; 0 keeps all."""
    trackers: tuple[Literal["none", "tensorboard", "trackio", "wandb", "mlflow"], ...] = ()
    """Where metrics go besides the run folder."""
    loss: LossParts = field(default_factory=LossParts)
    parts: Parts = field(default_factory=Parts)
    optimizer: Optimizer = field(
        default_factory=lambda: Optimizer(learning_rate=1e-5, schedule="constant", warmup=0)
    )
    lora: Lora = field(default_factory=Lora)


@dataclass(frozen=True)
class Grpo(Rl):
    """Group relative policy optimization: answers to one prompt are each other's baseline."""
