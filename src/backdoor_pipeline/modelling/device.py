"""The one place that decides on which device and in which precision torch computes; its memory."""

from __future__ import annotations

import os
from contextlib import nullcontext
from typing import TYPE_CHECKING, Literal

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.parameter_group import ParameterGroup

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import torch


class ComputeParams(ParameterGroup):
    """Where and how precisely to compute."""

    device: Literal["auto", "cpu", "cuda", "mps"]
    precision: Literal["auto", "fp32", "bf16"]


def host_memory() -> int:
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def resolve_device(compute: ComputeParams) -> torch.device:
    """The device to use; ``auto`` takes CUDA, then Apple's GPU, then the CPU.

    Raises:
        InputError: The asked device is not there.
    """
    import torch

    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if compute.device == "auto":
        return torch.device(next(name for name, there in available.items() if there))
    if not available[compute.device]:
        raise InputError(
            f"compute.device is '{compute.device}', but torch {torch.__version__} finds no such "
            "device here; set compute.device to 'auto' or 'cpu'"
        )
    return torch.device(compute.device)


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

    if compute.precision == "bf16" or (compute.precision == "auto" and has_fast_bf16(device)):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()
