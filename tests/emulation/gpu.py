"""A GPU that is not there: tensors say they lie on cuda:0 and compute on the CPU, and what a GPU refuses they refuse.

It shows that the code for GPUs keeps its tensors on one device and that a recorded decoding step asks nothing of the
processor. It shows nothing about kernels, speed or memory: flash attention is replaced by its definition, and Triton's
kernels by PyTorch's operators. Import it before torch.

    python gpu.py DEVICE.so FILE      FILE holds one JSON list a line, each the words of a rung command
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import sys
import threading
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

assert "torch" not in sys.modules, "the device has to be there when torch looks for it"
specification = importlib.util.find_spec("torch")
assert specification is not None and specification.origin is not None
for library in ("libc10.so", "libtorch_cpu.so"):
    ctypes.CDLL(str(Path(specification.origin).parent / "lib" / library), mode=ctypes.RTLD_GLOBAL)
ctypes.CDLL(sys.argv[1])

import safetensors.torch  # noqa: E402
import torch  # noqa: E402
import torch.nn.attention.varlen as varlen  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing  # noqa: E402
from torch.utils._pytree import tree_leaves, tree_map  # noqa: E402

INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
COPYING = {"aten::copy_", "aten::_to_copy"}
ASKING = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::repeat_interleave"}
recording = threading.local()  # `.on` in the thread that records a CUDA graph: others may do what they like


class Refused(RuntimeError):
    """What CUDA would not have done."""


class OnGPU(torch.Tensor):
    """A tensor on cuda:0; `held` has its numbers."""

    held: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held):
        layout = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
        out = torch.Tensor._make_wrapper_subclass(cls, held.size(), **layout, device="cuda:0")
        out.held = held
        return out

    @classmethod
    def __torch_dispatch__(cls, operator, types, args=(), kwargs=None):
        return run(operator, args, kwargs or {})

    def __tensor_flatten__(self):
        """With this `nn.Module.to` puts the new tensor in the old one's place, instead of its numbers."""
        return ["held"], None

    @staticmethod
    def __tensor_unflatten__(parts, _, size, strides):
        return OnGPU(parts["held"])

    def tolist(self):
        return self.held.tolist()

    def data_ptr(self):
        return self.held.data_ptr()

    def numpy(self):
        raise Refused("A CUDA tensor cannot be read as a NumPy array; write .cpu() first.")

    def __deepcopy__(self, memo):
        copied = OnGPU(self.detach().held.clone())
        if isinstance(self, torch.nn.Parameter):
            copied = torch.nn.Parameter(copied, self.requires_grad)
        return memo.setdefault(id(self), copied)


class GPU(TorchDispatchMode):
    """Inside it `device="cuda"` makes tensors. It holds for one thread."""

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        return run(operator, args, kwargs or {})


def run(operator, args, kwargs):
    """One operator, on the CPU, if CUDA would have taken it."""
    name, asked = operator._schema.name, kwargs.get("device")
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    on_gpu = any(isinstance(x, OnGPU) for x in tensors)
    result_on_gpu = on_gpu if asked is None else torch.device(asked).type == "cuda"
    if name == "aten::copy_":
        result_on_gpu = isinstance(args[0], OnGPU)
    if on_gpu:
        check_devices(operator, name, args, tensors)
    if getattr(recording, "on", False):
        check_recording(name, args, tensors, result_on_gpu)
    plain_args, plain_kwargs = tree_map(lowered, (args, kwargs))
    if operator._overloadname == "dtype" and name in (
        "aten::mm",
        "aten::addmm",
    ):  # a CPU has no wider products
        *operands, dtype = plain_args
        assert dtype == torch.float32 and operands[-1].dtype in (torch.bfloat16, torch.float16)
        out = getattr(torch, name[6:])(*(x.float() for x in operands), **plain_kwargs)
    else:
        out = operator(*plain_args, **plain_kwargs)
    if name == "aten::copy_" and not result_on_gpu:
        return args[0]
    if name == "aten::_local_scalar_dense" or not result_on_gpu:
        return out
    out = tree_map(lambda x: OnGPU(x) if isinstance(x, torch.Tensor) else x, out)
    return return_and_correct_aliasing(operator, args, kwargs, out)


def lowered(x):
    if isinstance(x, OnGPU):
        return x.held
    return torch.device("cpu") if isinstance(x, torch.device) and x.type == "cuda" else x


def check_devices(operator, name, args, tensors):
    """A single number may come from the processor, and so may the indices into a tensor."""
    others = [x for x in tensors if not isinstance(x, OnGPU) and x.ndim]
    if name in INDEXING and isinstance(args[0], OnGPU):
        others = [x for x in args[2:3] if isinstance(x, torch.Tensor) and not isinstance(x, OnGPU) and x.ndim]
    if others and name not in COPYING:
        raise Refused(f"{operator} of {[(tuple(x.shape), str(x.device)) for x in tensors]}")


def check_recording(name, args, tensors, result_on_gpu):
    source = args[1] if name == "aten::copy_" else args[0] if args else None
    if name in ASKING and any(isinstance(x, OnGPU) for x in tensors):
        raise Refused(f"{name} waits for the GPU, which cannot be recorded.")
    if name in COPYING and isinstance(source, OnGPU) != result_on_gpu:
        raise Refused(f"{name} of {tuple(source.shape)} between devices cannot be recorded.")
    if name in INDEXING and isinstance(args[0], OnGPU):
        for index in tree_leaves(args[1]):
            if isinstance(index, torch.Tensor) and (
                not isinstance(index, OnGPU) or index.dtype == torch.bool
            ):
                raise Refused(f"{name} by {index.dtype} on {index.device} cannot be recorded.")


def record(body):
    """What `torch.cuda.graph` does, but for recording: run it to set up, run it under the rules."""
    body()
    recording.on = True
    try:
        body()
    finally:
        recording.on = False
    return body


def flash_attention(
    q_NHd, k_NKd, v_NKd, ends_q, ends_k, longest_q, longest_k, *, scale, window_size, enable_gqa
):
    """What `varlen_attn` documents: a document's last query sees its last key."""
    assert q_NHd.is_cuda and q_NHd.dtype in (torch.bfloat16, torch.float16)
    assert ends_q.dtype == ends_k.dtype == torch.int32 and ends_q.is_cuda and ends_k.is_cuda
    assert enable_gqa == (q_NHd.shape[1] != k_NKd.shape[1]) and window_size[1] == 0
    sizes = [[*pairwise(ends)] for ends in (ends_q.tolist(), ends_k.tolist())]
    assert [max(to - start for start, to in size) for size in sizes] == [longest_q, longest_k]
    parts = []
    for queries, keys in zip(*sizes, strict=True):
        q_HSd = q_NHd[slice(*queries)].transpose(0, 1).float()
        k_HTd, v_HTd = (
            x[slice(*keys)].transpose(0, 1).float().repeat_interleave(len(q_HSd) // x.shape[1], 0)
            for x in (k_NKd, v_NKd)
        )
        seen, own = k_HTd.shape[1], q_HSd.shape[1]
        age_ST = torch.arange(seen - own, seen)[:, None] - torch.arange(seen)
        hidden_ST = (age_ST < 0) | (age_ST > window_size[0] if window_size[0] >= 0 else torch.tensor(False))
        scores_HST = (scale * q_HSd @ k_HTd.transpose(1, 2)).masked_fill(
            hidden_ST.to(q_HSd.device), -torch.inf
        )
        parts.append((scores_HST.softmax(-1) @ v_HTd).transpose(0, 1).to(q_NHd.dtype))
    return torch.cat(parts)


def install():
    """Make torch, and what saves its tensors, believe in the device."""
    cuda, tensor, as_tensor = torch.cuda, torch.tensor, torch.as_tensor
    save, save_file, run_thread = torch.save, safetensors.torch.save_file, threading.Thread.run

    def wanted(device):
        return device is not None and torch.device(device).type == "cuda"

    def new_tensor(data, *, device=None, **options):
        made = tensor(data, **options) if wanted(device) else tensor(data, device=device, **options)
        return made.to(device) if wanted(device) else made

    def run_in_mode(thread):
        with GPU():
            run_thread(thread)

    torch.tensor = new_tensor
    torch.as_tensor = lambda data, dtype=None, device=None: (
        as_tensor(data, dtype=dtype).to(device)
        if wanted(device)
        else as_tensor(data, dtype=dtype, device=device)
    )
    torch.save = lambda value, file: save(tree_map(lowered_detached, value), file)
    safetensors.torch.save_file = lambda tensors, file, **options: save_file(
        {name: lowered_detached(x) for name, x in tensors.items()}, file, **options
    )
    threading.Thread.run = run_in_mode
    varlen.varlen_attn = flash_attention
    cuda._lazy_init = cuda.synchronize = cuda.empty_cache = lambda *_: None
    cuda.manual_seed_all = cuda.reset_peak_memory_stats = lambda *_: None
    cuda.is_available, cuda.device_count, cuda.current_device = lambda: True, lambda: 1, lambda: 0
    cuda.get_device_capability, cuda.get_device_name = lambda *_: (9, 0), lambda *_: "not there"
    cuda.get_device_properties = lambda *_: SimpleNamespace(name="not there", total_memory=80 * 10**9)
    cuda.max_memory_allocated, cuda.mem_get_info = lambda *_: 10**9, lambda *_: (70 * 10**9, 80 * 10**9)
    import rung.machine
    import rung.rollouts.graphs

    rung.machine.CUDA_SIZES = rung.machine.CPU_SIZES  # the peak is measured on the CPU
    rung.rollouts.graphs.recorder = lambda: record


def lowered_detached(x):
    return x.detach().held if isinstance(x, OnGPU) else x


if __name__ == "__main__":
    install()
    from rung.cli import status

    with GPU():
        for line in Path(sys.argv[2]).read_text().splitlines():
            if code := status(json.loads(line)):
                sys.exit(code)
