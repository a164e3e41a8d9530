#!/usr/bin/env python3
"""llama.cpp and quipu in turn (A B A B ...) on one file: tokens per second and their ratio.

    bench/peers/llama_cpp/run MODEL [--depth 0,4096] [--kv 16|8|4] [--users 1] [--repeat 3] [--json]

Both engines get the same file, the same threads and the same number of tokens; the median of the
repetitions counts and the spread is printed. Prefill is of --prompt tokens behind `depth` tokens,
decode of --gen tokens behind the same, for --users sequences at once (the sum of all). quipu's half is
`quipu bench`.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
# llama.cpp's name and quipu's, by bits.
KV_FORMATS = {32: ("f32", "f32"), 16: ("f16", "bf16"), 8: ("q8_0", "int8"), 4: ("q4_0", "int4")}


def call(arguments):
    done = subprocess.run([str(argument) for argument in arguments], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{arguments[0]} {arguments[1]}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def rates(rows):
    """{(work, depth): tokens per second}, with what both halves report."""
    return {(work, row["depth"]): row[work] for row in rows for work in ("prefill", "decode")}


def run_llama(options):
    out = call([sys.executable, HERE / "llama_half.py", options.model, "--threads", options.threads,
                "--kv", KV_FORMATS[options.kv][0], "--prompt", options.prompt, "--gen", options.gen,
                "--depth", options.depth, "--users", options.users])
    return rates(out["rows"])


def run_quipu(options):
    out = call([options.quipu, "bench", "-m", options.model, "--threads", options.threads,
                "--kv-format", KV_FORMATS[options.kv][1], "--prompt", options.prompt, "--gen",
                options.gen, "--depth", options.depth, "--batch", options.users, "--repeat", 1,
                "--json"])
    return {(row["kind"], row["depth"]): row["tokens_per_s"] for row in out["rows"]}


def spread(values):
    """Half the range, relative to the median, in percent."""
    return 50 * (max(values) - min(values)) / statistics.median(values)


def summarise(runs):
    """{key: (median, spread)} of a list of {key: rate}."""
    return {key: (statistics.median([run[key] for run in runs]), spread([run[key] for run in runs]))
            for key in runs[0]}


def print_table(llama, quipu):
    print("tokens per second, median and half the range")
    print(f"{'work':<24}{'llama.cpp':>16}{'quipu':>16}{'ratio':>8}")
    for key, (theirs, their_spread) in llama.items():
        label = f"{key[0]} at {key[1]}"
        ours, our_spread = quipu[key]
        print(f"{label:<24}{f'{theirs:.1f} ±{their_spread:.0f}%':>16}"
              f"{f'{ours:.1f} ±{our_spread:.0f}%':>16}{ours / theirs:>8.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--quipu", type=pathlib.Path, default=os.environ.get("QUIPU"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--gen", type=int, default=64)
    parser.add_argument("--depth", default="0,4096")
    parser.add_argument("--kv", type=int, default=16, choices=sorted(KV_FORMATS))
    parser.add_argument("--users", type=int, default=1, help="sequences at once")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    llama_runs, quipu_runs = [], []
    for _ in range(options.repeat):
        llama_runs.append(run_llama(options))
        quipu_runs.append(run_quipu(options))
    llama, quipu = summarise(llama_runs), summarise(quipu_runs)
    if options.json:
        rows = [{"work": work, "depth": depth, "llama_cpp": llama[work, depth][0],
                 "quipu": quipu[work, depth][0]} for work, depth in llama]
        print(json.dumps({"model": options.model.name, "threads": options.threads,
                          "kv_bits": options.kv, "users": options.users, "rows": rows}))
    else:
        print_table(llama, quipu)


if __name__ == "__main__":
    main()
