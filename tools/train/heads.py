"""A start for looking things up: write two kinds of attention heads into a model by
hand, with numbers fitted to data, before it is trained (a mimetic initialisation).

The heads of one layer become previous-token heads: they look 1, 2, 0 and 3
tokens back, by rope phases alone, and copy a code of the token there into the residual
stream (and, with the rest of the value, as much as can be of what the layer did before).
The heads of a later layer become induction heads: they look for the place where the
current token and the one before it stood last, on the rope pairs that turn slowly, and
raise the probability of the token that came next there. Everything is then trained as
usual; without this start, no such circuit formed in the few million tokens that a CPU
can afford.

  heads.py models/quipu-stories-q8_0.gguf .train/start.pt --tokens .train/tokens
"""

import argparse
import math
import random

import numpy as np
import torch
from tokenizers import Tokenizer

import gguf
from loader import Loader
from model import Config, Llama

CODE = 26       # dimensions of a token's code: 13 rope pairs
SLOW = 19       # the first rope pair that turns slowly enough (theta 500,000)


def rows(loader, count):
    """Rows to fit on: stories, recall rows, and random tokens, in equal parts."""
    result = []
    for i in range(count):
        rng = random.Random(f"heads/{i}")
        if i % 3 == 2:
            result.append(np.array([rng.randrange(300, 5120) for _ in range(loader.length)]))
        else:
            result.append((loader.plain_row(rng) if i % 3 == 0 else loader.recall_row(rng))[0][:-1])
    return torch.from_numpy(np.stack(result))


def ridge(x, y, strength=1e-3):
    """W with y = x W^T."""
    second = x.T @ x / len(x)
    second += strength * second.diagonal().mean() * torch.eye(len(second))
    return torch.linalg.solve(second, x.T @ y / len(x)).T


def shifted(x, by):
    """Rows of x (n, t, d) moved `by` positions later, zeros in front."""
    return torch.cat([torch.zeros_like(x[:, :by]), x[:, :x.shape[1] - by]], 1) if by else x


def inputs(model, tokens, layer):
    """The normalised input of a layer's attention, and the attention's output."""
    seen = {}
    part = model.model.layers[layer].self_attn
    hook = part.register_forward_hook(lambda m, i, o: seen.update(x=i[0], y=o))
    model.hidden(tokens)
    hook.remove()
    return seen["x"], seen["y"]


def whitening(x, size, generator, keep=160):
    """size x 256 matrix that makes random projections of x with unit variance."""
    values, vectors = torch.linalg.eigh(torch.cov(x.T))
    values, vectors = values.flip(0)[:keep], vectors.flip(1)[:, :keep]
    random_part = torch.linalg.qr(torch.randn(keep, size, generator=generator))[0]
    return (vectors @ torch.diag(values ** -0.5) @ random_part).T


def pair_dims(first, count):
    """Head dimensions of rope pairs first, first + 1, ..., as (a, b) after each other."""
    return [d for i in range(first, first + count) for d in (i, i + 32)]


def output(model, tokens, layer):
    """The residual stream after a layer."""
    seen = {}
    hook = model.model.layers[layer].register_forward_hook(lambda m, i, o: seen.update(y=o))
    model.hidden(tokens)
    hook.remove()
    return seen["y"]


def previous_token_heads(model, tokens, layer, offsets, write, sharp, text):
    c = model.config
    x, old = inputs(model, tokens, layer)
    attention = model.model.layers[layer].self_attn
    flat = x.reshape(-1, c.dim)
    # A direction in which every input is near one: the same key and query everywhere.
    mean, second = flat.mean(0), flat.T @ flat / len(flat)
    second += 1e-4 * second.diagonal().mean() * torch.eye(c.dim)
    one = torch.linalg.solve(second, mean)
    one /= one @ mean
    print("constant direction: mean 1, deviation", round((flat @ one).std().item(), 3))
    freq = c.rope_theta ** (-torch.arange(0, c.head_dim, 2) / c.head_dim)
    q, k = torch.zeros(c.heads, c.head_dim, c.dim), torch.zeros(c.head_dim, c.dim)
    # The slow pairs take off what the fast ones give at the wanted place: the score is near
    # zero there and negative elsewhere, whatever is left of the inputs' variation.
    for i in range(10):
        k[i], k[31 - i], q[:, 31 - i] = sharp * one, sharp * one, -sharp * one
        for h, d in enumerate(offsets):
            q[h, i], q[h, i + 32] = sharp * math.cos(d * freq[i]) * one, -sharp * math.sin(d * freq[i]) * one
    # The code of a token: random projections of the token's part of the input, white.
    code = ridge(flat, (model.model.embed_tokens.weight @ text.T)[tokens].reshape(-1, CODE))
    # What the layer did before, from the tokens at the offsets: a regression of low rank.
    m = ridge(torch.cat([shifted(x, d) for d in offsets], -1).reshape(-1, len(offsets) * c.dim),
              old.reshape(-1, c.dim), 1e-2)
    values, vectors = torch.linalg.eigh(second)
    root = vectors @ torch.diag(values.sqrt()) @ vectors.T
    parts = m.view(c.dim, len(offsets), c.dim).transpose(0, 1) @ root
    rest = c.head_dim - CODE
    basis = torch.linalg.svd(parts.reshape(-1, c.dim), full_matrices=False)[2][:rest].T
    v = torch.cat([code, basis.T @ torch.linalg.inv(root)])
    # Codes go where the residual stream after this layer varies least.
    after = output(model, tokens, layer).reshape(-1, c.dim)
    quiet = torch.linalg.eigh(torch.cov(after.T))[1]
    size = write * after.pow(2).mean().sqrt().item()
    o = torch.zeros(c.dim, c.heads, c.head_dim)
    for h in range(len(offsets)):
        o[:, h, CODE:] = parts[h] @ basis
        if h < 3:
            o[:, h, :CODE] = size * quiet[:, h * CODE:(h + 1) * CODE]
    attention.q_proj.weight.copy_(q.reshape(-1, c.dim))
    attention.k_proj.weight.copy_(k)
    attention.v_proj.weight.copy_(v)
    attention.o_proj.weight.copy_(o.reshape(c.dim, -1))


def induction_heads(model, tokens, layer, gain, generator, text, sharp):
    c = model.config
    x, _ = inputs(model, tokens, layer)
    attention = model.model.layers[layer].self_attn
    here = (model.model.embed_tokens.weight @ text.T)[tokens]
    turn = torch.linalg.qr(torch.randn(CODE, CODE, generator=generator))[0]
    flat, start = x[:, 4:].reshape(-1, c.dim), 4
    read = []
    for back in range(3):
        target = shifted(here, back)[:, start:].reshape(-1, CODE)
        w = ridge(flat, target)
        r2 = 1 - (flat @ w.T - target).pow(2).mean() / target.var()
        print(f"layer {layer}: the token {back} back is read with R2 {r2:.3f}")
        read.append(w)
    slots = pair_dims(SLOW, CODE // 2)
    q, k = torch.zeros(c.heads, c.head_dim, c.dim), torch.zeros(c.head_dim, c.dim)
    k[slots] = sharp * (read[1] + turn @ read[2])
    for h, (first, second) in enumerate([(1.0, 0.0), (1.0, 1.0), (1.3, 1.3), (0.6, 1.2)]):
        q[h, slots] = sharp * (first * read[0] + second * turn @ read[1])
    # Values: a white code of the token itself; the output spells it in the embedding.
    e = model.model.embed_tokens.weight
    white = whitening(e, c.head_dim, generator)
    v = ridge(flat, (e @ white.T)[tokens][:, start:].reshape(-1, c.head_dim))
    o = (white.T * gain)[:, None, :].expand(-1, c.heads, -1) / c.heads
    attention.q_proj.weight.copy_(q.reshape(-1, c.dim))
    attention.k_proj.weight.copy_(k)
    attention.v_proj.weight.copy_(v)
    attention.o_proj.weight.copy_(o.reshape(c.dim, -1))


def answer_loss(model, loader, count):
    """Loss of the answers in dense recall rows, and of stories."""
    total = [[], []]
    for i in range(count):
        tokens, weight = loader.recall_row(random.Random(f"answers/{i}"))
        logits = model(torch.from_numpy(tokens[None, :-1]))[0]
        each = torch.nn.functional.cross_entropy(logits, torch.from_numpy(tokens[1:]), reduction="none")
        total[0].append(each[torch.from_numpy(weight) > 1].mean().item())
        tokens = loader.plain_row(random.Random(f"stories/{i}"))[0]
        logits = model(torch.from_numpy(tokens[None, :-1]))[0]
        total[1].append(torch.nn.functional.cross_entropy(logits, torch.from_numpy(tokens[1:])).item())
    return [round(float(np.nanmean(t)), 3) for t in total]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("source", help="GGUF file or checkpoint.pt to start from")
    p.add_argument("out", help="checkpoint to write, for train.py --init-from")
    p.add_argument("--tokens", default=".train/tokens")
    p.add_argument("--tokenizer", default="models/tokenizer/tokenizer.json")
    p.add_argument("--theta", type=float, default=Config.rope_theta)
    p.add_argument("--previous", type=int, default=1, help="layer of the previous-token heads")
    p.add_argument("--induction", type=int, nargs="*", default=[2], help="layers of the induction heads")
    p.add_argument("--seed", type=int, default=1)
    args = p.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    if args.source.endswith(".gguf"):
        config, state = gguf.load(args.source)
    else:
        saved = torch.load(args.source, map_location="cpu", weights_only=True)
        config, state = Config(**saved["config"]), saved["model"]
    config.rope_theta = args.theta
    model = Llama(config).eval()
    model.load_state_dict(state)
    tok = Tokenizer.from_file(args.tokenizer)
    loader = Loader(args.tokens, tok, {"tiny": 0.7, "gen": 0.3}, 256, 1, dense=1.0, answer_weight=2.0)
    tokens = rows(loader, 36)
    print("loss of answers, of stories:", answer_loss(model, loader, 12))
    e = model.model.embed_tokens.weight
    text = whitening(e[tokens.flatten()], CODE, torch.Generator().manual_seed(args.seed), keep=120)
    previous_token_heads(model, tokens, args.previous, (1, 2, 0, 3), 0.6, 9, text)
    print("with previous-token heads:", answer_loss(model, loader, 12), flush=True)
    for layer in args.induction:
        induction_heads(model, tokens, layer, 2.0, torch.Generator().manual_seed(args.seed), text, 2.5)
        print(f"with induction heads in layer {layer}:", answer_loss(model, loader, 12), flush=True)
    torch.save({"model": model.state_dict(), "step": 0, "seconds": 0.0, "tokens": 0, "config": config.to_dict()}, args.out)


if __name__ == "__main__":
    main()
