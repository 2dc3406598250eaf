"""token_logprob, policy_loss_from_logits and linear_policy_loss, with the peers as trainers write them."""

import torch
import torch.nn.functional as F
from case import DTYPES, Case, compiled, even, generator, leaf

OBJECTIVE = {"clip_low": 0.2, "clip_high": 0.2, "kl_coef": 0.04}
TEMPERATURE = 0.7
LIMIT = {"f32": 1e-4, "bf16": 2e-2}
WIDTH = {"f32": 4, "bf16": 2}


def policy_inputs(made, device, sequences, length, vocabulary, density):
    """What a loss needs beside the logits; log-probabilities near those of `vocabulary` nearly even choices."""
    count = sequences * length

    def normal(size):
        return torch.randn(size, generator=made, device=device)

    level = -torch.log(torch.tensor(float(vocabulary), device=device))
    tokens = torch.randint(vocabulary, (count,), generator=made, device=device, dtype=torch.int32)
    x = {"token": tokens, "old_logp": level + normal(count), "ref_logp": level + normal(count)}
    x |= {"advantage": normal(sequences), "sequence_start": even(sequences, length, device)}
    if density < 1:
        x["mask"] = (torch.rand(count, generator=made, device=device) < density).to(torch.uint8)
    return x


def loss_of(logp, old_logp, ref_logp, advantage, mask):
    """Clipped surrogate and k3, averaged over unmasked tokens; logp and the like are [sequences, length]."""
    ratio = torch.exp(logp - old_logp)
    clipped = torch.clamp(ratio, 1 - OBJECTIVE["clip_low"], 1 + OBJECTIVE["clip_high"])
    distance = ref_logp - logp
    token = -torch.min(ratio * advantage, clipped * advantage)
    token = token + OBJECTIVE["kl_coef"] * (torch.exp(distance) - distance - 1)
    return (token * mask).sum() / mask.sum()


def by_sequence(x):
    """old_logp, ref_logp, advantage and mask, as loss_of takes them."""
    sequences = len(x["advantage"])
    mask = x["mask"].view(sequences, -1).float() if "mask" in x else torch.ones_like(x["old_logp"]).view(sequences, -1)
    old, ref = (x[name].view(sequences, -1) for name in ("old_logp", "ref_logp"))
    return old, ref, x["advantage"].unsqueeze(1), mask


def selective_log_softmax(logits, token):
    """As TRL: sequence after sequence, so that log_softmax never takes more than one of them at a time."""
    if logits.dtype in (torch.float32, torch.float64):
        chosen = torch.gather(logits, -1, token.unsqueeze(-1)).squeeze(-1)
        return chosen - torch.stack([torch.logsumexp(rows, -1) for rows in logits])
    pairs = zip(logits, token)
    return torch.stack([F.log_softmax(row, -1).gather(-1, t.unsqueeze(-1)).squeeze(-1) for row, t in pairs])


def upcast_logp(logits, token):
    return F.log_softmax(logits.float(), -1).gather(-1, token.unsqueeze(-1)).squeeze(-1)


def entropy_of(logits):
    log_probabilities = F.log_softmax(logits, -1)
    return -(log_probabilities.exp() * log_probabilities).sum(-1)


def loss_from_logits(logits, token, *more):
    return loss_of(upcast_logp(logits.float() / TEMPERATURE, token), *more)


def loss_from_hidden(hidden, head, token, *more):
    return loss_from_logits(hidden @ head.T, token, *more)


def logp_and_entropy(logits, token):
    scaled = logits.float() / TEMPERATURE
    return upcast_logp(scaled, token), entropy_of(scaled)


def loss_reference(logits, x):
    """loss and gradient of the logits in float64, from logits in float64."""
    logits, sequences = leaf(logits), len(x["advantage"])
    logp = F.log_softmax(logits / TEMPERATURE, -1).gather(-1, x["token"].long().unsqueeze(-1)).view(sequences, -1)
    loss = loss_of(logp, *(part.double() for part in by_sequence(x)))
    loss.backward()
    logp = logp.detach().view(-1)
    logp = logp.masked_fill(x["mask"] == 0, 0) if "mask" in x else logp
    return {"loss": loss.detach().view(1), "grad_logits": logits.grad, "logp": logp}


def logits_inputs(sequences, length, vocabulary, dtype, density=1.0, policy=True):
    def inputs(device, seed):
        made = generator(device, seed)
        logits = torch.randn(sequences * length, vocabulary, generator=made, device=device, dtype=DTYPES[dtype])
        x = policy_inputs(made, device, sequences, length, vocabulary, density)
        return {"logits": logits, **(x if policy else {"token": x["token"]})}

    return inputs


def token_logprob(sequences, length, vocabulary, dtype):
    count = sequences * length

    def reference(x):
        logits = x["logits"].double() / TEMPERATURE
        logp = F.log_softmax(logits, -1).gather(-1, x["token"].long().unsqueeze(-1)).squeeze(-1)
        return {"logp": logp, "entropy": entropy_of(logits)}

    def trl(x):  # Entropy in chunks of 128 rows, as TRL's entropy_from_logits.
        token = x["token"].long().view(sequences, length)

        def run():
            with torch.no_grad():
                scaled = x["logits"] / TEMPERATURE
                logp = selective_log_softmax(scaled.view(sequences, length, -1), token).view(-1)
                return {"logp": logp, "entropy": torch.cat([entropy_of(rows) for rows in scaled.split(128)])}

        return run

    def fused(x):
        token, function = x["token"].long(), compiled(logp_and_entropy)

        def run():
            with torch.no_grad():
                return dict(zip(("logp", "entropy"), function(x["logits"], token)))

        return run

    return Case(
        "token_logprob",
        f"{count:,} tokens, vocabulary {vocabulary:,}",
        dtype,
        logits_inputs(sequences, length, vocabulary, dtype, policy=False),
        ["logp", "entropy"],
        {"temperature": TEMPERATURE},
        reference,
        {"PyTorch eager, as TRL": trl, "torch.compile, f32": fused},
        limit=LIMIT[dtype],
        bytes=count * (vocabulary * WIDTH[dtype] + 12),
    )


def with_gradient(function, x, leaves):
    """A run of function(*leaves, token, ...) and its backward pass; gradients by the leaves' names."""
    parts, sequences = by_sequence(x), len(x["advantage"])
    token = x["token"].long().view(sequences, -1)
    variables = [leaf(x[name]) for name in leaves]
    shaped = [v if name == "head" else v.view(sequences, -1, v.shape[-1]) for name, v in zip(leaves, variables)]

    def run():
        loss = function(*shaped, token, *parts)
        gradients = torch.autograd.grad(loss, variables)
        return {"loss": loss.detach().view(1), **{f"grad_{name}": g for name, g in zip(leaves, gradients)}}

    return run


def trl_loss(logits, token, *more):
    return loss_of(selective_log_softmax(logits / TEMPERATURE, token), *more)


def trl_loss_from_hidden(hidden, head, token, *more):
    return trl_loss(hidden @ head.T, token, *more)


def policy_loss_from_logits(sequences, length, vocabulary, dtype, density=1.0):
    count = sequences * length
    return Case(
        "policy_loss_from_logits",
        f"{count:,} tokens, vocabulary {vocabulary:,}" + (f", {100 * density:g}% unmasked" if density < 1 else ""),
        dtype,
        logits_inputs(sequences, length, vocabulary, dtype, density),
        ["loss", "grad_logits", "logp"],
        {"temperature": TEMPERATURE, **OBJECTIVE},
        lambda x: loss_reference(x["logits"].double(), x),
        {
            "PyTorch eager, as TRL": lambda x: with_gradient(trl_loss, x, ["logits"]),
            "PyTorch eager, f32": lambda x: with_gradient(loss_from_logits, x, ["logits"]),
            "torch.compile, f32": lambda x: with_gradient(compiled(loss_from_logits), x, ["logits"]),
        },
        limit=LIMIT[dtype],
        bounds={"clone of the logits": lambda x: lambda: x["logits"].clone()},
        bytes=count * (2 * vocabulary * WIDTH[dtype] + 16),
    )


def linear_policy_loss(sequences, length, hidden, vocabulary, dtype):
    count = sequences * length

    def inputs(device, seed):
        made = generator(device, seed)

        def normal(rows):
            return torch.randn(rows, hidden, generator=made, device=device).to(DTYPES[dtype])

        x = policy_inputs(made, device, sequences, length, vocabulary, 1.0)
        return {"hidden": normal(count), "head": normal(vocabulary).mul_(hidden**-0.5), **x}

    def reference(x):
        h, head = x["hidden"].double(), x["head"].double()
        found = loss_reference(h @ head.T, x)
        gradient = found.pop("grad_logits")
        return {**found, "grad_hidden": gradient @ head, "grad_head": gradient.T @ h}

    def three_products(x):
        logits = x["hidden"] @ x["head"].T
        return lambda: (x["hidden"] @ x["head"].T, logits @ x["head"], logits.T @ x["hidden"])

    leaves = ["hidden", "head"]
    return Case(
        "linear_policy_loss",
        f"{count:,} tokens, hidden {hidden:,}, vocabulary {vocabulary:,}",
        dtype,
        inputs,
        ["loss", "grad_hidden", "grad_head", "logp"],
        {"temperature": TEMPERATURE, **OBJECTIVE},
        reference,
        {
            "PyTorch eager, as TRL": lambda x: with_gradient(trl_loss_from_hidden, x, leaves),
            "torch.compile, f32 loss": lambda x: with_gradient(compiled(loss_from_hidden), x, leaves),
        },
        limit=LIMIT[dtype],
        bounds={"three matrix products": three_products},
        bytes=2 * WIDTH[dtype] * hidden * (count + vocabulary),
        flop=6 * count * hidden * vocabulary,
    )


def cases(smoke):
    if smoke:
        made = [token_logprob(2, 16, 1000, "bf16"), policy_loss_from_logits(2, 16, 1000, "bf16", 0.7)]
        return [*made, linear_policy_loss(2, 64, 128, 1024, "bf16")]
    shapes = [(4, 1024, 151936, "bf16"), (16, 1024, 151936, "bf16")]
    shapes += [(4, 1024, 128256, "bf16"), (16, 1024, 32000, "f32")]
    made = [token_logprob(*shape) for shape in shapes] + [policy_loss_from_logits(*shape) for shape in shapes]
    made.append(policy_loss_from_logits(16, 1024, 151936, "bf16", 0.3))
    made += [linear_policy_loss(4, 1024, 4096, 128256, "bf16"), linear_policy_loss(16, 1024, 2048, 151936, "bf16")]
    for case in made:
        if case.operation == "linear_policy_loss":
            case.check = linear_policy_loss(2, 64, 256, 4096, case.dtype)
        elif case.operation == "token_logprob":
            case.check = token_logprob(2, 16, 32000, case.dtype)
        else:
            case.check = policy_loss_from_logits(2, 16, 32000, case.dtype, 0.7 if "unmasked" in case.size else 1.0)
    return made
