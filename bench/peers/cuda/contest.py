"""One case: everybody is held against float64 at a small size; who is right is then timed at the full one."""

import gc

import torch
from case import error_of, forget_compiled
from library import GrpoError
from memory import TorchArray, torch_output
from timing import interleaved, summary

OURS = "grpo-kernels"
MOST_SETS = 8
# Peers that keep bf16 between the steps are right, too: they round more often.
PEERS_SLACK = 5


class Ours:
    """The library on PyTorch's current stream; outputs are allocated once, and belong to the caller."""

    def __init__(self, library, case, x):
        device = next(iter(x.values())).device
        if case.operation == "prefix_attention_backward":
            shared = {name: x[name] for name in x if name != "grad_out"}
            forward = self.bind(library, "prefix_attention", shared, ["out", "logsumexp"], {}, device)
            forward(torch.cuda.current_stream(device).cuda_stream)
            x = {**x, **{name: array.tensor for name, array in forward.outputs.items()}}
        self.call = self.bind(library, case.operation, x, case.outputs, case.options, device)
        self.device = device

    @staticmethod
    def bind(library, operation, x, outputs, options, device):
        arrays = {name: TorchArray(tensor) for name, tensor in x.items()}
        return library.bind(operation, arrays, outputs, options, torch_output(device))

    def __call__(self):
        self.call(torch.cuda.current_stream(self.device).cuda_stream)

    def results(self, _):
        return {name: array.tensor for name, array in self.call.outputs.items()}


def reason_of(error):
    return (str(error) or type(error).__name__).strip().splitlines()[0][:200]


def held_against_float64(make, case, device, limit):
    """Errors by output, and what is wrong, if anything."""
    x = case.inputs(device, 1)
    run = make(x)
    out = run()
    out = run.results(out) if hasattr(run, "results") else out
    reference = case.reference(x)
    errors = {name: error_of(out[name], reference[name]) for name in reference if name in out}
    wrong = [f"{name} differs from float64 by {error:.2g}" for name, error in errors.items() if not error <= limit]
    return errors, ", ".join(wrong) if errors else "nothing to compare"


def free():
    gc.collect()
    torch.cuda.empty_cache()


def contest(library, case, device, cold, rounds, smoke, rates):
    """The entry of the results; `failed` if ours was wrong or broke, not if the library has no kernel yet."""
    makers = {OURS: lambda x: Ours(library, case, x), **case.peers}
    small = case.check or case
    entry = {"operation": case.operation, "size": case.size, "dtype": case.dtype}
    entry |= {"rows": [], "leftOut": [], "failed": False}
    errors = {}

    def leave_out(name, reason, refused=False):
        entry["leftOut"].append({"name": name, "reason": reason})
        entry["failed"] |= name == OURS and not refused

    for name in list(makers):
        make = {**small.peers, OURS: lambda x: Ours(library, small, x)}[name]
        try:
            limit = small.limit if name == OURS else PEERS_SLACK * small.limit
            errors[name], wrong = held_against_float64(make, small, device, limit)
            if wrong:
                leave_out(name, f"wrong: {wrong} (limit {limit:g})")
        except Exception as error:  # What a peer cannot do is a result, too.
            wrong = reason_of(error)
            leave_out(name, wrong, isinstance(error, GrpoError) and error.refused)
        if wrong:
            del makers[name]
        free()
    if OURS not in makers:  # Nothing to compare the others with.
        forget_compiled()
        return entry
    level2 = torch.cuda.get_device_properties(device).L2_cache_size
    sets = min(MOST_SETS, max(1, -(-2 * level2 // max(case.bytes, 1))))
    inputs = [case.inputs(device, 2 + i) for i in range(2 if smoke else sets)]
    contenders = {}
    for name, make in {**makers, **case.bounds}.items():
        try:
            runs = [make(x) for x in inputs]
            runs[0]()
            torch.cuda.synchronize()
            contenders[name] = runs
        except Exception as error:
            leave_out(name, reason_of(error))
        free()
    seconds = interleaved(contenders, rounds, cold)
    ours = summary(seconds[OURS])["median"] if OURS in seconds else None
    for name, samples in seconds.items():
        row = {"name": name, "bound": name in case.bounds, **summary(samples), "errors": errors.get(name)}
        row["times"] = None if ours is None else row["median"] / ours
        if name == OURS:
            row |= {"gigabytes": case.bytes / 1e9, "gigaflop": case.flop / 1e9}
            row["shareOfCopy"] = case.bytes / row["median"] / 1e9 / rates["copy"]["rate"]
            if case.flop:
                row["shareOfMultiply"] = case.flop / row["median"] / 1e9 / rates["multiply"][case.dtype]["rate"]
        entry["rows"].append(row)
    contenders.clear()
    inputs.clear()
    forget_compiled()
    free()
    return entry
