#!/usr/bin/env python3
"""Measures quipu on this machine and writes one Markdown file, for bench/results/.

    bench/measure.py --out bench/results/DATE-MACHINE.md [--quick] [--stages weights,depth,...] [--scratch FOLDER]

Each stage is a heading, the command that repeats it, and its table. Models of the shape of Qwen3-0.6B
with random weights go to the scratch folder (2 GB). --quick leaves out rows that take minutes each
(16,384 tokens behind, 2,048 of each of 16 users' own). Run it on an idle machine, as threads spin at
barriers.
"""

import argparse
import datetime
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
WEIGHTS = ("q8_0", "q4_0", "q4_k", "q6_k", "bf16", "f16")
INTEGER_WEIGHTS = ("q8_0", "q4_0", "q4_k", "q6_k")
BUILT_IN = "models/quipu-stories-q8_0.gguf"
MULTIPLIED_PARAMETERS = 440_401_920  # of Qwen3-0.6B, in its layers


class Bench:
    def __init__(self, options, scratch):
        self.program = options.build / "quipu"
        self.kernels = options.build / "bench/kernels/quipu_kernel_bench"
        self.scratch = scratch
        self.repeat = options.repeat
        self.quick = options.quick
        self.commands = []

    def model(self, weights):
        path = self.scratch / f"qwen3-0.6b-{weights}.gguf"
        if not path.exists():
            subprocess.run([self.program, "synth", "--arch", "qwen3-0.6b", "--type", weights, "-o", path, "-q"],
                           check=True)
        return path

    def kv_bytes_per_token(self, weights, kv_format):
        done = subprocess.run([self.program, "inspect", "-m", self.model(weights), "--json"], capture_output=True,
                              text=True, check=True)
        return json.loads(done.stdout)["kv"][kv_format]["bytes_per_token"]

    def run(self, model, *arguments):
        """One `quipu bench`; what repeats it is kept for the heading."""
        words = ["bench", "-m", str(model), *[str(word) for word in arguments]]
        if "--repeat" not in words:
            words += ["--repeat", str(self.repeat)]
        shown = " ".join(words).replace(str(self.scratch) + "/", "")
        self.commands.append(f"quipu {shown}")
        done = subprocess.run([self.program, *words, "--json"], capture_output=True, text=True, cwd=ROOT)
        if done.returncode != 0:
            raise SystemExit(f"quipu {shown}: {done.stderr.strip()}")
        return json.loads(done.stdout)

    def take_commands(self):
        commands, self.commands = self.commands, []
        return commands


def rate_of(report, kind, **wanted):
    """The row of a kind with the given values."""
    for row in report["rows"]:
        if row["kind"] == kind and all(row[key] == value for key, value in wanted.items()):
            return row
    raise SystemExit(f"quipu bench printed no {kind} row with {wanted}")


def spread(row):
    seconds = row["seconds"]
    return f"{50 * (seconds['highest'] - seconds['lowest']) / seconds['median']:.0f} %"


def weights_stage(bench):
    yield "## Weights", "512 tokens of prompt, then 64 of output from an empty cache; 16-bit keys and values."
    rows = ["| weights | prefill, tokens/s | of the products' peak | decode, tokens/s | GB/s | of the read bandwidth | ± | load, s |",
            "|---|---|---|---|---|---|---|---|"]
    for weights in WEIGHTS:
        report = bench.run(bench.model(weights), "--prompt", 512, "--gen", 64)
        prefill, decode = rate_of(report, "prefill"), rate_of(report, "decode")
        limits = report["limits"]
        peak = (limits["int8_ops_per_s"] if weights in INTEGER_WEIGHTS else
                limits["bf16_flops"] if weights == "bf16" else limits["f32_flops"])
        ops = 2 * MULTIPLIED_PARAMETERS * prefill["tokens_per_s"]
        rows.append(f"| {weights} | {prefill['tokens_per_s']:.0f} | {100 * ops / peak:.0f} % | "
                    f"{decode['tokens_per_s']:.1f} | {decode['bytes_per_s'] * 1e-9:.1f} | "
                    f"{100 * decode['bytes_per_s'] / decode['read_bandwidth_bytes_per_s']:.0f} % | "
                    f"{spread(decode)} | {report['load_ms'] / 1000:.2f} |")
    yield rows


def depth_stage(bench):
    yield "## Behind long contexts", "Q8_0; prefill of 512 and decode of 32 tokens behind as many as the table says."
    rows = ["| keys and values | behind | prefill, tokens/s | decode, tokens/s | GB/s | of the limit |", "|---|---|---|---|---|---|"]
    long = () if bench.quick else ((16384, 1),)
    for depth, repeat in ((0, bench.repeat), (4096, bench.repeat), *long):
        for kv_format in ("bf16", "int8", "int4"):
            report = bench.run(bench.model("q8_0"), "--prompt", 512, "--gen", 32, "--depth", depth,
                               "--kv-format", kv_format, "--repeat", repeat)
            prefill, decode = rate_of(report, "prefill"), rate_of(report, "decode")
            rows.append(f"| {kv_format} | {depth} | {prefill['tokens_per_s']:.0f} | {decode['tokens_per_s']:.1f} | "
                        f"{decode['bytes_per_s'] * 1e-9:.1f} | {100 * decode['share_of_limit']:.0f} % |")
    yield rows


def slope_stage(bench):
    yield ("## What a token of context costs a decoded token",
           "Q8_0. The bandwidth moves while this runs, so time is given in bytes as well: what plain reads beside the "
           "same row bring in that time. The slope is between neighbours and, in the last column, from the empty cache, "
           "over the bytes of keys and values of one token.")
    rows = ["| keys and values | behind | ms per token | plain reads, GB/s | bytes / token of context | of its keys and values | from empty |",
            "|---|---|---|---|---|---|---|"]
    for kv_format in ("bf16", "int8", "int4"):
        bytes_per_token = bench.kv_bytes_per_token("q8_0", kv_format)
        report = bench.run(bench.model("q8_0"), "--prompt", 0, "--gen", 32, "--depth", "0,1024,2048,4096,8192",
                           "--kv-format", kv_format, "--repeat", 3)
        points = []  # (tokens behind, bytes that plain reads bring in the time of a step)
        slope_from = lambda before, to: (to[1] - before[1]) / (to[0] - before[0])
        for row in report["rows"]:
            seconds, bandwidth = 1 / row["tokens_per_s"], row["read_bandwidth_bytes_per_s"]
            point, cells = (row["depth"], seconds * bandwidth), ["", "", ""]
            if points:
                slope = slope_from(points[-1], point)
                cells = [f"{slope:,.0f}", f"{slope / bytes_per_token:.2f}",
                         f"{slope_from(points[0], point) / bytes_per_token:.2f}"]
            points.append(point)
            rows.append(f"| {kv_format} | {row['depth']} | {1000 * seconds:.2f} | {bandwidth * 1e-9:.1f} | "
                        + " | ".join(cells) + " |")
    yield rows


def users_stage(bench):
    yield "## 16 users", "Q8_0, decode of 32 tokens each; the sum of all, tokens/s."
    rows = ["| keys and values | behind | tokens/s |", "|---|---|---|"]
    for kv_format in ("bf16", "int8", "int4"):
        rows_of_format = [("512 of each user's own", ("--depth", 512)), ("2,048 shared", ("--shared-prefix", 2048))]
        if not bench.quick:
            rows_of_format.append(("2,048 of each user's own", ("--depth", 2048)))
        for label, arguments in rows_of_format:
            report = bench.run(bench.model("q8_0"), "--prompt", 0, "--gen", 32, "--batch", 16, *arguments,
                               "--kv-format", kv_format, "--repeat", 1)
            rows.append(f"| {kv_format} | {label} | {rate_of(report, 'decode')['tokens_per_s']:.0f} |")
    yield rows


def cached_stage(bench):
    yield "## First token of a prompt whose prefix is cached", "Q8_0, 4,097 tokens, 4,096 of them cached or none."
    report = bench.run(bench.model("q8_0"), "--prompt", 1, "--gen", 0, "--depth", 4096, "--kv-cache", "on,off",
                       "--repeat", 1)
    on, off = (rate_of(report, "prefill", kv_cache=value)["seconds"]["median"] for value in ("on", "off"))
    yield ["| cached, ms | computed, ms | ratio |", "|---|---|---|",
           f"| {on * 1000:.1f} | {off * 1000:.0f} | {off / on:.0f} |"]


def cache_stage(bench):
    yield ("## 1,000 tokens of output with the cache and without",
           "The built-in model; without the cache every token computes all before it again "
           "([plot](cache-on-off.svg), written with `--plot`).")
    report = bench.run(BUILT_IN, "--prompt", 0, "--gen", 1000, "--kv-cache", "on,off", "--repeat", 1,
                       "--plot", "bench/results/cache-on-off.svg")
    on, off = (rate_of(report, "decode", kv_cache=value) for value in ("on", "off"))
    seconds = [row["seconds"]["median"] for row in (on, off)]
    at = lambda row, i: sum(row["token_ms"][i - 10:i]) / 10
    yield ["| | with | without |", "|---|---|---|",
           f"| seconds | {seconds[0]:.2f} | {seconds[1]:.2f} ({seconds[1] / seconds[0]:.0f} times as long) |",
           *(f"| ms per token around token {i} | {at(on, i):.3f} | {at(off, i):.2f} |" for i in (100, 500, 1000))]


def threads_stage(bench):
    yield "## Threads", "Prefill of 512 tokens."
    rows = ["| weights | one thread, tokens/s | two | ratio |", "|---|---|---|---|"]
    for weights in ("q8_0", "q4_k"):
        one, two = (rate_of(bench.run(bench.model(weights), "--prompt", 512, "--gen", 0, "--threads", threads),
                            "prefill")["tokens_per_s"] for threads in (1, 2))
        rows.append(f"| {weights} | {one:.0f} | {two:.0f} | {two / one:.2f} |")
    yield rows


def avx2_stage(bench):
    yield "## AVX2 alone", "The same machine, `--isa avx2`: 512 tokens of prompt, 64 of output."
    rows = ["| weights | keys and values | behind | prefill, tokens/s | decode, tokens/s |", "|---|---|---|---|---|"]
    for weights, kv_format, depth in (("q8_0", "bf16", 0), ("q4_0", "bf16", 0), ("q4_k", "bf16", 0), ("q6_k", "bf16", 0),
                                      ("q8_0", "bf16", 4096), ("q8_0", "int8", 4096), ("q8_0", "int4", 4096)):
        report = bench.run(bench.model(weights), "--isa", "avx2", "--prompt", 512, "--gen", 64, "--depth", depth,
                           "--kv-format", kv_format, "--repeat", 1)
        rows.append(f"| {weights} | {kv_format} | {depth} | {rate_of(report, 'prefill')['tokens_per_s']:.0f} | "
                    f"{rate_of(report, 'decode')['tokens_per_s']:.1f} |")
    yield rows


def kernels_stage(bench):
    yield "## Kernels", "Share of the peak of each product, of f32's (attention in prefill), or of a plain read before each round (decode)."
    command = [str(bench.kernels), "--benchmark_min_time=0.2",
               "--benchmark_filter=prefill/(q8_0|q4_0|q4_k|q6_k|bf16|f16)/512/3072|^decode/(q8_0|q4_0|q4_k|q6_k|bf16|f16)/1/|attention_(decode|prefill)"]
    bench.commands.append("quipu_kernel_bench " + " ".join(f"'{word}'" for word in command[1:]))
    done = subprocess.run([*command, "--benchmark_format=json"], capture_output=True, text=True, check=True)
    rows = ["| kernel | ms | share |", "|---|---|---|"]
    for one in json.loads(done.stdout[done.stdout.index("\n{") :])["benchmarks"]:  # behind the limits
        name = re.sub(r"/(real|manual)_time$", "", one["name"])
        rows.append(f"| {name} | {one['real_time']:.1f} | {100 * one['share']:.0f} % |")
    yield rows


STAGES = {"weights": weights_stage, "depth": depth_stage, "slope": slope_stage, "users": users_stage,
          "cached": cached_stage, "cache": cache_stage, "threads": threads_stage, "avx2": avx2_stage,
          "kernels": kernels_stage}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build/release")
    parser.add_argument("--out", type=pathlib.Path, help="default: standard output")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--scratch", type=pathlib.Path)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    options.build = options.build.resolve()
    unknown = set(options.stages.split(",")) - set(STAGES)
    if unknown:
        parser.error(f"unknown stages {', '.join(sorted(unknown))}; there are {', '.join(STAGES)}")
    out = options.out.open("w") if options.out else sys.stdout
    doctor = subprocess.run([options.build / "quipu", "doctor"], capture_output=True, text=True, check=True)
    with tempfile.TemporaryDirectory(prefix="quipu-measure-") as temporary:
        machine = "\n".join(line for line in doctor.stdout.splitlines() if not line.startswith("configuration"))
        bench = Bench(options, (options.scratch or pathlib.Path(temporary)).resolve())
        bench.scratch.mkdir(parents=True, exist_ok=True)
        print(f"# Measured on {datetime.date.today():%d %B %Y}\n\n`bench/measure.py`; {os.cpu_count()} cores. "
              f"`quipu doctor`:\n\n```\n{machine}\n```", file=out)
        for name in options.stages.split(","):
            stage = STAGES[name](bench)
            heading, text = next(stage)
            rows = next(stage)
            commands = "\n".join(bench.take_commands())
            print(f"\n{heading}\n\n{text}\n\n```\n{commands}\n```\n\n" + "\n".join(rows), file=out, flush=True)


if __name__ == "__main__":
    main()
