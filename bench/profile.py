#!/usr/bin/env python3
"""Where the time of a prefill or decode step goes, by operation, from Linux perf.

    bench/profile.py MODEL [--build build/release] [--work prefill|decode] [quipu bench flags ...]

Samples `quipu bench` (perf's cpu-clock, which virtual machines have too) and sorts functions by what
they are for. Loading the model and measuring the machine's limits are left out. Prints Markdown.
"""

import argparse
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]

# The first that a symbol matches. None: not part of a step.
OPERATIONS = [
    (None, r"read_words|peak_|clear_page|clear_huge|PackedWeight::create|pack_tile|dequantize|mmap|page_fault|filemap|copy_user"),
    ("products of weights", r"dot_quantised|dot_plain<.*TileF16|multiply_block"),
    ("products of weights: results stored, gate and up joined", r"store_sums|store_block|store_gated|activation<"),
    ("products of weights: activations packed", r"pack_codes|pack_part|pack_f32"),
    ("attention: scores", r"dot_plain|key_scores|multiply_means|interleave_rows|score_int"),
    ("attention: softmax", r"::softmax"),
    ("attention: weighted values", r"weighted_floats|value_codes|value_nibbles|weight_codes|weight_bytes|scale_sums|to_bf16|add_values"),
    ("attention: the rest", r"attend|merge_parts|finish_row|query_codes|query_bytes|pack_bf16|pack_queries|run_attention|rotate_hadamard|plan_"),
    ("keys and values written", r"write_heads|encode_"),
    ("norms, rope, residual, embedding", r"norm_|rope|add_rows|embed|gather"),
    ("waiting for the other thread", r"ThreadPool|barrier|sched_yield|do_syscall|futex"),
    ("sampling, scheduler, bookkeeping", r"arg_max|Scheduler|Engine|KvCache|PrefixIndex|Bench"),
]


def operation_of(symbol):
    for name, pattern in OPERATIONS:
        if re.search(pattern, symbol):
            return name
    return "other"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build/release")
    parser.add_argument("--work", choices=("prefill", "decode"), default="prefill")
    options, flags = parser.parse_known_args()
    work = ["--prompt", "512", "--gen", "0"] if options.work == "prefill" else ["--prompt", "0", "--gen", "128"]
    command = [str(options.build / "quipu"), "bench", "-m", options.model, *work, "--repeat", "3", *flags]
    with tempfile.TemporaryDirectory(prefix="quipu-profile-") as scratch:
        data = f"{scratch}/perf.data"
        try:
            done = subprocess.run(["perf", "record", "-q", "-F", "999", "-e", "cpu-clock", "-o", data, *command],
                                  capture_output=True, text=True)
        except FileNotFoundError:
            raise SystemExit("perf is not installed: Debian's package is linux-perf")
        if done.returncode != 0:
            raise SystemExit(done.stderr.strip())
        report = subprocess.run(["perf", "report", "-i", data, "--stdio", "--no-children", "-F", "sample,symbol"],
                                capture_output=True, text=True, check=True).stdout
    samples = {}
    for line in report.splitlines():
        found = re.match(r"\s*(\d+)\s+\[[.k]\]\s+(.*)", line)
        if found:
            name = operation_of(found[2])
            samples[name] = samples.get(name, 0) + int(found[1])
    samples.pop(None, None)
    total = sum(samples.values())
    if total == 0:
        raise SystemExit("perf recorded no samples of a step")
    print(f"`{' '.join(command[1:])}`\n")
    print("| operation | share of the time |\n|---|---|")
    for name, count in sorted(samples.items(), key=lambda item: -item[1]):
        print(f"| {name} | {100 * count / total:.1f} % |")


if __name__ == "__main__":
    sys.exit(main())
