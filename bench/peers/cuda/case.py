"""One shape of one operation: what is timed, what it is held against, and who takes part."""

from dataclasses import dataclass, field
from typing import Callable

import torch

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


@dataclass
class Case:
    operation: str
    """Of the C interface; arrays, outputs and options have the names of its descriptor."""
    size: str
    dtype: str
    inputs: Callable
    """(device, seed) -> the library's input tensors by name."""
    outputs: list
    options: dict
    reference: Callable
    """(inputs) -> outputs in float64."""
    peers: dict
    """Label -> (inputs) -> a function that does it once and returns outputs, as far as it has them, by name."""
    limit: float
    """Of the relative error of an output; of the share of different values where the outputs are integers."""
    bounds: dict = field(default_factory=dict)
    """As peers, but not the operation: the least that must be done. Not compared."""
    bytes: int = 0
    """Every input read once and every output written once."""
    flop: int = 0
    """Of matrix products."""
    check: "Case | None" = None
    """The same at a size that float64 can do; None: this one."""


def generator(device, seed):
    return torch.Generator(device).manual_seed(seed)


def even(count, length, device):
    """Offsets of `count` ranges of the same length."""
    return torch.arange(0, count * length + 1, length, dtype=torch.int32, device=device)


def lengths_of(start):
    return (start[1:] - start[:-1]).long()


def leaf(x):
    return x.detach().requires_grad_()


def error_of(out, reference):
    """‖out - reference‖ / ‖reference‖, NaN where either is; of integers the share that differs."""
    if not reference.dtype.is_floating_point:
        return (out != reference).double().mean().item()
    reference = reference.double()
    scale = torch.linalg.vector_norm(reference)
    return (torch.linalg.vector_norm(out.double() - reference) / torch.where(scale > 0, scale, 1.0)).item()


_compiled = {}


def compiled(function):
    """One compilation per function, however many input sets; CUDA graphs would copy the inputs, and are off."""
    if function not in _compiled:
        _compiled[function] = torch.compile(function, dynamic=False, mode="max-autotune-no-cudagraphs")
    return _compiled[function]


def forget_compiled():
    _compiled.clear()
    torch._dynamo.reset()
