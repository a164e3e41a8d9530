#!/usr/bin/env python3
"""Times llama.cpp on one file; prints one JSON object of tokens per second.

    llama_half.py MODEL --threads 2 --kv f16 --prompt 512 --gen 64 --depth 0,4096 [--users 16]

Per depth: `decode` is of --gen steps behind `depth` tokens, `prefill` of a chunk of --prompt tokens
behind the same, as `quipu bench` has them: neither is behind the other. With --users, both are of so many
sequences at once, the sum of all. The caller repeats the program, so that it can alternate with the
other engine.
"""

import argparse
import json
import pathlib
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[2] / "tests/peer"))
import llama_cpp  # noqa: E402

BATCH = 512


def token_list(count, vocab):
    """Tokens that mean nothing and repeat late: a linear congruential sequence."""
    out, state = [], 12345
    for _ in range(count):
        state = (1103515245 * state + 12345) % 2147483648
        out.append(state // 65536 % vocab)
    return out


def fill(session, tokens, sequence=0):
    """Feeds tokens without asking for logits of every one."""
    for start in range(0, len(tokens), BATCH):
        session.decode(tokens[start:start + BATCH], sequence=sequence)


def seconds(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(session, options, depth):
    """Tokens per second at one depth."""
    prompt, gen, users = options.prompt, options.gen, options.users
    tokens = token_list(depth + prompt + gen, session.vocab)
    result = {"depth": depth}
    session.clear()
    for user in range(users):
        fill(session, tokens[:depth], user)
    steps = tokens[-gen:]
    result["decode"] = users * gen / seconds(
        lambda: [session.decode_step([token] * users) for token in steps])
    for user in range(users):
        session.truncate(depth, user)
    prompts = lambda: [fill(session, tokens[depth:depth + prompt], user) for user in range(users)]
    result["prefill"] = users * prompt / seconds(prompts)
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--kv", default="f16", choices=sorted(llama_cpp.KV_TYPES))
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--gen", type=int, default=64)
    parser.add_argument("--depth", default="0,4096")
    parser.add_argument("--users", type=int, default=1)
    options = parser.parse_args()
    depths = [int(depth) for depth in options.depth.split(",")]
    llama = llama_cpp.LlamaCpp(HERE / "node_modules/@node-llama-cpp/linux-x64")
    session = llama_cpp.Session(llama, options.model, threads=options.threads, kv=options.kv,
                                context=options.users * (max(depths) + options.prompt +
                                                         options.gen + 64),
                                batch=BATCH, sequences=options.users)
    fill(session, token_list(32, session.vocab))  # the first pass repacks and faults pages in
    session.clear()
    rows = [measure(session, options, depth) for depth in depths]
    print(json.dumps({"engine": "llama.cpp", "system": llama.system_info(), "rows": rows}))


if __name__ == "__main__":
    main()
