"""The peers' side: PyTorch on the CPU, eager, as trainers such as TRL and verl write it."""

import math

import torch
import torch.nn.functional as F

IMPLEMENTATIONS = {}


def way(operation, label=""):
    """Registers a way of doing an operation: (inputs, numbers) -> a function that does it and returns named results."""

    def register(make):
        IMPLEMENTATIONS.setdefault(operation, {})[label] = make
        return make

    return register


def lengths_of(start):
    return (start[1:] - start[:-1]).long()


def clipped_loss(logp, x, n):
    """Clipped surrogate with token mean, and k3 where klCoef asks for it."""
    advantage = x["advantage"].repeat_interleave(lengths_of(x["sequenceStart"]))
    ratio = torch.exp(logp - x["oldLogp"])
    clipped = torch.clamp(ratio, 1 - n["clipLow"], 1 + n["clipHigh"])
    loss = -torch.min(ratio * advantage, clipped * advantage)
    if n.get("klCoef", 0) > 0:
        difference = x["refLogp"] - logp
        loss = loss + n["klCoef"] * (torch.exp(difference) - difference - 1)
    return loss.mean()


def token_logp(logits, token):
    return torch.log_softmax(logits, -1).gather(-1, token.long().unsqueeze(-1)).squeeze(-1)


def entropy_of(logits):
    log_probabilities = torch.log_softmax(logits, -1)
    return -(log_probabilities.exp() * log_probabilities).sum(-1)


def leaf(x):
    return x.detach().requires_grad_()


@way("groupAdvantage")
def group_advantage(x, n):
    rewards = x["rewards"]
    if n["group"]:

        def even():
            groups = rewards.view(-1, n["group"])
            advantage = (groups - groups.mean(1, keepdim=True)) / (groups.std(1, keepdim=True) + n["eps"])
            return {"advantage": advantage.view(-1)}

        return even

    def ragged():
        length = lengths_of(x["groupStart"])
        group = torch.arange(len(length)).repeat_interleave(length)
        mean = torch.zeros(len(length)).index_add_(0, group, rewards) / length.clamp(min=1)
        centred = rewards - mean[group]
        squares = torch.zeros(len(length)).index_add_(0, group, centred.square())
        std = (squares / (length - 1).clamp(min=1)).sqrt()
        return {"advantage": centred / (std[group] + n["eps"])}

    return ragged


@way("moments")
def moments(x, n):
    def run():
        variance, mean = torch.var_mean(x["x"], unbiased=False)
        return {"mean": mean, "m2": variance * x["x"].numel()}

    return run


@way("standardize")
def standardize(x, n):
    return lambda: {"x": (x["x"] - n["mean"]) / (n["std"] + n["eps"])}


@way("tokenLogprob")
def token_logprob(x, n):
    def run():
        with torch.no_grad():
            logits = x["logits"] / n["temperature"]
            return {"logp": token_logp(logits, x["token"]), "entropy": entropy_of(logits)}

    return run


@way("tokenLogprobBackward", "autograd")
def token_logprob_backward(x, n):
    logits = leaf(x["logits"])
    logp = token_logp(logits / n["temperature"], x["token"])

    def run():
        (gradient,) = torch.autograd.grad(logp, logits, x["gradLogp"].to(logp.dtype), retain_graph=True)
        return {"gradLogits": gradient}

    return run


@way("mergeTokenLogprob")
def merge_token_logprob(x, n):
    logp, entropy, logsumexp = (
        torch.cat([x[name].unsqueeze(0), x["other" + name.capitalize()]]) for name in ("logp", "entropy", "logsumexp")
    )

    def run():
        whole = torch.logsumexp(logsumexp, 0)
        share = (logsumexp - whole).exp()
        mixed = whole + (share * (entropy - logsumexp)).sum(0)
        return {"logp": (logp + logsumexp).max(0).values - whole, "entropy": mixed, "logsumexp": whole}

    return run


def gaussian(x, mean):
    std = x["std"].unsqueeze(1)
    density = -((x["x"] - mean) ** 2) / (2 * std**2) - torch.log(std) - 0.5 * math.log(2 * math.pi)
    log_ratio = ((x["x"] - x["oldMean"]) * (mean - x["oldMean"])).mean(1) / x["std"]
    return density.mean(1), log_ratio


@way("gaussianLogprob")
def gaussian_logprob(x, n):
    def run():
        with torch.no_grad():
            logp, log_ratio = gaussian(x, x["mean"])
            return {"logp": logp, "logRatio": log_ratio}

    return run


@way("gaussianLogprobBackward", "autograd")
def gaussian_logprob_backward(x, n):
    mean = leaf(x["mean"])
    outputs = gaussian(x, mean)

    def run():
        (gradient,) = torch.autograd.grad(outputs, mean, (x["gradLogp"], x["gradLogRatio"]), retain_graph=True)
        return {"gradMean": gradient}

    return run


def gaussian_kl_of(x, mean):
    return ((mean - x["refMean"]) ** 2).mean(1) / (2 * x["std"] ** 2)


@way("gaussianKl")
def gaussian_kl(x, n):
    def run():
        with torch.no_grad():
            return {"kl": gaussian_kl_of(x, x["mean"])}

    return run


@way("gaussianKlBackward", "autograd")
def gaussian_kl_backward(x, n):
    mean = leaf(x["mean"])
    kl = gaussian_kl_of(x, mean)

    def run():
        (gradient,) = torch.autograd.grad(kl, mean, x["gradKl"], retain_graph=True)
        return {"gradMean": gradient}

    return run


@way("logRatio")
def log_ratio(x, n):
    return lambda: {"logRatio": torch.where(x["mask"] != 0, x["x"] - x["y"], 0)}


@way("policyLoss", "eager + autograd")
def policy_loss(x, n):
    def run():
        logp = leaf(x["logp"])
        loss = clipped_loss(logp, x, n)
        loss.backward()
        return {"loss": loss, "gradLogp": logp.grad}

    return run


def loss_from_logits(with_entropy):
    def make(x, n):
        logits = leaf(x["logits"])

        def run():
            logits.grad = None
            scaled = logits / n["temperature"]
            logp = token_logp(scaled, x["token"])
            results = {"logp": logp}
            if with_entropy:
                with torch.no_grad():
                    results["entropy"] = entropy_of(scaled)
            loss = clipped_loss(logp, x, n)
            loss.backward()
            return {**results, "loss": loss, "gradLogits": logits.grad}

        return run

    return make


way("policyLossFromLogits", "eager + autograd, no entropy")(loss_from_logits(False))
way("policyLossFromLogits", "eager + autograd, with entropy")(loss_from_logits(True))


@way("linearPolicyLoss", "eager + autograd, no entropy")
def linear_policy_loss(x, n):
    hidden, head = leaf(x["hidden"]), leaf(x["head"])

    def run():
        hidden.grad = head.grad = None
        logp = token_logp(hidden @ head.T / n["temperature"], x["token"])
        loss = clipped_loss(logp, x, n)
        loss.backward()
        return {"loss": loss, "logp": logp, "gradHidden": hidden.grad, "gradHead": head.grad}

    return run


@way("linearTokenLogprob")
def linear_token_logprob(x, n):
    def run():
        with torch.no_grad():
            logits = x["hidden"] @ x["head"].T / n["temperature"]
            return {"logp": token_logp(logits, x["token"]), "entropy": entropy_of(logits)}

    return run


@way("linearTokenLogprobBackward", "autograd, logits kept")
def linear_token_logprob_backward(x, n):
    hidden, head = leaf(x["hidden"]), leaf(x["head"])
    logp = token_logp(hidden @ head.T / n["temperature"], x["token"])

    def run():
        gradient = x["gradLogp"].to(logp.dtype)
        grad_hidden, grad_head = torch.autograd.grad(logp, (hidden, head), gradient, retain_graph=True)
        return {"gradHidden": grad_hidden, "gradHead": grad_head}

    return run


def sdpa(q, k, v):
    """Causal attention over [B,L,H,D]."""
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).contiguous()


def eager_attention(q, k, v):
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    length = q.shape[2]
    hidden = torch.ones(length, length, dtype=torch.bool).triu(1)
    scores = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).masked_fill(hidden, -math.inf)
    return (torch.softmax(scores, -1) @ v).transpose(1, 2).contiguous()


def attention_ways(label, attend):
    @way("prefixAttention", label)
    def forward(x, n):
        def run():
            with torch.no_grad():
                return {"out": attend(x["q"], x["k"], x["v"])}

        return run

    @way("prefixAttentionBackward", label + ", autograd")
    def backward(x, n):
        q, k, v = leaf(x["q"]), leaf(x["k"]), leaf(x["v"])
        out = attend(q, k, v)

        def run():
            gradients = torch.autograd.grad(out, (q, k, v), x["gradOut"], retain_graph=True)
            return dict(zip(("gradQ", "gradK", "gradV"), gradients))

        return run


if hasattr(F, "scaled_dot_product_attention"):
    attention_ways("SDPA, prefix repeated", sdpa)
else:
    attention_ways("softmax(QK)V, prefix repeated", eager_attention)


@way("selectRollouts")
def select_rollouts(x, n):
    group, count = n["group"], n["count"]

    def run():
        score, order = x["score"].view(-1, group).sort(1, descending=True)
        subsets = torch.stack(
            [torch.cat((score[:, :k], score[:, group - count + k :]), 1) for k in range(count + 1)], 1
        )
        best = subsets.var(2).argmax(1, keepdim=True)
        place = torch.arange(group)
        kept = ((place < best) | (place >= group - count + best)).to(torch.uint8)
        return {"mask": torch.zeros_like(kept).scatter_(1, order, kept).view(-1)}

    return run


@way("selectTokens", "topk")
def select_tokens(x, n):
    def run():
        advantage = x["advantage"].repeat_interleave(lengths_of(x["sequenceStart"]))
        score = advantage.abs() * x["entropy"]
        kept = score.topk(math.ceil(n["fraction"] * score.numel()), sorted=False).indices
        return {"mask": torch.zeros(score.shape, dtype=torch.uint8).index_fill_(0, kept, 1)}

    return run


@way("maskIndex", "nonzero")
def mask_index(x, n):
    return lambda: {"index": x["mask"].nonzero().squeeze(1)}


@way("gatherRows", "index_select")
def gather_rows(x, n):
    return lambda: {"x": x["x"].index_select(0, x["index"])}


@way("scatterRows", "index_add_")
def scatter_rows(x, n):
    return lambda: {"x": torch.zeros(n["rows"], x["x"].shape[1]).index_add_(0, x["index"], x["x"])}


@way("sequenceSum", "index_add_")
def sequence_sum(x, n):
    def run():
        length = lengths_of(x["sequenceStart"])
        sequence = torch.arange(len(length)).repeat_interleave(length)
        return {"x": torch.zeros(len(length)).index_add_(0, sequence, x["x"])}

    return run


@way("sequenceExpand", "repeat_interleave")
def sequence_expand(x, n):
    return lambda: {"x": x["x"].repeat_interleave(lengths_of(x["sequenceStart"]))}


@way("discountedSum", "loop over time")
def discounted_sum(x, n):
    def run():
        values = x["x"].view(-1, n["length"])
        sums = torch.empty_like(values)
        after = torch.zeros(len(values))
        for t in reversed(range(n["length"])):
            after = values[:, t] + n["decay"] * after
            sums[:, t] = after
        return {"x": sums.view(-1)}

    return run


@way("groupBy", "stable sort + unique_consecutive")
def group_by(x, n):
    def run():
        ids, order = torch.sort(x["ids"], stable=True)
        count = torch.unique_consecutive(ids, return_counts=True)[1]
        return {"order": order, "groupStart": F.pad(count.cumsum(0), (1, 0))}

    return run


@way("toBf16", "to(bfloat16)")
def to_bf16(x, n):
    return lambda: {"x": x["x"].to(torch.bfloat16)}


@way("fromBf16", "to(float32)")
def from_bf16(x, n):
    return lambda: {"x": x["x"].to(torch.float32)}
