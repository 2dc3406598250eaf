"""group_advantage and select_tokens."""

import math

import torch
from case import Case, compiled, even, generator, lengths_of

EPS = 1e-4


def advantage_of(rewards, group):
    groups = rewards.view(-1, group)
    return ((groups - groups.mean(1, keepdim=True)) / (groups.std(1, keepdim=True) + EPS)).view(-1)


def ragged_advantage(rewards, start):
    """Means and deviations by index_add_, as verl's vectorized estimator has them."""
    length = lengths_of(start)
    count = len(length)
    group = torch.repeat_interleave(torch.arange(count, device=start.device), length, output_size=len(rewards))
    zeros = torch.zeros(count, device=start.device, dtype=rewards.dtype)
    mean = zeros.index_add(0, group, rewards) / length
    centred = rewards - mean[group]
    std = (zeros.index_add(0, group, centred.square()) / (length - 1)).sqrt()
    return centred / (std[group] + EPS)


def group_advantage(groups, group):
    """Groups of `group`, or of 2 to 30 where it is None."""

    def inputs(device, seed):
        made = generator(device, seed)
        start = even(groups, group or 16, device)
        if group is None:  # Every boundary moves: lengths from 2 to 30, and 16 on average.
            start[1:-1] += torch.randint(-7, 8, (groups - 1,), generator=made, device=device, dtype=torch.int32)
        return {"rewards": torch.randn(int(start[-1]), generator=made, device=device), "group_start": start}

    def reference(x):
        return {"advantage": ragged_advantage(x["rewards"].double(), x["group_start"])}

    def peer(function, *more):
        return lambda x: lambda: {"advantage": function(x["rewards"], *(more or (x["group_start"],)))}

    if group is None:
        peers = {"PyTorch eager, index_add": peer(ragged_advantage)}
    else:
        peers = {"PyTorch eager, view": peer(advantage_of, group)}
        peers["torch.compile"] = lambda x: peer(compiled(advantage_of), group)(x)  # compiles when it is made
    count = groups * (group or 16)
    return Case(
        "group_advantage",
        f"{count:,} rollouts, groups of {group or '2 to 30, ragged'}",
        "f32",
        inputs,
        ["advantage"],
        {"eps": EPS},
        reference,
        peers,
        limit=1e-5,
        bytes=8 * count + 4 * (groups + 1),
    )


def select_tokens(sequences, length, fraction):
    count = sequences * length

    def inputs(device, seed):
        made = generator(device, seed)
        advantage = torch.randn(sequences, generator=made, device=device)
        entropy = torch.empty(count, device=device).exponential_(generator=made)
        return {"advantage": advantage, "entropy": entropy, "sequence_start": even(sequences, length, device)}

    kept = min(count, max(1, math.ceil(fraction * count - 1e-9)))

    def score_of(x):
        return x["advantage"].abs().repeat_interleave(length) * x["entropy"]

    def mask_of(score, best):
        return torch.zeros(score.shape, dtype=torch.uint8, device=score.device).index_fill_(0, best, 1)

    def reference(x):  # The product is rounded to float32 by definition; of equals the lowest index.
        score = score_of(x)
        return {"mask": mask_of(score, score.sort(descending=True, stable=True).indices[:kept])}

    def topk(x):
        def run():
            score = score_of(x)
            return {"mask": mask_of(score, score.topk(kept, sorted=False).indices)}

        return run

    def sort(x):
        def run():
            score = score_of(x)
            return {"mask": mask_of(score, score.sort(descending=True).indices[:kept])}

        return run

    return Case(
        "select_tokens",
        f"{count:,} tokens, {100 * fraction:g}%",
        "f32",
        inputs,
        ["mask"],
        {"fraction": fraction},
        reference,
        {"torch.topk": topk, "torch.sort": sort},
        limit=0,
        bytes=5 * count + 8 * sequences,
    )


def cases(smoke):
    if smoke:
        return [group_advantage(64, 16), group_advantage(64, None), select_tokens(16, 256, 0.2)]
    made = []
    for count, group in ((1 << 10, 16), (1 << 16, 16), (1 << 20, 8), (1 << 20, 64), (1 << 20, None)):
        case = group_advantage(count // (group or 16), group)
        case.check = group_advantage(100, group)
        made.append(case)
    for bits, fraction in ((16, 0.2), (20, 0.2), (24, 0.01), (24, 0.2), (24, 0.5), (26, 0.2)):
        case = select_tokens(1 << (bits - 10), 1 << 10, fraction)
        case.check = select_tokens(64, 64, fraction)
        made.append(case)
    return made
