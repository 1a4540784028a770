"""lm-eval's `local-completions` against the server says what its `hf` model says of the same folder."""

from pathlib import Path

import pytest
from server_case import NAME, peaked, serving

lm_eval = pytest.importorskip("lm_eval", reason="pip install 'lm-eval[api]' to compare with it")

TASKS = ["rung_choices", "rung_endings"]


@pytest.mark.slow
def test_lm_eval_says_the_same_through_the_server_and_through_transformers(
    tiny_folder, tmp_path, monkeypatch
):
    from lm_eval.tasks import TaskManager

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = peaked(tiny_folder, tmp_path / "model")
    tasks = TaskManager(include_path=str(Path(__file__).parent / "lm_eval_task"), include_defaults=False)
    common = dict(tasks=TASKS, task_manager=tasks, bootstrap_iters=0, log_samples=True)
    with serving(folder) as (url, _, _):
        arguments = (
            f"model={NAME},base_url={url}/v1/completions,tokenizer={folder},tokenizer_backend=huggingface"
        )
        arguments += ",max_length=256,num_concurrent=4"
        ours = lm_eval.simple_evaluate("local-completions", model_args=arguments, batch_size=3, **common)
    theirs = lm_eval.simple_evaluate(
        "hf",
        model_args=f"pretrained={folder},dtype=float32,max_length=256",
        device="cpu",
        batch_size=1,
        **common,
    )
    for task in TASKS:
        for a, b in zip(ours["samples"][task], theirs["samples"][task], strict=True):
            assert a["doc"] == b["doc"]
            for x, y in zip(a["resps"], b["resps"], strict=True):
                if task == "rung_endings":
                    assert x == y and x[0]
                else:
                    assert float(x[0][0]) == pytest.approx(float(y[0][0]), abs=1e-3)
                    assert x[0][1] == y[0][1], "is it what greedy sampling would say"
    print({task: {k: v for k, v in ours["results"][task].items() if "," in k} for task in TASKS})
