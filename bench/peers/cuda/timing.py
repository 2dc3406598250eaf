"""Interleaved timing with CUDA events, and how fast this GPU copies and multiplies."""

import torch

WARM_UP = 10


def quantile(samples, share):
    ordered = sorted(samples)
    at = share * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])


def summary(seconds):
    low, middle, high = (quantile(seconds, share) for share in (0.1, 0.5, 0.9))
    return {"median": middle, "p10": low, "p90": high, "samples": len(seconds)}


class Cold:
    """Pushes everything out of L2 by reading: lines that were written would be written back inside the timed call. While
    the GPU reads, the host enqueues the call, so that the way to the first launch is not timed."""

    def __init__(self, device):
        level2 = torch.cuda.get_device_properties(device).L2_cache_size
        self.memory = torch.ones(max(8 * level2, 512 << 20) // 4, device=device)

    def __call__(self):
        self.memory.sum()


def interleaved(contenders, rounds, cold, warm_up=WARM_UP):
    """Seconds of each call. contenders: per name a list of functions, one per input set, taken in turns. Every round runs
    all of them once, each round beginning with the next one."""
    names = list(contenders)
    for name in names:
        for i in range(warm_up):
            contenders[name][i % len(contenders[name])]()
    torch.cuda.synchronize()
    seconds = {name: [] for name in names}
    for turn in range(rounds):
        events = {}
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            run = contenders[name][turn % len(contenders[name])]
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            cold()
            begin.record()
            run()
            end.record()
            events[name] = (begin, end)
        torch.cuda.synchronize()
        for name, (begin, end) in events.items():
            seconds[name].append(begin.elapsed_time(end) / 1e3)
    return seconds


def rates(device, cold, smoke):
    """GB/s of a clone, read and written bytes together; GFLOP/s of square matrix products by dtype, random values."""
    count = (1 << 26) if smoke else (1 << 31)
    size = 2048 if smoke else 8192
    rounds = 5 if smoke else 30
    large = torch.randn(count, device=device, dtype=torch.bfloat16)
    copy = quantile(interleaved({"copy": [large.clone]}, rounds, cold)["copy"], 0.5)
    found = {"copy": {"rate": 2 * large.nbytes / copy / 1e9, "how": f"clone of {large.nbytes / 2**30:g} GiB"}}
    del large
    found["multiply"] = {}
    for name, dtype in (("bf16", torch.bfloat16), ("f32", torch.float32)):
        a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        middle = quantile(interleaved({"product": [lambda: a @ b]}, rounds, cold)["product"], 0.5)
        how = f"torch.matmul, {size} x {size} x {size}, random values"
        found["multiply"][name] = {"rate": 2 * size**3 / middle / 1e9, "how": how}
    return found
