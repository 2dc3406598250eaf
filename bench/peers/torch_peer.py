"""The process that runs the PyTorch side of all cases.

Answers JSON lines on standard input with JSON lines on standard output; bench/peers/pytorch.ts is the other end. It times
itself, so that the way between the processes costs nothing.
"""

import json
import math
import sys
import time

import numpy
import torch
from torch_operations import IMPLEMENTATIONS


def tensor(spec):
    stored = {"f32": "float32", "bf16": "int16", "f16": "float16", "i32": "int32", "u8": "uint8", "f64": "float64"}
    x = torch.from_numpy(numpy.fromfile(spec["path"], stored[spec["dtype"]])).reshape(spec["shape"])
    return x.view(torch.bfloat16) if spec["dtype"] == "bf16" else x


def fingerprint(x):
    """As bench/fingerprint.ts: a thousand values, and the length as a vector."""
    flat = x.detach().reshape(-1).double()
    count = min(1000, flat.numel())
    places = torch.arange(count) * flat.numel() // max(count, 1)
    return {"norm": flat.square().sum().sqrt().item(), "sample": flat[places].tolist()}


def multiply_rate(size, dtype, multiply=torch.matmul, seconds=0.5):
    """GFLOP/s of a product of square matrices, the best of as many as fit into the time."""
    a, b = (torch.randn(size, size).to(dtype) for _ in range(2))
    if multiply is numpy.matmul:
        a, b = a.numpy(), b.numpy()
    multiply(a, b)
    best = math.inf
    until = time.perf_counter() + seconds
    while best == math.inf or time.perf_counter() < until:
        start = time.perf_counter()
        multiply(a, b)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best / 1e9


def loaded_blas():
    """The BLAS of this process: Debian's PyTorch takes whichever is installed, and one is 20 times slower than another."""
    try:
        with open("/proc/self/maps", encoding="utf-8") as maps:
            loaded = maps.read()
    except OSError:
        return ""
    return "OpenBLAS" if "openblas" in loaded else "reference BLAS" if "blas" in loaded else ""


class Peer:
    def __init__(self):
        self.prepared = {}

    def hello(self, request):
        torch.set_num_threads(request["threads"])
        return {
            "version": torch.__version__,
            "numpy": numpy.__version__,
            "threads": torch.get_num_threads(),
            "blas": "MKL" if torch.backends.mkl.is_available() else loaded_blas(),
            "gflops": multiply_rate(512, torch.float32, seconds=0.2),
            "ways": {operation: list(ways) for operation, ways in IMPLEMENTATIONS.items()},
        }

    def multiply(self, request):
        """How fast this machine multiplies, as far as PyTorch and NumPy can tell."""
        return {
            "bf16": multiply_rate(1024, torch.bfloat16),
            "f32": multiply_rate(1024, torch.float32),
            "numpy": multiply_rate(1024, torch.float32, numpy.matmul),
        }

    def prepare(self, request):
        inputs = {name: tensor(spec) for name, spec in request["inputs"].items()}
        make = IMPLEMENTATIONS[request["operation"]][request["way"]]
        self.prepared[request["id"]] = {"run": make(inputs, request["numbers"]), "results": {}}
        return {}

    def run(self, request):
        work = self.prepared[request["id"]]
        work["results"] = {}
        start = time.perf_counter()
        work["results"] = work["run"]()
        return {"seconds": time.perf_counter() - start}

    def results(self, request):
        return {name: fingerprint(x) for name, x in self.prepared[request["id"]]["results"].items()}

    def dispose(self, request):
        del self.prepared[request["id"]]
        return {}


def main():
    peer = Peer()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(peer, request["request"])(request)
        except Exception as error:  # The other end names it as the reason why this peer was skipped.
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        print(json.dumps(answer), flush=True)


main()
