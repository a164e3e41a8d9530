"""What each part of the 4-bit recipe is worth: perplexity of a Llama-like model whose keys and values
are rounded in one way or another, everything else in float32.

    python tools/kv_quality/ablation.py --model models/quipu-stories-q8_0.gguf \
        --text models/perplexity-sample.txt --windows 3 --json docs/kv_ablation.json

Needs torch, and a built quipu for the tokens. It is a reference of its own: the engine's kernels are
not in it (tools/kv_quality/study.py measures those).

Two settings plant outliers that change nothing in exact arithmetic: `offsets` adds the same vector
to all keys of a head (softmax does not see it); `gains` scales pairs of key elements up and those of
the queries down. Both are found in trained models: biases of keys, weights of query-key norms.
"""

import argparse
import json
import math
import pathlib
import subprocess

import torch

import gguf


class Llama:
    def __init__(self, path):
        metadata, self.weights = gguf.read(path)
        if metadata["general.architecture"] != "llama":
            raise SystemExit(f"{path}: only the architecture llama is computed here")
        key = lambda name: metadata["llama." + name]
        self.layers, self.heads = key("block_count"), key("attention.head_count")
        self.kv_heads = key("attention.head_count_kv")
        self.dim = key("embedding_length") // self.heads
        self.epsilon = key("attention.layer_norm_rms_epsilon")
        self.theta = metadata.get("llama.rope.freq_base", 10000.0)
        self.context = key("context_length")

    def norm(self, x, name):
        return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + self.epsilon) * self.weights[name]

    def logits(self, ids, round_k, round_v, plant):
        w, n = self.weights, len(ids)
        x = w["token_embd.weight"][ids]
        angles = torch.arange(n).float()[:, None] * self.theta ** (
            -torch.arange(0, self.dim, 2).float() / self.dim)
        cos, sin = angles.cos()[:, None], angles.sin()[:, None]

        def rope(y):
            a, b = y[..., 0::2], y[..., 1::2]
            return torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2)

        mask = torch.full((n, n), -math.inf).triu(1)
        for layer in range(self.layers):
            b = f"blk.{layer}."
            h = self.norm(x, b + "attn_norm.weight")
            q = rope((h @ w[b + "attn_q.weight"].T).view(n, self.heads, self.dim)).transpose(0, 1)
            k = rope((h @ w[b + "attn_k.weight"].T).view(n, self.kv_heads, self.dim)).transpose(0, 1)
            v = (h @ w[b + "attn_v.weight"].T).view(n, self.kv_heads, self.dim).transpose(0, 1)
            q, k = plant(q, k)
            k, v = round_k(k), round_v(v)
            out = torch.empty(self.heads, n, self.dim)
            for head in range(self.heads):
                kv = head // (self.heads // self.kv_heads)
                scores = q[head] @ k[kv].T / math.sqrt(self.dim) + mask
                out[head] = torch.softmax(scores, -1) @ v[kv]
            x = x + out.transpose(0, 1).reshape(n, -1) @ w[b + "attn_output.weight"].T
            h = self.norm(x, b + "ffn_norm.weight")
            gate = torch.nn.functional.silu(h @ w[b + "ffn_gate.weight"].T)
            x = x + (gate * (h @ w[b + "ffn_up.weight"].T)) @ w[b + "ffn_down.weight"].T
        return self.norm(x, "output_norm.weight") @ w.get("output.weight", w["token_embd.weight"]).T


def bf16_up(x):
    """x >= 0 rounded up to bf16."""
    rounded = x.bfloat16().float()
    return torch.where(rounded < x, (x * (1 + 2**-7)).bfloat16().float(), rounded)


def int8(x):
    scale = bf16_up(x.abs().amax(-1, keepdim=True) / 127).clamp_min(1e-30)
    return (x / scale).round().clamp(-127, 127) * scale


def groups4(x, size):
    """4 bits with scale and minimum in bf16 for each group along the last dimension."""
    parts = []
    for part in x.split(size, -1):
        low = part.amin(-1, keepdim=True)
        minimum = -torch.where(low < 0, bf16_up(-low), -(low * (1 - 2**-8)).bfloat16().float())
        scale = bf16_up((part.amax(-1, keepdim=True) - minimum) / 15).clamp_min(1e-30)
        parts.append(((part - minimum) / scale).round().clamp(0, 15) * scale + minimum)
    return torch.cat(parts, -1)


def rotate(x):
    n = x.shape[-1]
    run = n & -n
    h = torch.ones(1, 1)
    while h.shape[0] < run:
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)], 0)
    return (x.unflatten(-1, (-1, run)) @ (h / math.sqrt(run))).flatten(-2)


def keys4(size=32, rotation=False, span=0, own=False):
    """4-bit keys. span: tokens whose mean is taken off the next `span` (own: off themselves)."""
    def apply(x):
        y = rotate(x) if rotation else x
        if span == 0:
            out = groups4(y, size)
        else:
            pieces, mean = [], torch.zeros(y.shape[0], 1, y.shape[2])
            for piece in y.split(span, 1):
                if own:
                    mean = int8(piece.mean(1, keepdim=True))
                pieces.append(groups4(piece - mean, size) + mean)
                if not own:
                    mean = int8(pieces[-1].mean(1, keepdim=True))
            out = torch.cat(pieces, 1)
        return rotate(out) if rotation else out
    return apply


def values4(size=32, rotation=False):
    return keys4(size, rotation)


def same(x):
    return x


def plants(dim):
    torch.manual_seed(1)
    offset = torch.zeros(dim)
    offset[torch.randperm(dim)[:max(1, dim // 16)]] = 12.0
    gain = torch.ones(dim)
    for pair in (3, 11):
        gain[2 * pair % dim] = gain[(2 * pair + 1) % dim] = 8.0
    return {"": lambda q, k: (q, k), "offsets": lambda q, k: (q, k + offset),
            "gains": lambda q, k: (q / gain, k * gain)}


RECIPE = dict(size=32, rotation=True, span=16)  # what the engine stores
CASES = [
    ("int8", int8, int8, ""),
    ("K4 plain", keys4(), same, ""),
    ("K4 rotation", keys4(rotation=True), same, ""),
    ("K4 mean of the 16 before", keys4(span=16), same, ""),
    ("K4 mean of the 32 before", keys4(span=32), same, ""),
    ("K4 mean of its own 32", keys4(span=32, own=True), same, ""),
    ("K4 mean of 16, rotation", keys4(**RECIPE), same, ""),
    ("K4 plain, groups of 16", keys4(size=16), same, ""),
    ("V4 groups of 32", same, values4(32), ""),
    ("V4 groups of 64", same, values4(64), ""),
    ("V4 groups of 64, rotation", same, values4(64, True), ""),
    ("K4 V4 plain, groups of 32", keys4(), values4(32), ""),
    ("K4 V4 rotation only", keys4(rotation=True), values4(32, True), ""),
    ("K4 V4 as stored (int4)", keys4(**RECIPE), values4(64), ""),
    ("K4 plain", keys4(), same, "offsets"),
    ("K4 rotation", keys4(rotation=True), same, "offsets"),
    ("K4 mean of 16", keys4(span=16), same, "offsets"),
    ("K4 mean of 16, rotation", keys4(**RECIPE), same, "offsets"),
    ("K4 plain", keys4(), same, "gains"),
    ("K4 rotation", keys4(rotation=True), same, "gains"),
    ("K4 mean of 16", keys4(span=16), same, "gains"),
    ("K4 mean of 16, rotation", keys4(**RECIPE), same, "gains"),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--text", type=pathlib.Path, required=True)
    parser.add_argument("--quipu", default="build/release/quipu")
    parser.add_argument("--windows", type=int, default=3, help="of the model's context")
    parser.add_argument("--planted", action="store_true", help="the planted outliers only")
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()

    tokens = subprocess.run([options.quipu, "tokenize", "-m", options.model, "--no-special", "--json"],
                            check=True, capture_output=True, input=options.text.read_bytes())
    ids = json.loads(tokens.stdout)["ids"]
    model = Llama(options.model)
    planted = plants(model.dim)

    @torch.no_grad()
    def perplexity(round_k, round_v, plant):
        total = count = 0
        for index in range(options.windows):
            part = ids[index * model.context:(index + 1) * model.context]
            logits = model.logits(part, round_k, round_v, planted[plant])
            total += torch.nn.functional.cross_entropy(
                logits[:-1], torch.tensor(part[1:]), reduction="sum").item()
            count += len(part) - 1
        return math.exp(total / count)

    base = perplexity(same, same, "")
    print(f"{'float32':46} {base:9.4f}", flush=True)
    rows = []
    for name, round_k, round_v, plant in CASES:
        if options.planted and not plant:
            continue
        value = perplexity(round_k, round_v, plant)
        rows.append({"name": name, "planted": plant, "perplexity": value,
                     "percent": 100 * (value / base - 1)})
        label = f"{name}{', planted ' + plant if plant else ''}"
        print(f"{label:46} {value:9.4f} {rows[-1]['percent']:+8.3f} %", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"model": options.model.name, "windows": options.windows,
                                            "float32": base, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
