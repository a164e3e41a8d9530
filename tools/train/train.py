"""Train a model of the preset sizes on the token files of prepare.py.

The learning rate warms up, stays, and falls in a straight line to zero over the
last --decay steps; or, with --minutes, over the last part of a time limit, which suits
a machine whose speed depends on its other users. A run can be stopped at any time (SIGTERM or SIGINT writes a
checkpoint) and continued with --resume, also with another row length or mix:
batches depend on the seed and the step alone.
"""

import argparse
import json
import math
import os
import signal
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from loader import Loader, validation_rows
from model import PRESETS, Llama
from muon import Muon
from workers import Pool

KINDS = ["tiny", "storybook", "fairy", "book", "talk", "gen", "chat", "zh-verse", "zh-plain", "recall"]


def parse_mix(text):
    mix = {}
    for part in text.split(","):
        kind, share = part.split("=")
        if kind not in KINDS:
            raise SystemExit(f"unknown kind {kind!r} in --mix; known: {', '.join(KINDS)}")
        mix[kind] = float(share)
    return mix


def rate(step, args, minutes):
    """Factor on the learning rates at a step: warm-up, flat, straight fall to --end-rate."""
    if step < args.warmup:
        return (step + 1) / args.warmup
    if args.minutes:
        left = 1 - minutes / args.minutes
        fall = max(0.0, min(1.0, left / args.decay_part)) if args.decay_part else 1.0
    else:
        fall = max(0.0, min(1.0, (args.steps - step) / args.decay)) if args.decay else 1.0
    return args.end_rate + (1 - args.end_rate) * fall


@torch.no_grad()
def validate(model, folder, kinds, length, rows, device):
    model.eval()
    result = {}
    for kind in kinds:
        data = validation_rows(Path(folder) / f"{kind}.valid.npz", length, rows)
        if data is None:
            continue
        total = 0.0
        per = max(1, 8192 // length)
        for i in range(0, len(data[0]), per):
            x = torch.from_numpy(data[0][i:i + per]).to(device)
            y = torch.from_numpy(data[1][i:i + per]).to(device)
            with torch.autocast(device, torch.bfloat16):
                total += model(x, y).item() * len(x)
        result[kind] = round(total / len(data[0]), 4)
    model.train()
    return result


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--preset", choices=sorted(PRESETS), default="main")
    p.add_argument("--tokens", default=".train/tokens", help="folder of the token files")
    p.add_argument("--tokenizer", default="models/tokenizer/tokenizer.json")
    p.add_argument("--out", required=True, help="folder for checkpoint.pt and log.jsonl")
    p.add_argument("--mix", required=True, help="shares, as tiny=0.5,fairy=0.1,recall=0.2,...")
    p.add_argument("--dense", type=float, default=0.4, help="share of the recall rows that hold little other text")
    p.add_argument("--length", type=int, default=1024, help="tokens in a row")
    p.add_argument("--long-every", type=int, default=0, help="every so many steps, one with rows of --long-length")
    p.add_argument("--long-length", type=int, default=2048)
    p.add_argument("--long-mix", help="mix of these steps")
    p.add_argument("--batch", type=int, default=8192, help="tokens in a step")
    p.add_argument("--steps", type=int, default=1_000_000, help="steps of the whole run, earlier parts counted in")
    p.add_argument("--stop-at", type=int, default=0, help="stop before this step with a checkpoint (0: run to --steps)")
    p.add_argument("--warmup", type=int, default=60)
    p.add_argument("--decay", type=int, default=0, help="the last steps over which the rate falls to zero")
    p.add_argument("--minutes", type=float, default=0, help="stop after so many minutes of this part of the run")
    p.add_argument("--decay-part", type=float, default=0, help="with --minutes: the last share of them over which the rate falls")
    p.add_argument("--end-rate", type=float, default=0.0, help="factor at the end of the fall")
    p.add_argument("--muon-lr", type=float, default=0.02, help="rate of the matrices inside the layers")
    p.add_argument("--qk-rate", type=float, default=1.0, help="factor on --muon-lr for queries and keys")
    p.add_argument("--adam-lr", type=float, default=0.004, help="rate of the embedding and the norms")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--validate-every", type=int, default=200)
    p.add_argument("--validate-kinds", nargs="*", default=["tiny"])
    p.add_argument("--checkpoint-every", type=int, default=100)
    p.add_argument("--parts", type=int, default=1, help="forward and backward passes per step (fits caches and memory)")
    p.add_argument("--answer-weight", type=float, default=1.0, help="weight of the loss of what must be recalled")
    p.add_argument("--resume", action="store_true", help="continue from the checkpoint in --out")
    p.add_argument("--init-from", help="start from the weights and optimizer of another checkpoint")
    p.add_argument("--embedding-from", help="start from the token embedding of another checkpoint")
    p.add_argument("--no-compile", action="store_true")
    p.add_argument("--workers", type=int, default=0, help="single-threaded CPU processes that share the rows of a "
                   "step (0: one process). Faster than threads on a busy machine: nobody waits for a preempted thread")
    p.add_argument("--threads", type=int, default=0, help="CPU threads (0: PyTorch's choice)")
    args = p.parse_args()

    if args.long_every and (args.workers or not args.long_mix):
        raise SystemExit("--long-every needs --long-mix and goes without --workers")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if args.workers:
        torch.set_num_threads(1)
    elif args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    tok = Tokenizer.from_file(args.tokenizer)
    mix = parse_mix(args.mix)
    config = PRESETS[args.preset]
    config.vocab_size = tok.get_vocab_size()
    model = Llama(config).to(device)
    for n, q in model.named_parameters():
        if n.endswith(("q_proj.weight", "k_proj.weight")):
            q.rate = args.qk_rate  # sharp heads are lost when their directions turn too fast
    matrices = [q for n, q in model.named_parameters() if q.dim() == 2 and "embed" not in n]
    others = [q for n, q in model.named_parameters() if q.dim() != 2 or "embed" in n]
    optimizers = [Muon(matrices, lr=args.muon_lr, threads=args.workers),
                  torch.optim.AdamW(others, lr=args.adam_lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True)]
    step, seconds, tokens = 0, 0.0, 0
    source = out / "checkpoint.pt" if args.resume else args.init_from
    if source:
        state = torch.load(source, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        for o, s in zip(optimizers, state.get("optimizers", [])):
            o.load_state_dict(s)
        step, seconds, tokens = state["step"], state["seconds"], state["tokens"]
    if args.embedding_from and not source:
        name = "model.embed_tokens.weight"
        other = torch.load(args.embedding_from, map_location=device, weights_only=True)["model"][name]
        model.model.embed_tokens.weight.data.copy_(other)
    base = [args.muon_lr, args.adam_lr]
    loader = Loader(args.tokens, tok, mix, args.length, args.batch // args.length, args.seed, dense=args.dense,
                    answer_weight=args.answer_weight)
    longer = Loader(args.tokens, tok, parse_mix(args.long_mix), args.long_length, args.batch // args.long_length,
                    args.seed, dense=args.dense, answer_weight=args.answer_weight) if args.long_every else None
    if not args.no_compile and not args.workers:
        model.compile_parts()
    pool = Pool(model, loader, args.workers, not args.no_compile) if args.workers else None
    print(f"{args.preset}: {model.parameter_count():,} parameters, {device}, step {step} of {args.steps}", flush=True)

    (out / "pid").write_text(f"{os.getpid()}\n")
    stop = []
    for s in (signal.SIGTERM, signal.SIGINT):
        signal.signal(s, lambda *_: stop.append(True))

    log = open(out / "log.jsonl", "a", buffering=1)
    log.write(json.dumps({"start": step, **vars(args), "parameters": model.parameter_count()}) + "\n")

    def save():
        temporary = out / "checkpoint.tmp"
        torch.save({"model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers],
                    "step": step, "seconds": seconds, "tokens": tokens,
                    "config": config.to_dict()}, temporary)
        temporary.replace(out / "checkpoint.pt")

    mean, last, launched = [], args.stop_at or args.steps, None
    while step < last and not stop:
        began = time.time()
        minutes = (began - launched) / 60 if launched else 0.0
        if args.minutes and minutes >= args.minutes:
            break
        factor = rate(step, args, minutes)
        for o, lr in zip(optimizers, base):
            for g in o.param_groups:
                g["lr"] = lr * factor
        if pool:
            value = pool.step(step)
        else:
            source = longer if longer and step % args.long_every == 0 else loader
            value, parts = 0.0, args.parts
            for rows in np.array_split(np.arange(source.rows), parts):
                x, y, w = (torch.from_numpy(a).to(device) for a in source.batch(step, rows))
                with torch.autocast(device, torch.bfloat16):
                    loss = model(x, y, w) * (len(rows) / source.rows)
                loss.backward()
                value += loss.item()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for o in optimizers:
            o.step()
            o.zero_grad(set_to_none=True)
        mean.append(value)
        launched = launched or began
        step += 1
        tokens += loader.rows * args.length
        seconds += time.time() - began
        if not math.isfinite(mean[-1]):
            raise SystemExit(f"loss is not finite at step {step}")
        if step % 20 == 0:
            row = {"step": step, "tokens": tokens, "loss": round(float(np.mean(mean)), 4), "rate": round(factor, 4),
                   "norm": round(float(norm), 3), "seconds": round(seconds, 1)}
            mean = []
            log.write(json.dumps(row) + "\n")
            print(row, flush=True)
        if step % args.validate_every == 0:
            began = time.time()
            row = {"step": step, "tokens": tokens, "length": args.length,
                   "validation": validate(model, args.tokens, args.validate_kinds, args.length, 8192 // args.length, device)}
            log.write(json.dumps(row) + "\n")
            print(row, f"({time.time() - began:.1f} s)", flush=True)
        if step % args.checkpoint_every == 0:
            save()
    if step % args.validate_every:
        row = {"step": step, "tokens": tokens, "length": args.length,
               "validation": validate(model, args.tokens, args.validate_kinds, args.length, 8192 // args.length, device)}
        log.write(json.dumps(row) + "\n")
        print(row, flush=True)
    save()
    if pool:
        pool.close()
    print("stopped at step", step, flush=True)


if __name__ == "__main__":
    main()
