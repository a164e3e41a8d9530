"""Measure an exported model (the Hugging Face directory of export.py) in float32.

  --perplexity FILE  perplexity of a text file, in non-overlapping windows of
                     --window tokens; the first token of every window is context
                     only; nothing is put in front of the text (no BOS)
  --kinds            loss and perplexity of the validation token files, by kind
  --positions        loss by position in the window, out to --window
  --recall           accuracy of exact answers, by distance of fact and question
  --samples N        N texts, seeds 1 to N, none picked
"""

import argparse
import datetime
import json
import math
import random
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer

import recall
from loader import Documents, Loader
from model import Config, Llama

PROMPTS = ["Once upon a time", "One day, Tom and Lily", "The little dog", "There was a king who",
           "<|im_start|>user\nTell me a story about a cat named Momo.<|im_end|>\n<|im_start|>assistant\n"]
DISTANCES = [64, 128, 256, 512, 1024, 1500, 1950]


def load(folder):
    c = json.loads((Path(folder) / "config.json").read_text())
    model = Llama(Config(c["vocab_size"], c["hidden_size"], c["num_hidden_layers"], c["num_attention_heads"],
                         c["num_key_value_heads"], c["head_dim"], c["intermediate_size"],
                         c["max_position_embeddings"], c["rope_theta"], c["rms_norm_eps"]))
    model.load_state_dict({n: w.float() for n, w in load_file(str(Path(folder) / "model.safetensors")).items()})
    return model.eval(), Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))


def token_losses(model, window):
    """Loss of every token of a window but the first."""
    x = torch.as_tensor(window, dtype=torch.long)[None]
    return F.cross_entropy(model(x[:, :-1])[0].float(), x[0, 1:], reduction="none")


def flat_perplexity(model, ids, window):
    total, count = 0.0, 0
    for i in range(0, len(ids), window):
        part = ids[i:i + window]
        if len(part) > 1:
            losses = token_losses(model, part)
            total += losses.double().sum().item()
            count += len(losses)
    return {"loss": round(total / count, 6), "perplexity": round(math.exp(total / count), 5), "scored_tokens": count}


def by_kind(model, folder, window, most):
    result = {}
    for path in sorted(Path(folder).glob("*.valid.npz")):
        ids = Documents(path).tokens.astype(np.int64)[:most]
        result[path.name.split(".")[0]] = flat_perplexity(model, ids, window)
    return result


def by_position(model, tokens, folder, window, rows):
    """Mean loss by position, over windows of simple validation stories."""
    buckets = [0, 16, 64, 128, 256, 512, 768, 1024, 1280, 1536, 1792, 2048]
    total, count = np.zeros(window - 1), 0
    flat = np.concatenate([Documents(Path(folder) / f"{k}.valid.npz").tokens for k in tokens]).astype(np.int64)
    step = max(1, (len(flat) - window) // rows)
    for i in range(rows):
        total += token_losses(model, flat[i * step:i * step + window]).numpy()
        count += 1
    mean = total / count
    return [{"positions": f"{a}-{min(b, window) - 1}", "loss": round(float(mean[a:b].mean()), 4),
             "perplexity": round(math.exp(mean[a:b].mean()), 3)}
            for a, b in zip(buckets, buckets[1:]) if a < window - 1]


def recall_accuracy(model, tok, folder, trials, seed, distances=DISTANCES):
    """One question per trial, greedy decoding. `distance` tokens lie between the value in
    the list of facts and the place where it must be said again. Names, values and other
    text: pairs of key and value that training leaves out, validation stories."""
    loader = Loader(folder, tok, {"tiny": 0.7, "gen": 0.3}, 2047, 1, split="valid")
    result = []
    for distance in distances:
        right, by_style, measured = 0, {}, []
        for trial in range(trials):
            rng = random.Random(f"recall-test/{seed}/{distance}/{trial}")
            style = trial % len(recall.STYLES)
            # The nearest questions have room for two facts only.
            task = recall.facts_task(rng, style, test=True, count=rng.randint(4, 8) if distance > 130 else 2)
            prompt, answer = rng.choice(task["questions"])
            fact = task["facts"].index(answer.rstrip("\n"))
            head, tail = loader.encode(task["facts"][:fact]), loader.encode(task["facts"][fact:])
            prompt, answer = loader.encode(prompt), loader.encode(answer)  # its full stop and line break too
            gap = distance - len(tail) - len(prompt)
            filler = loader.filler(rng, gap) if gap > 12 else []
            before = min(200, 2048 - len(head) - len(tail) - len(filler) - len(prompt) - len(answer) - 8)
            lead = loader.filler(rng, rng.randrange(12, before)) if before > 24 else []
            ids = (lead + head + tail + filler + prompt + answer)[-2048:]
            measured.append(len(tail) + len(filler) + len(prompt))
            # Greedy decoding gives exactly the answer if and only if every token of
            # it is the most likely one given the ones before.
            x = model.hidden(torch.tensor(ids[:-1])[None])[0, -len(answer):]
            good = F.linear(x, model.model.embed_tokens.weight).argmax(-1).tolist() == answer
            right += good
            n = by_style.setdefault(recall.STYLES[style][1], [0, 0])
            n[0] += good
            n[1] += 1
        result.append({"distance": distance, "mean_measured_distance": round(float(np.mean(measured)), 1),
                       "trials": trials, "accuracy": round(right / trials, 4),
                       "by_style": {k: f"{a}/{b}" for k, (a, b) in by_style.items()}})
        print("recall", result[-1]["distance"], result[-1]["accuracy"], result[-1]["by_style"], flush=True)
    return result


def sample(model, tok, prompt, seed, count, temperature, top_p, top_k=40, min_p=0.05):
    """A text drawn with the defaults of `quipu run` (the draws themselves differ)."""
    generator = torch.Generator().manual_seed(seed)
    ids = tok.encode(prompt, add_special_tokens=False).ids
    start = len(ids)
    stop = {tok.token_to_id("<|endoftext|>"), tok.token_to_id("<|im_end|>")}
    for _ in range(count):
        p = torch.softmax(model(torch.tensor(ids)[None])[0, -1].float() / temperature, -1)
        p, order = p.sort(descending=True)
        p[(p.cumsum(0) - p > top_p) | (p < min_p * p[0])] = 0
        p[top_k:] = 0
        token = order[torch.multinomial(p / p.sum(), 1, generator=generator)].item()
        if token in stop:
            break
        ids.append(token)
    return tok.decode(ids[start:], skip_special_tokens=False)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model", help="folder written by export.py")
    p.add_argument("--perplexity", metavar="FILE")
    p.add_argument("--kinds", action="store_true")
    p.add_argument("--positions", action="store_true")
    p.add_argument("--recall", action="store_true")
    p.add_argument("--samples", type=int, default=0)
    p.add_argument("--tokens", default=".train/tokens", help="folder of the validation token files")
    p.add_argument("--window", type=int, default=2048)
    p.add_argument("--trials", type=int, default=60, help="recall trials for each distance")
    p.add_argument("--distances", type=int, nargs="*", default=DISTANCES)
    p.add_argument("--rows", type=int, default=16, help="windows for --positions")
    p.add_argument("--most", type=int, default=10240, help="tokens of each kind for --kinds")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--count", type=int, default=200, help="tokens of a sample")
    p.add_argument("--temperature", type=float, default=0.8)
    p.add_argument("--top-p", type=float, default=0.95)
    p.add_argument("--threads", type=int, default=0)
    p.add_argument("--json", help="add the results to this JSON file")
    args = p.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    model, tok = load(args.model)
    result = {"date": datetime.date.today().isoformat(), "parameters": model.parameter_count()}
    with torch.no_grad():
        if args.perplexity:
            ids = tok.encode(Path(args.perplexity).read_text(encoding="utf-8"), add_special_tokens=False).ids
            result["perplexity"] = {"file": args.perplexity, "tokens": len(ids), "window": args.window,
                                    **flat_perplexity(model, ids, args.window)}
            print(result["perplexity"])
        if args.kinds:
            result["kinds"] = by_kind(model, args.tokens, args.window, args.most)
            for kind, r in result["kinds"].items():
                print(kind, r)
        if args.positions:
            result["positions"] = by_position(model, ["tiny"], args.tokens, args.window, args.rows)
            for r in result["positions"]:
                print(r)
        if args.recall:
            result["recall"] = recall_accuracy(model, tok, args.tokens, args.trials, args.seed, args.distances)
        if args.samples:
            result["sampling"] = {"temperature": args.temperature, "top_p": args.top_p, "top_k": 40, "min_p": 0.05, "count": args.count}
            result["samples"] = []
            for seed in range(1, args.samples + 1):
                prompt = PROMPTS[(seed - 1) % len(PROMPTS)]
                text = sample(model, tok, prompt, seed, args.count, args.temperature, args.top_p)
                result["samples"].append({"seed": seed, "prompt": prompt, "text": text})
                print(f"--- seed {seed}: {prompt!r}\n{text}")
    if args.json:
        path = Path(args.json)
        old = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**old, **result}, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
