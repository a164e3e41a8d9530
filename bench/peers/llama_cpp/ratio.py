#!/usr/bin/env python3
"""llama.cpp and quipu in turn (A B A B ...) on one file: tokens per second and their ratio.

    bench/peers/llama_cpp/run MODEL [--depth 0,4096] [--kv 16|8] [--repeat 3] [--json]

Both engines get the same file, the same threads and the same number of tokens; the median of the
repetitions counts and the spread is printed. quipu's figures are the timings that
`quipu run --json` reports for the same token counts; prefill behind `depth` tokens is measured for
llama.cpp only until `quipu bench` can.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

from llama_half import token_list

HERE = pathlib.Path(__file__).resolve().parent
KV_FORMATS = {16: ("f16", "bf16"), 32: ("f32", "f32"), 8: ("q8_0", "int8")}  # llama.cpp, quipu


def call(arguments):
    done = subprocess.run([str(argument) for argument in arguments], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{arguments[0]} {arguments[1]}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def run_llama(options, depths):
    """{(work, depth): tokens per second}."""
    out = call([sys.executable, HERE / "llama_half.py", options.model, "--threads", options.threads,
                "--kv", KV_FORMATS[options.kv][0], "--prompt", options.prompt, "--gen", options.gen,
                "--depth", ",".join(map(str, depths))])
    works = ("prefill", "decode")
    return {(work, row["depth"]): row[work] for row in out["rows"] for work in works}


def quipu_timings(options, prompt_tokens, gen):
    tokens = ",".join(map(str, token_list(prompt_tokens, options.vocab_max)))
    return call([options.quipu, "run", "-m", options.model, "--tokens", tokens, "-n", gen,
                 "--temperature", 0, "--ignore-eos", "--threads", options.threads, "--kv-format",
                 KV_FORMATS[options.kv][1], "--json", "--quiet"])["timings"]


def run_quipu(options, depths):
    """{(work, depth): tokens per second}. The first token of `run` belongs to prefill."""
    rates = {("prefill", 0): quipu_timings(options, options.prompt, 1)["prefill_tokens_per_s"]}
    for depth in depths:
        timings = quipu_timings(options, max(depth, 1), options.gen + 1)
        rates["decode", depth] = timings["decode_tokens_per_s"]
    return rates


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
        ours, our_spread = quipu.get(key, (None, None))
        ours_text = f"{ours:.1f} ±{our_spread:.0f}%" if ours else ""
        ratio = f"{ours / theirs:.2f}" if ours else ""
        print(f"{label:<24}{f'{theirs:.1f} ±{their_spread:.0f}%':>16}{ours_text:>16}{ratio:>8}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--quipu", type=pathlib.Path, default=os.environ.get("QUIPU"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--gen", type=int, default=64)
    parser.add_argument("--depth", default="0,4096")
    parser.add_argument("--kv", type=int, default=16, choices=sorted(KV_FORMATS))
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--vocab-max", type=int, default=500, help="token ids stay below this")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    depths = [int(depth) for depth in options.depth.split(",")]
    llama_runs, quipu_runs = [], []
    for _ in range(options.repeat):
        llama_runs.append(run_llama(options, depths))
        quipu_runs.append(run_quipu(options, depths))
    llama, quipu = summarise(llama_runs), summarise(quipu_runs)
    if options.json:
        rows = [{"work": work, "depth": depth, "llama_cpp": llama[work, depth][0],
                 "quipu": quipu.get((work, depth), (None,))[0]} for work, depth in llama]
        print(json.dumps({"model": options.model.name, "threads": options.threads,
                          "kv_bits": options.kv, "rows": rows}))
    else:
        print_table(llama, quipu)


if __name__ == "__main__":
    main()
