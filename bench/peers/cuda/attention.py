"""prefix_attention, forward and backward: prompts whose tokens stand once, against prompts repeated per response."""

import math

import torch
import torch.nn.functional as F
from case import DTYPES, Case, compiled, generator, leaf

LIMIT = {"f32": 1e-4, "bf16": 2e-2}
WIDTH = {"f32": 4, "bf16": 2}


class Shape:
    """`prompts` times [prefix | response 1 | ... | response `responses`], packed."""

    def __init__(self, prompts, prefix, response, responses, heads, kv_heads, width):
        self.prompts, self.prefix, self.response, self.responses = prompts, prefix, response, responses
        self.heads, self.kv_heads, self.width = heads, kv_heads, width
        self.packed = prompts * (prefix + responses * response)
        rows = prefix * (prefix + 1) // 2 + responses * (response * prefix + response * (response + 1) // 2)
        self.area = prompts * rows  # (query, key) pairs that see each other
        self.text = f"{prompts} x ({prefix:,} + {responses} x {response:,}), heads {heads}:{kv_heads}, width {width}"

    def segments(self, device):
        each = 1 + self.responses
        roots = [each * p for p in range(self.prompts)]
        lengths = ([self.prefix] + [self.response] * self.responses) * self.prompts
        start = torch.tensor([0, *lengths]).cumsum(0)
        parent = [-1 if b in roots else b - b % each for b in range(each * self.prompts)]
        end = [b + each if b in roots else b + 1 for b in range(each * self.prompts)]
        made = {"segment_start": start, "segment_parent": torch.tensor(parent), "segment_end": torch.tensor(end)}
        return {name: x.to(device, torch.int32) for name, x in made.items()}

    def repeat(self, x, once=False):
        """[P,h,D] -> [prompts * responses, h, prefix + response, D]; `once`: the prefix is zero but in the first copy."""
        groups = x.view(self.prompts, -1, *x.shape[1:])
        prefix = groups[:, None, : self.prefix].expand(-1, self.responses, *[-1] * 3)
        if once:
            prefix = torch.cat((prefix[:, :1], torch.zeros_like(prefix[:, 1:])), 1)
        own = groups[:, self.prefix :].unflatten(1, (self.responses, self.response))
        return torch.cat((prefix, own), 2).flatten(0, 1).transpose(1, 2).contiguous()

    def pack(self, x, add=False):
        """The other way: the first copy of the prefix, or the sum of all."""
        groups = x.transpose(1, 2).unflatten(0, (self.prompts, self.responses))
        prefix = groups[:, :, : self.prefix]
        prefix = prefix.sum(1) if add else prefix[:, 0]
        return torch.cat((prefix, groups[:, :, self.prefix :].flatten(1, 2)), 1).flatten(0, 1)


def expand_heads(x, heads):
    return x.repeat_interleave(heads // x.shape[1], 1)


def plain_attention(q, k, v):
    """Causal, over [batch, heads, length, D] in the dtype of its inputs: the reference, in float64."""
    k, v = (expand_heads(x, q.shape[1]) for x in (k, v))
    hidden = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool, device=q.device).triu(1)
    scores = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).masked_fill(hidden, -math.inf)
    return torch.softmax(scores, -1) @ v


def repeated(shape, backward, attend, wide=False):
    """Attention over repeated prompts. Only attention is timed, not the repeating, and the results are packed only where
    they are compared: `results` of the function that is returned."""

    def make(x):
        q, k, v = (leaf(shape.repeat(x[name].double() if wide else x[name])) for name in ("q", "k", "v"))
        if not backward:

            def forward():
                with torch.no_grad():
                    return attend(q, k, v)

            forward.results = lambda out: {"out": shape.pack(out)}
            return forward
        out = attend(q, k, v)
        gradient = shape.repeat(x["grad_out"].to(out.dtype), once=True)

        def run():
            return torch.autograd.grad(out, (q, k, v), gradient, retain_graph=True)

        run.results = lambda grads: {f"grad_{n}": shape.pack(g, add=True) for n, g in zip("qkv", grads)}
        return run

    return make


def sdpa(name):
    def attend(q, k, v):
        from torch.nn.attention import SDPBackend, sdpa_kernel

        with sdpa_kernel([getattr(SDPBackend, name)]):
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])

    return attend


def flex(shape, backward):
    """Compiled FlexAttention over the packed layout; the block mask is built before the clock starts."""

    def make(x):
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        device, start = x["q"].device, x["segment_start"].long()
        lengths = start[1:] - start[:-1]
        segment = torch.repeat_interleave(torch.arange(len(lengths), device=device), lengths)
        parent = x["segment_parent"].long()[segment]

        def sees(b, h, i, j):
            return ((segment[i] == segment[j]) & (i >= j)) | (parent[i] == segment[j])

        mask = create_block_mask(sees, None, None, shape.packed, shape.packed, device=device)
        function = compiled(flex_attention)
        q, k, v = (leaf(x[name].transpose(0, 1).unsqueeze(0).contiguous()) for name in ("q", "k", "v"))

        def attend():
            return function(q, k, v, block_mask=mask, enable_gqa=shape.heads != shape.kv_heads)

        def packed(y):
            return y.squeeze(0).transpose(0, 1)

        if not backward:

            def forward():
                with torch.no_grad():
                    return attend()

            forward.results = lambda out: {"out": packed(out)}
            return forward
        out = attend()
        gradient = x["grad_out"].transpose(0, 1).unsqueeze(0).contiguous()

        def run():
            return torch.autograd.grad(out, (q, k, v), gradient, retain_graph=True)

        run.results = lambda grads: {f"grad_{n}": packed(g) for n, g in zip("qkv", grads)}
        return run

    return make


def prefix_attention(shape, dtype, backward):
    def inputs(device, seed):
        made = generator(device, seed)

        def normal(heads):
            return torch.randn(shape.packed, heads, shape.width, generator=made, device=device, dtype=DTYPES[dtype])

        q, k, v = normal(shape.heads), normal(shape.kv_heads), normal(shape.kv_heads)
        x = {"q": q, "k": k, "v": v, **shape.segments(device)}
        if backward:  # out and logsumexp are the library's own forward pass; run.py fills them in.
            x["grad_out"] = normal(shape.heads)
        return x

    def reference(x):
        run = repeated(shape, backward, plain_attention, wide=True)(x)
        return run.results(run())

    peers = {
        "SDPA cuDNN, prompts repeated": repeated(shape, backward, sdpa("CUDNN_ATTENTION")),
        "SDPA flash, prompts repeated": repeated(shape, backward, sdpa("FLASH_ATTENTION")),
        "FlexAttention, compiled": flex(shape, backward),
    }
    if dtype == "f32":
        peers = {"SDPA efficient, prompts repeated": repeated(shape, backward, sdpa("EFFICIENT_ATTENTION"))}
    elements = shape.packed * shape.width * (shape.heads + shape.kv_heads)
    return Case(
        "prefix_attention_backward" if backward else "prefix_attention",
        shape.text,
        dtype,
        inputs,
        ["grad_q", "grad_k", "grad_v"] if backward else ["out", "logsumexp"],
        {},
        reference,
        peers,
        limit=LIMIT[dtype],
        bytes=(4 if backward else 2) * elements * WIDTH[dtype] + 4 * shape.packed * shape.heads,
        flop=(10 if backward else 4) * shape.area * shape.heads * shape.width,
    )


def cases(smoke):
    small = (1, 128, 64, 4)
    shapes = [(*small, 4, 2, 64)]
    if not smoke:
        shapes = [(1, 2048, 256, 8, 32, 8, 128), (1, 2048, 1024, 8, 32, 8, 128), (1, 8192, 1024, 16, 32, 8, 128)]
        shapes += [(4, 2048, 1024, 8, 16, 16, 64)]
    made = []
    for backward in (False, True):
        for sizes in shapes:
            case = prefix_attention(Shape(*sizes), "bf16", backward)
            if not smoke:
                case.check = prefix_attention(Shape(2, 256, 128, 3, *sizes[4:]), "bf16", backward)
            made.append(case)
    return made
