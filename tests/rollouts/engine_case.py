"""What the tests of samplers share: prompts of many shapes, transformers' greedy answers, trainer's scores."""

import numpy as np
import torch
from decoder_case import opened, reference, tokens

from rung.batch import Example, collate
from rung.models.policy import score

LENGTHS = (1, 9, 30, 4, 17, 9, 2)


def prompts() -> list[list[int]]:
    return [tokens(length, 10 + seed).tolist() for seed, length in enumerate(LENGTHS)]


def many_prompts(count: int = 64) -> list[list[int]]:
    """Ragged, in groups that begin alike; some are beginnings of others, some are equal."""
    trunks = [tokens(length, 50 + length).tolist() for length in (3, 12, 25)]
    generator = torch.Generator().manual_seed(9)
    found = []
    for index in range(count):
        own = int(torch.randint(0, 14, (1,), generator=generator))
        found.append(trunks[index % 3] + tokens(own, index // 2).tolist())
    return found


def tiny(folder, case="llama", dtype=torch.float32):
    return opened(reference(case), folder).to(dtype)


def greedy_by_transformers(theirs, prompt, stop_ids=None, count=16):
    ids = torch.tensor([prompt])
    # A list that is empty would mean the config's own stop ids; the id behind the last is no token.
    out = theirs.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False,
        eos_token_id=list(stop_ids or [10**6]), pad_token_id=0,
    )  # fmt: skip
    return out[0, len(prompt) :].tolist()


def cut(answer, stop_ids):
    ends = [time for time, token in enumerate(answer) if token in stop_ids]
    return answer[: ends[0] + 1] if ends else answer


def texts(answers) -> list[list[int]]:
    """The tokens of the first answer to each prompt."""
    return [group[0].token_ids for group in answers]


def trained_example(completion) -> Example:
    """The completion as the document a trainer would make of it."""
    ids = np.array([*completion.prompt_ids, *completion.token_ids], np.int32)
    return Example(ids, np.arange(len(ids)) >= len(completion.prompt_ids), "row")


@torch.no_grad()
def scored(model, completions, groups=None, **options) -> list[list[float]]:
    """The trainer's log-probs of each completion's tokens, all in one batch."""
    out = score(model, collate([trained_example(c) for c in completions], groups), **options)
    sizes = [len(c.token_ids) for c in completions]
    return [part.tolist() for part in out.logprob_M.split(sizes)]


def count_tokens(model, monkeypatch) -> list[int]:
    """How many tokens each forward of the model computes, from now on."""
    seen: list[int] = []
    real = model.forward
    monkeypatch.setattr(model, "forward", lambda ids, *rest: (seen.append(len(ids)), real(ids, *rest))[1])
    return seen
