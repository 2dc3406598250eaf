"""The ctypes layer without a GPU: two operations on the interpreter of test/simt/, held against float64. No timing."""

import numpy
from library import GrpoError
from memory import LibraryArray, library_output

LIMIT = 1e-5  # of the relative error; float32's rounding is 6e-8


def relative_error(out, reference):
    return float(numpy.linalg.norm(out.astype(numpy.float64) - reference) / numpy.linalg.norm(reference))


def offsets(lengths):
    return numpy.concatenate(([0], numpy.cumsum(lengths))).astype(numpy.int32)


def group_advantage(random):
    lengths = random.integers(2, 20, 40)
    start = offsets(lengths)
    rewards = random.normal(size=start[-1]).astype(numpy.float32)
    groups = [rewards[a:b].astype(numpy.float64) for a, b in zip(start, start[1:])]
    options = {"scale": "group_std", "ddof": 0, "eps": 1e-3}
    advantage = [(x - x.mean()) / (x.std() + options["eps"]) for x in groups]
    expected = {
        "advantage": numpy.concatenate(advantage),
        "mean": numpy.array([group.mean() for group in groups]),
        "std": numpy.array([group.std() for group in groups]),
    }
    return {"rewards": ("f32", rewards), "group_start": ("i32", start)}, options, expected


def policy_loss(random):
    """Its options lie in another struct, the objective."""
    start = offsets(random.integers(1, 30, 12))
    count = start[-1]
    logp, old, ref = (-random.exponential(size=count).astype(numpy.float32) for _ in range(3))
    advantage = random.normal(size=len(start) - 1).astype(numpy.float32)
    mask = (random.random(count) < 0.7).astype(numpy.uint8)
    low, high, coefficient = 0.1, 0.3, 0.04
    wide = [x.astype(numpy.float64) for x in (logp, old, ref)]
    weight = numpy.repeat(advantage.astype(numpy.float64), numpy.diff(start))
    ratio, distance = numpy.exp(wide[0] - wide[1]), wide[2] - wide[0]
    inside = ratio * weight <= numpy.clip(ratio, 1 - low, 1 + high) * weight
    token = -numpy.minimum(ratio * weight, numpy.clip(ratio, 1 - low, 1 + high) * weight)
    token += coefficient * (numpy.exp(distance) - distance - 1)
    gradient = -(inside * ratio * weight) + coefficient * (1 - numpy.exp(distance))
    expected = {"loss": numpy.array([(mask * token).sum() / mask.sum()]), "grad_logp": mask * gradient / mask.sum()}
    arrays = {"logp": ("f32", logp), "old_logp": ("f32", old), "ref_logp": ("f32", ref), "mask": ("u8", mask)}
    arrays |= {"advantage": ("f32", advantage), "sequence_start": ("i32", start)}
    return arrays, {"clip_low": low, "clip_high": high, "kl_coef": coefficient}, expected


def simulate(library, seed=20261125):
    """One entry per operation: errors by output, and whether they are within LIMIT; or why it was left out."""
    checks = []
    for make in (group_advantage, policy_loss):
        given, options, expected = make(numpy.random.default_rng(seed))
        arrays = {name: LibraryArray(library, dtype, x.shape).write(x) for name, (dtype, x) in given.items()}
        try:
            call = library.bind(make.__name__, arrays, expected, options, library_output(library))
            call()
            errors = {name: relative_error(call.outputs[name].read(), x) for name, x in expected.items()}
            for array in call.outputs.values():
                array.release()
            right = all(error <= LIMIT for error in errors.values())  # NaN is not
            checks.append({"operation": make.__name__, "errors": errors, "right": right})
        except GrpoError as error:
            checks.append({"operation": make.__name__, "leftOut": str(error), "right": False})
        for array in arrays.values():
            array.release()
    return checks
