"""Where and how precisely to compute."""

from __future__ import annotations

import subprocess
import sys

import pytest

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.device import (
    ComputeParams,
    autocast,
    has_fast_bf16,
    host_memory,
    memory_of,
    out_of_memory,
    resolve_device,
)


def params(device: str = "auto", precision: str = "auto") -> ComputeParams:
    return ComputeParams(device=device, precision=precision)


@pytest.fixture
def available(monkeypatch):
    """Sets which accelerators torch claims to find."""
    import torch

    def claim(*names: str) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in names)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in names)

    return claim


@pytest.mark.parametrize(
    ("names", "expected"), [((), "cpu"), (("mps",), "mps"), (("mps", "cuda"), "cuda")]
)
def test_auto_takes_the_best_device(available, names, expected) -> None:
    available(*names)
    assert resolve_device(params()).type == expected


def test_an_asked_device_is_taken(available) -> None:
    available("cuda")
    assert resolve_device(params("cpu")).type == "cpu"


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_device_that_is_not_there_is_an_error(available, device) -> None:
    available()
    with pytest.raises(InputError, match=rf"compute\.device is '{device}'.*set compute\.device to"):
        resolve_device(params(device))


@pytest.mark.parametrize("device", ["auto", "cuda", "cpu"])
def test_convolutions_on_cuda_are_the_same_in_every_run(available, monkeypatch, device) -> None:
    import torch

    available("cuda")
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    resolve_device(params(device))
    assert torch.backends.cudnn.deterministic is (device != "cpu")
    assert torch.backends.cudnn.benchmark is (device == "cpu")


def test_a_cuda_device_has_memory_of_its_own(monkeypatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: {"cuda:1": (3, 7)}[str(device)])
    assert memory_of(torch.device("cuda", 1)) == 7
    assert memory_of(torch.device("cpu")) == memory_of(torch.device("mps")) == host_memory() > 1e8


def test_too_little_memory_is_told_from_other_errors() -> None:
    import torch

    with pytest.raises(RuntimeError) as error:
        torch.empty(2**60, dtype=torch.uint8)
    assert out_of_memory(error.value)
    told = "MPS backend out of memory (MPS allocated: 1.2 GB)"
    for other in (torch.OutOfMemoryError("CUDA"), MemoryError(), RuntimeError(told)):
        assert out_of_memory(other)
    assert not out_of_memory(RuntimeError("vmap: cannot be vectorised"))


@pytest.mark.parametrize(
    ("flags", "expected"), [({}, False), ({"amx_bf16": True}, True), ({"avx512_bf16": True}, True)]
)
def test_fast_bf16_is_what_the_cpu_says(monkeypatch, flags, expected) -> None:
    import torch

    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags)
    assert has_fast_bf16(torch.device("cpu")) is expected
    assert not has_fast_bf16(torch.device("mps"))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_autocast_follows_the_parameter(precision) -> None:
    import torch

    layer, device = torch.nn.Linear(4, 4), torch.device("cpu")
    with autocast(params("cpu", precision), device):
        output = layer(torch.ones(1, 4))
    assert output.dtype == (torch.bfloat16 if precision == "bf16" else torch.float32)
    assert layer.weight.dtype == torch.float32


FAULTS = """
import resource, sys, torch
from backdoor_pipeline.modelling.device import ComputeParams, keep_freed_memory, resolve_device

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(8_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = faults()
resolve_device(ComputeParams(device="cpu", precision="fp32"))
faults()
print(keep_freed_memory(), before, faults())
"""


def test_the_process_keeps_memory_that_it_has_freed() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True
    )
    kept, before, after = done.stdout.split()
    if kept == "False":
        pytest.skip("not the GNU C library")
    assert int(after) < int(before) / 10
