"""The one place that decides on which device and in which precision torch computes; its memory."""

from __future__ import annotations

import ctypes
import os
import platform
from contextlib import nullcontext
from functools import cache
from typing import TYPE_CHECKING, Literal

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.parameter_group import ParameterGroup

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import torch


KEPT_PIECE = 1 << 30  # bytes of a tensor, up to which its memory is kept when it is freed
MALLOC_SETTINGS = {-3: KEPT_PIECE, -1: KEPT_PIECE, -2: 1 << 26}
"""glibc's M_MMAP_THRESHOLD, M_TRIM_THRESHOLD and M_TOP_PAD, in bytes."""


class ComputeParams(ParameterGroup):
    """Where and how precisely to compute."""

    device: Literal["auto", "cpu", "cuda", "mps"]
    precision: Literal["auto", "fp32", "bf16"]


def host_memory() -> int:
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def memory_of(device: torch.device) -> int:
    """Bytes of the memory that ``device`` has: of CUDA its own, else ``host_memory``."""
    import torch

    return torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else host_memory()


def out_of_memory(error: Exception) -> bool:
    """Whether ``error`` says that there is too little memory, on whichever device."""
    import torch

    told = ("out of memory", "can't allocate memory")  # of Apple's GPU and of the CPU
    kinds = (torch.OutOfMemoryError, MemoryError)
    return isinstance(error, kinds) or any(words in str(error) for words in told)


def resolve_device(compute: ComputeParams) -> torch.device:
    """The device to use; ``auto`` takes CUDA, then Apple's GPU, then the CPU.

    From then on convolutions on CUDA give the same results in every run, and on the CPU the process
    keeps memory that it has freed, where that can be had (``keep_freed_memory``).

    Raises:
        InputError: The asked device is not there.
    """
    import torch

    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    name: str = compute.device
    if name == "auto":
        name = next(name for name, there in available.items() if there)
    if not available[name]:
        raise InputError(
            f"compute.device is '{name}', but torch {torch.__version__} finds no such "
            "device here; set compute.device to 'auto' or 'cpu'"
        )
    if name == "cuda":
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    if name == "cpu":
        keep_freed_memory()
    return torch.device(name)


@cache
def keep_freed_memory() -> bool:
    """Let the process keep memory that it frees, for what it needs next; whether that can be had.

    glibc gives large pieces back at once. So each step of a training would get the same memory
    anew, and the system would clear it page by page, which takes a sixth of a step with large
    batches. Other libraries are left as they are.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all([mallopt(*setting) == 1 for setting in MALLOC_SETTINGS.items()])


def has_fast_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 natively (elsewhere it is slower than float32)."""
    import torch

    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        flags = torch.cpu.get_capabilities()
        return bool(flags.get("avx512_bf16") or flags.get("amx_bf16") or flags.get("arm_bf16"))
    return False


def autocast(compute: ComputeParams, device: torch.device) -> AbstractContextManager:
    """The context to run forward passes in; weights stay float32."""
    import torch

    if in_bf16(compute, device):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def in_bf16(compute: ComputeParams, device: torch.device) -> bool:
    """Whether to multiply in bfloat16: if asked to, or by ``auto``, where that is fast."""
    return compute.precision == "bf16" or (compute.precision == "auto" and has_fast_bf16(device))
