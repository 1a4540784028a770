"""Settings of self-training: what a model is asked, which of its answers it is then trained on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from rung.errors import UserError
from rung.settings import Sft


@dataclass(frozen=True)
class Rft:
    """Rejection-sampling fine-tuning, its data: sample, grade, keep what is right and different.

    Writes demonstrations.jsonl into the run folder, to be trained on with
    `rung sft --data RUN/demonstrations.jsonl`, alone or mixed with others by weight. Every attempt is kept as well.
    """

    env: str = ""
    """What is asked: arithmetic, countdown, reasoning-gym/NAME, gsm8k:PATH, rows:PATH, FILE.py:function, a mixture."""
    reward: str = ""
    """A reward of your own, FILE.py:function, instead of the environment's."""
    model: str = "smollm2-135m"
    """A known name, a Hugging Face id, a local folder, a run folder or a .gguf file."""
    out: str = ""
    """The run folder; by default a new one under runs/."""
    resume: str = ""
    """Continue this run folder, with the settings it was started with."""
    tasks: int = 256
    """Training tasks that are asked, the first so many."""
    samples: int = 8
    """Answers to each task in each stage."""
    temperature: tuple[float, ...] = (1.0,)
    """Of each stage; a later stage asks only the tasks that still have fewer than per_task answers."""
    top_k: int = 0
    """Sample from the k likeliest tokens; 0 from all."""
    top_p: float = 1.0
    """Sample from the smallest set of tokens with this much probability."""
    max_tokens: int = 256
    """Longest turn of the model."""
    select: Literal["correct", "best", "all"] = "correct"
    """Keep what scores at least threshold, the best per_task of each task, or everything that ended."""
    threshold: float = 1.0
    """The score from which an answer is right."""
    part: str = ""
    """Judge by this part of the score instead, such as compiles."""
    per_task: int = 4
    """Most answers kept of one task."""
    same: Literal["equations", "text", "none"] = "equations"
    """What makes two answers to a task the same: their equations (else words), their words, every character."""
    drop_stubs: bool = False
    """Leave out answers of a single line."""
    shortest_share: float = 0.0
    """Leave out this share of what is kept, the shortest."""
    rationalise: bool = False
    """Ask tasks that were never solved once more with the answer as a hint, which the training row does not show."""
    hint: str = ""
    """FILE.py:function from a task to the answer it may be shown, where the task's reference is not a plain answer."""
    prompts: int = 32
    """Tasks sampled before what they gave is written to disk."""
    slots: int = 64
    """Answers sampled at once."""
    grader_seconds: float = 20.0
    """A reward that takes longer has failed, which is no score."""
    grader_memory: float = 4.0
    """GB a reward may take."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Of weights and arithmetic; auto is bf16 where the machine multiplies it natively, else fp32."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto takes the first GPU."""
    seed: int = 0
    """Everything random."""

    def __post_init__(self) -> None:
        few = [n for n in ("tasks", "samples", "per_task", "prompts", "slots") if getattr(self, n) < 1]
        if few:
            raise UserError(f"--{few[0].replace('_', '-')} is {getattr(self, few[0])}; write at least 1.")
        if not self.temperature or min(self.temperature) < 0:
            raise UserError(
                f"--temperature is {self.temperature}; write one or more numbers from 0, for example 0.7 1.0."
            )
        if min(self.temperature) == 0 and self.samples > 1:
            raise UserError(
                f"--temperature 0 gives the same answer {self.samples} times. Write --samples 1 or a higher one."
            )
        if not 0 <= self.shortest_share < 1:
            raise UserError(f"--shortest-share is {self.shortest_share}; write a share from 0 to below 1.")
        if self.hint and not self.rationalise:
            raise UserError("--hint says what a hint shows, but none is given without --rationalise. Add it.")
        if self.rationalise and self.select != "correct":
            raise UserError(
                f"--rationalise needs a verifier's word on what a hint led to, and --select {self.select} does not "
                "ask for it. Write --select correct."
            )


@dataclass(frozen=True)
class Ssd(Rft):
    """Simple self-distillation, its data: sample hot from a truncated distribution and keep it, right or wrong.

    One answer to each task, no verifier (2604.01193); only stubs and the shortest tenth go. Train on it with
    `rung sft` and decode with a temperature tuned for it.
    """

    samples: int = 1
    """Answers to each task in each stage."""
    temperature: tuple[float, ...] = (1.5,)
    """Of each stage; a later stage asks only the tasks that still have fewer than per_task answers."""
    top_k: int = 20
    """Sample from the k likeliest tokens; 0 from all."""
    top_p: float = 0.8
    """Sample from the smallest set of tokens with this much probability."""
    select: Literal["correct", "best", "all"] = "all"
    """Keep what scores at least threshold, the best per_task of each task, or everything that ended."""
    per_task: int = 1
    """Most answers kept of one task."""
    same: Literal["equations", "text", "none"] = "none"
    """What makes two answers to a task the same: their equations (else words), their words, every character."""
    drop_stubs: bool = True
    """Leave out answers of a single line."""
    shortest_share: float = 0.1
    """Leave out this share of what is kept, the shortest."""


@dataclass(frozen=True)
class SelfTrain:
    """Iterated rejection-sampling fine-tuning: sample, keep what is right, train, and again, under a collapse guard.

    Every generation is trained on the answers of the one before it, with a share of rows that people wrote. It ends
    after `generations`, or earlier, with the reason, where the guard speaks.
    """

    model: str = "smollm2-135m"
    """A known name, a Hugging Face id, a local folder, a run folder or a .gguf file."""
    out: str = ""
    """The folder of all generations; by default a new one under runs/."""
    resume: str = ""
    """Continue this folder, with the settings it was started with."""
    generations: int = 3
    """Times of training."""
    start: Literal["first", "last"] = "first"
    """What is trained in each generation: the first model again (as in STaR), or the last generation's."""
    human: tuple[str, ...] = ()
    """Files of rows that people wrote; no row is used in two generations."""
    human_share: float = 0.0
    """Share of each generation's training rows that is theirs; a tenth holds collapse up, none does not."""
    most_lost: float = 0.2
    """The guard: the largest loss of different word pairs in the answers since the first model, as a share."""
    level: float = 0.01
    """The guard's level: a loss, or a fall of the score, must be less likely than this to be chance."""
    rft: Rft = field(default_factory=Rft)
    sft: Sft = field(default_factory=Sft)

    def __post_init__(self) -> None:
        if self.generations < 1:
            raise UserError(f"--generations is {self.generations}; write at least 1.")
        if not 0 <= self.human_share < 1:
            raise UserError(f"--human-share is {self.human_share}; write a share from 0 to below 1.")
        if bool(self.human) != bool(self.human_share):
            raise UserError(
                "--human FILE and --human-share SHARE belong together; give both, or none of them."
            )
        if not (0 < self.level < 1 and 0 <= self.most_lost <= 1):
            raise UserError("--level is a probability above 0 and below 1, --most-lost a share from 0 to 1.")
        own = {"rft": ("model", "out", "resume"), "sft": ("model", "out", "resume", "data")}
        for name, keys in own.items():
            part, default = getattr(self, name), Rft() if name == "rft" else Sft()
            for key in keys:
                if getattr(part, key) != getattr(default, key):
                    raise UserError(f"--{name}.{key} is set by each generation; leave it out.")
