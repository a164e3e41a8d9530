#!/usr/bin/env python3
"""The whole comparison with llama.cpp as one Markdown table, for bench/results/.

    bench/peers/llama_cpp/run --table [--quick] [--scratch FOLDER]

Writes models of the shape of Qwen3-0.6B with random weights into the scratch folder (2 GB) and runs
ratio.py on each. It takes about a quarter of an hour on two cores; --quick has the short rows only.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[2]

# Weights, arguments of ratio.py.
SHORT = [
    ("q8_0", ["--depth", "0"]),
    ("q4_0", ["--depth", "0"]),
    ("q4_k", ["--depth", "0"]),
    ("q6_k", ["--depth", "0"]),
    ("bf16", ["--depth", "0"]),
    ("f16", ["--depth", "0"]),
    ("built-in", ["--depth", "0,1024"]),
]
LONG = [
    ("q8_0", ["--depth", "4096", "--kv", "16"]),
    ("q8_0", ["--depth", "4096", "--kv", "8"]),
    ("q8_0", ["--depth", "4096", "--kv", "4"]),
    ("q8_0", ["--depth", "512", "--kv", "16", "--users", "16"]),
    ("q8_0", ["--depth", "512", "--kv", "8", "--users", "16"]),
]


def model_of(weights, quipu, scratch):
    if weights == "built-in":
        return ROOT / "models/quipu-stories-q8_0.gguf"
    path = scratch / f"qwen3-0.6b-{weights}.gguf"
    if not path.exists():
        subprocess.run([quipu, "synth", "--arch", "qwen3-0.6b", "--type", weights, "-o", path, "-q"],
                       check=True)
    return path


def measure(weights, arguments, options, scratch):
    command = [sys.executable, HERE / "ratio.py", model_of(weights, options.quipu, scratch),
               "--quipu", options.quipu, "--gen", "32", "--repeat", str(options.repeat), "--json",
               *arguments]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(done.stderr.strip())
    return json.loads(done.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quipu", type=pathlib.Path, default=os.environ.get("QUIPU"))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--scratch", type=pathlib.Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="quipu-bench-") as temporary:
        scratch = options.scratch or pathlib.Path(temporary)
        scratch.mkdir(parents=True, exist_ok=True)
        print("| weights | keys and values | users | work | behind | llama.cpp, tokens/s | quipu | ratio |")
        print("|---|---|---|---|---|---|---|---|")
        for weights, arguments in SHORT + ([] if options.quick else LONG):
            result = measure(weights, arguments, options, scratch)
            for row in result["rows"]:
                print(f"| {weights} | {result['kv_bits']} bits | {result['users']} | {row['work']} "
                      f"| {row['depth']} | {row['llama_cpp']:.1f} | {row['quipu']:.1f} "
                      f"| {row['quipu'] / row['llama_cpp']:.2f} |", flush=True)


if __name__ == "__main__":
    main()
