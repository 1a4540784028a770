"""Settings of distillation: on data, and on what the student writes itself. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from rung.schema import method_settings
from rung.settings import Supervised
from rung.settings_rl import Rl

Method = method_settings("rung.methods.distill", "distill")


@dataclass(frozen=True)
class Distill(Supervised):
    """Distillation on data: say of each next token of the rows what the teacher says of it."""

    teacher: str = ""
    """A model with the student's tokenizer: a name, a folder, or the http address of a server that gives log-probs."""
    teacher_name: str = ""
    """The teacher's name on its server, where the server has several."""
    divergence: Literal["forward_kl", "reverse_kl", "jensen_shannon"] = "forward_kl"
    """What is made small: forward_kl covers all the teacher may say, reverse_kl keeps to what it would say."""
    beta: float = 0.5
    """Of jensen_shannon (GKD): near 0 it is forward KL, near 1 reverse KL."""
    temperature: float = 1.0
    """Divides both models' logits before they are compared."""
    top_k: int = 0
    """Keep the teacher's k likeliest tokens and the mass of the rest on disk, and train without it; 0 asks it live."""
    teacher_process: bool = False
    """Score with the teacher in a process of its own, whose memory goes when it is done; needs top-k."""
    method: Method = field(default_factory=Method)  # type: ignore[valid-type]


@dataclass(frozen=True)
class DistillOnPolicy(Rl):
    """On-policy distillation: the student writes, the teacher says of each token how likely it would have been."""

    teacher: str = ""
    """A model with the student's tokenizer: a name, a folder, or the http address of a server that gives log-probs."""
    teacher_name: str = ""
    """The teacher's name on its server, where the server has several."""
    method: Literal["reverse_kl", "teacher_score", "gkd"] = "reverse_kl"  # type: ignore[assignment]
    """reverse_kl credits each token with log teacher - log student; teacher_score is REINFORCE on its log-prob of all;
    gkd compares the two whole distributions at each place."""
    divergence: Literal["forward_kl", "reverse_kl", "jensen_shannon"] = "reverse_kl"
    """Of gkd: what is made small."""
    beta: float = 0.5
    """Of gkd's jensen_shannon: near 0 it is forward KL, near 1 reverse KL."""
