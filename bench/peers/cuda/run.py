"""The Python side of bench/cuda.mjs: one process, PyTorch and the library on the same tensors and the same stream.

    python3 run.py --library FILE --out FILE [--smoke] [--only OPERATION] [--simulate]

Writes JSON to --out and progress to standard error. Exit status 1: no GPU, a wrong result of ours, or no number of ours.
"""

import argparse
import ctypes
import json
import subprocess
import sys

from library import GrpoError, Library


def say(text):
    print(text, file=sys.stderr, flush=True)


def driver():
    """The driver's version, and the CUDA version that it brings."""
    ask = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        version = subprocess.run(ask, capture_output=True, text=True, check=True).stdout.splitlines()[0].strip()
    except (OSError, subprocess.CalledProcessError, IndexError):
        version = "unknown"
    number = ctypes.c_int()
    try:
        ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(number))
    except OSError:
        pass
    return version, f"{number.value // 1000}.{number.value % 1000 // 10}"


def describe(device):
    import torch

    try:
        from triton import __version__ as triton
    except ImportError:
        triton = None
    about = torch.cuda.get_device_properties(device)
    version, cuda = driver()
    return {
        "name": about.name,
        "computeCapability": f"{about.major}.{about.minor}",
        "multiprocessors": about.multi_processor_count,
        "memory": about.total_memory,
        "l2": about.L2_cache_size,
        "driver": version,
        "cudaOfDriver": cuda,
        "cudaOfTorch": torch.version.cuda,
        "torch": torch.__version__,
        "triton": triton,
        "python": sys.version.split()[0],
    }


def measure(library, options):
    import torch

    if not torch.cuda.is_available():
        return {"reason": "PyTorch finds no GPU"}
    count, reason = library.device_count()
    if count == 0:
        return {"reason": f"the library finds no GPU: {reason}"}
    import attention
    import losses
    import rows
    from contest import contest
    from timing import Cold, rates

    device = torch.device("cuda", 0)
    rounds = options.rounds or (5 if options.smoke else 30)
    cases = [case for family in (rows, losses, attention) for case in family.cases(options.smoke)]
    cases = [case for case in cases if options.only in (None, case.operation)]
    # A stream of its own: the legacy default one waits for others, which would be timed, too.
    with torch.cuda.stream(torch.cuda.Stream(device)):
        cold = Cold(device)
        before = rates(device, cold, options.smoke)
        results = {"gpu": describe(device), "rounds": rounds, **before, "cases": []}
        for i, case in enumerate(cases):
            say(f"[{i + 1}/{len(cases)}] {case.operation}: {case.size}, {case.dtype}")
            try:
                entry = contest(library, case, device, cold, rounds, options.smoke, before)
            except Exception as error:  # Out of memory for the inputs, say: the other cases go on.
                reason = (str(error) or type(error).__name__).strip().splitlines()[0]
                entry = {"operation": case.operation, "size": case.size, "dtype": case.dtype, "rows": []}
                entry |= {"leftOut": [{"name": "the case", "reason": reason}], "failed": True}
                torch.cuda.empty_cache()
            results["cases"].append(entry)
        results["after"] = rates(device, cold, options.smoke)  # The GPU's clock may have fallen meanwhile.
    return results


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--library", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--only")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--simulate", action="store_true")
    options = parser.parse_args()
    try:
        library = Library(options.library)
        if options.simulate:
            from simulate import simulate

            results = {"simulated": simulate(library)}
            passed = all(check["right"] for check in results["simulated"])
        else:
            results = measure(library, options)
            entries = results.get("cases", [])
            ours = any(row["name"] == "grpo-kernels" for entry in entries for row in entry["rows"])
            passed = ours and not any(entry["failed"] for entry in entries)
    except (OSError, GrpoError, ImportError) as error:
        results, passed = {"reason": str(error)}, False
    with open(options.out, "w", encoding="utf-8") as out:
        json.dump(results, out, indent=1)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
