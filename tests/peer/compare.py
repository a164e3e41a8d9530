#!/usr/bin/env python3
"""The same GGUF file in llama.cpp and in quipu: greedy tokens and logits.

    tests/peer/run                 everything, a table, and exit code 1 when a bar is missed
    tests/peer/run --only gpt2     models whose name contains this
    tests/peer/run -o table.md     the table as Markdown

Bars: on F32 and F16 the greedy tokens of 64 steps are equal; for block types the normalised mean
squared error (NMSE) of the logits is at most 1e-3.

llama.cpp continues the prompt greedily, one token at a time, with an F32 cache; quipu then computes
the logits of every position of prompt and continuation. Tokens are equal for all steps exactly when
quipu's best token is llama.cpp's at each of these positions. `quipu run` is compared too.

Where the exact answer can be had (the weights dequantised to F32, run by llama.cpp), the table says
how far each engine is from it: an integer dot product rounds activations, and two engines that
round differently are further from each other than each is from the truth. A row beyond the bar in
which quipu is within it of the exact answer, and nearer to it than llama.cpp, is marked "over" and
counted apart: there the bar measures llama.cpp's rounding (one scale for 256 activations).
"""

import argparse
import array
import base64
import collections
import itertools
import json
import os
import pathlib
import subprocess
import sys

import gguf_v3
import llama_cpp

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests/golden/models"
SHARED = ROOT.parent / "shared/data"
STEPS = 64
NMSE_MAX = 1e-3
PLAIN = ("f32", "f16")
BUILT_IN = ROOT / "models/quipu-stories-small-bf16.gguf"  # trained, rows of 256 and 512
BUILT_IN_TEXT = "Once upon a time, there was a little fox"
BLOCK_TYPES = ("q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q4_k", "q5_k", "q6_k")
STORIES_PROMPT = [1, 403, 407, 261, 378]  # "Once upon a time"
SHAPES = [f"tiny-{name}" for name in ("llama", "qwen2", "qwen3", "gpt2", "starcoder", "gemma2",
                                   "gemma3", "phi3")]
# Golden models that llama.cpp runs otherwise than their configuration says: without the window of
# llama, qwen2 and phi3 files, and with the head's size in place of gemma2's query_pre_attn_scalar.
BEYOND_LLAMA_CPP = ("mistral-window", "qwen2-window-upper-layer", "phi3-short-factors", "gemma2")
SYNTH_PROMPT = [(17 + 29 * i * i) % 321 for i in range(40)]  # their vocabulary is 321


class Quipu:
    """The quipu program."""

    def __init__(self, program, threads):
        self.program, self.threads = program, threads

    def call(self, *arguments):
        done = subprocess.run([str(self.program), *map(str, arguments)], capture_output=True,
                              text=True)
        if done.returncode != 0:
            raise RuntimeError(f"quipu {arguments[0]}: {done.stderr.strip() or done.returncode}")
        return done.stdout

    def quantize(self, source, target, kind):
        if not target.exists():
            self.call("quantize", source, target, "--type", kind, "--quiet")

    def tokenize(self, model, text):
        done = subprocess.run([str(self.program), "tokenize", "-m", str(model), "--json"],
                              input=text, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)["ids"]

    def synthesise(self, shape, target):
        if not target.exists():
            self.call("synth", "--arch", shape, "--type", "f32", "-o", target, "--quiet")

    def logits(self, model, tokens):
        """Logits of every position. SHAPE: [len(tokens)] rows of [vocabulary]."""
        out = json.loads(self.call("logits", "-m", model, "--tokens", ",".join(map(str, tokens)),
                                   "--all", "--threads", self.threads, "--kv-format", "f32",
                                   "--json"))
        flat = array.array("f")
        flat.frombytes(base64.b64decode(out["logits_b64"]))
        rows, columns = out["shape"]
        return [flat[i * columns:(i + 1) * columns] for i in range(rows)]

    def greedy(self, model, tokens, steps):
        """The token ids that `quipu run` generates."""
        out = json.loads(self.call("run", "-m", model, "--tokens", ",".join(map(str, tokens)),
                                   "-n", steps, "--temperature", 0, "--ignore-eos", "--threads",
                                   self.threads, "--kv-format", "f32", "--json"))
        return out["token_ids"]


def arg_max(row):
    return max(range(len(row)), key=row.__getitem__)


def nmse(rows, expected):
    """sum (a - b)^2 / sum b^2 over all rows."""
    difference = total = 0.0
    for row, other in zip(rows, expected, strict=True):
        difference += sum((a - b) * (a - b) for a, b in zip(row, other, strict=True))
        total += sum(b * b for b in other)
    return difference / total


class Peer:
    """llama.cpp on one file, at its most exact: an F32 cache and no flash attention, whose CPU form
    rounds to F16 on the way."""

    def __init__(self, llama, path, threads):
        self.session = llama_cpp.Session(llama, path, threads=threads, kv="f32", context=1024,
                                         flash=0)

    def continue_greedily(self, prompt, steps):
        """(tokens of prompt and continuation, logits of every position but the last token's)."""
        rows = self.session.feed(prompt, every=True)
        tokens = list(prompt)
        for _ in range(steps):
            tokens.append(arg_max(rows[-1]))
            if len(tokens) < len(prompt) + steps:
                rows.append(self.session.feed(tokens[-1:]))
        return tokens, rows

    def logits(self, tokens):
        return self.session.feed(tokens, every=True)

    def close(self):
        self.session.close()


class Comparison:
    """One row of the table."""

    def __init__(self, name, kind):
        self.name, self.kind = name, kind
        self.equal_steps = self.margin = self.run_equal = None
        self.nmse = self.quipu_exact = self.peer_exact = None
        self.error = None

    def note_greedy(self, rows, expected, tokens, prompt_tokens):
        """How many steps in a row have the same best token; at the first other one, how near the
        tie was (llama.cpp's best logit less its second)."""
        for step in range(STEPS):
            at = prompt_tokens - 1 + step
            if arg_max(rows[at]) != tokens[at + 1]:
                best = sorted(expected[at])
                self.equal_steps, self.margin = step, best[-1] - best[-2]
                return
        self.equal_steps = STEPS

    def verdict(self):
        """"ok", "over" or "FAIL"."""
        if self.error:
            return "FAIL"
        if self.kind in PLAIN:
            return "ok" if self.equal_steps == STEPS and self.run_equal == STEPS else "FAIL"
        if self.nmse <= NMSE_MAX:
            return "ok"
        return "over" if self.quipu_exact <= min(NMSE_MAX, self.peer_exact) else "FAIL"

    def cells(self):
        def number(value):
            return "" if value is None else f"{value:.1e}"
        if self.error:
            return [self.name, self.kind, self.error.splitlines()[0][:60], "", "", "", "", "FAIL"]
        steps = f"{self.equal_steps}/{STEPS}"
        if self.equal_steps < STEPS:
            steps += f" (margin {self.margin:.3f})"
        run = "" if self.run_equal is None else f"{self.run_equal}/{STEPS}"
        return [self.name, self.kind, steps, run, number(self.nmse), number(self.quipu_exact),
                number(self.peer_exact), self.verdict()]


HEADER = ["model", "weights", "greedy steps equal", "`quipu run` equal", "NMSE",
          "quipu to exact", "llama.cpp to exact", "bar"]


class Case:
    """A model to compare: `source` converted to `kind` as `target`, or used as it is."""

    def __init__(self, name, kind, source, prompt, target=None):
        self.name, self.kind, self.source, self.prompt = name, kind, source, prompt
        self.target = target or source

    def prepare(self, quipu, work):
        """Makes the file, and for block types the same weights in F32; returns the latter."""
        if self.name in SHAPES:
            quipu.synthesise(self.name, self.source)
        if self.target != self.source:
            quipu.quantize(self.source, self.target, self.kind)
        if self.kind in PLAIN:
            return None
        stem = self.target.parent.name if self.target.stem == "model" else self.target.stem
        exact = work / f"{stem}-exact.gguf"
        quipu.quantize(self.target, exact, "f32")
        return exact


def compare(quipu, llama, work, case):
    """Runs both engines on one file."""
    result = Comparison(case.name, case.kind)
    try:
        exact_path = case.prepare(quipu, work)
        peer = Peer(llama, case.target, quipu.threads)
        tokens, expected = peer.continue_greedily(case.prompt, STEPS)
        peer.close()
        rows = quipu.logits(case.target, tokens[:-1])
        result.note_greedy(rows, expected, tokens, len(case.prompt))
        result.nmse = nmse(rows, expected)
        if case.kind in PLAIN:
            generated = quipu.greedy(case.target, case.prompt, STEPS)
            same = [a == b for a, b in zip(generated, tokens[len(case.prompt):])]
            result.run_equal = same.index(False) if False in same else len(same)
        if exact_path:
            exact_peer = Peer(llama, exact_path, quipu.threads)
            exact = exact_peer.logits(tokens[:-1])
            exact_peer.close()
            result.quipu_exact, result.peer_exact = nmse(rows, exact), nmse(expected, exact)
    except (RuntimeError, ValueError, KeyError) as error:
        result.error = str(error)
    return result


def golden_prompt(folder):
    tokens = json.loads((folder / "golden.json").read_text())["tokens"]
    if (folder / "model.gguf").exists() and folder.name.startswith(("gpt2", "starcoder")):
        return tokens[:1]  # 64 learned positions hold prompt and continuation
    return tokens[:40]


def stories_source(work):
    """The trained model in version 3 of GGUF, or None."""
    original = SHARED / "weights/stories260K/tinyllamas-stories-260k-f32.gguf"
    if not original.exists():
        print("skipping stories260K: ../shared is not there", file=sys.stderr)
        return None
    converted = work / "stories260K-f32.gguf"
    gguf_v3.convert(original, converted)
    return converted


def plain_cases(quipu, work):
    """Every architecture and variant in F32 and F16."""
    for kind in PLAIN if BUILT_IN.exists() else ():
        yield Case("built-in (trained)", kind, BUILT_IN, quipu.tokenize(BUILT_IN, BUILT_IN_TEXT),
                   work / f"built-in-{kind}.gguf")
    stories = stories_source(work)
    if stories:
        yield Case("stories260K (trained)", "f32", stories, STORIES_PROMPT)
        yield Case("stories260K (trained)", "f16", stories, STORIES_PROMPT,
                   work / "stories260K-f16.gguf")
    for folder in sorted(GOLDEN.iterdir()):
        if (folder / "config.json").exists() and folder.name not in BEYOND_LLAMA_CPP:
            for kind in PLAIN:
                yield Case(folder.name, kind, folder, golden_prompt(folder),
                           work / f"{folder.name}-{kind}.gguf")
    for shape in SHAPES:
        source = work / f"{shape}-f32.gguf"
        yield Case(shape, "f32", source, SYNTH_PROMPT)
        yield Case(shape, "f16", source, SYNTH_PROMPT, work / f"{shape}-f16.gguf")


def block_cases(quipu, work):
    """Every block type.

    A row that a k-quant's 256 does not divide is stored as Q8_0, so k-quants are compared on wide
    models only: synthetic ones, and the golden GGUF files.
    """
    for kind in BLOCK_TYPES if BUILT_IN.exists() else ():
        yield Case("built-in (trained)", kind, BUILT_IN, quipu.tokenize(BUILT_IN, BUILT_IN_TEXT),
                   work / f"built-in-{kind}.gguf")
    stories = stories_source(work)
    for kind in BLOCK_TYPES:
        if stories and not kind.endswith("_k"):
            yield Case("stories260K (trained)", kind, stories, STORIES_PROMPT,
                       work / f"stories260K-{kind}.gguf")
    for shape in SHAPES:
        for kind in BLOCK_TYPES:
            yield Case(shape, kind, work / f"{shape}-f32.gguf", SYNTH_PROMPT,
                       work / f"{shape}-{kind}.gguf")
    for folder in sorted(GOLDEN.iterdir()):
        if (folder / "model.gguf").exists():
            kind = "mixed" if folder.name == "llama-every-type" else folder.name.rsplit("-", 1)[1]
            yield Case(folder.name, kind, folder / "model.gguf", golden_prompt(folder))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quipu", type=pathlib.Path, default=os.environ.get("QUIPU"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "build/peer")
    parser.add_argument("--only", default="")
    parser.add_argument("-o", "--output", type=pathlib.Path)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    quipu, llama = Quipu(options.quipu, options.threads), llama_cpp.LlamaCpp()
    results = []
    form = "{:<28}{:<8}{:<24}{:<12}{:<10}{:<10}{:<10}{}"
    print(form.format("model", "weights", "greedy equal", "run equal", "NMSE", "quipu~", "llama~",
                      "bar"))
    for case in itertools.chain(plain_cases(quipu, options.work),
                                block_cases(quipu, options.work)):
        if options.only in case.name:
            results.append(compare(quipu, llama, options.work, case))
            print(form.format(*results[-1].cells()), flush=True)
    if options.output:
        lines = ["| " + " | ".join(HEADER) + " |", "|" + "---|" * len(HEADER)]
        lines += ["| " + " | ".join(result.cells()) + " |" for result in results]
        options.output.write_text("\n".join(lines) + "\n")
    verdicts = collections.Counter(result.verdict() for result in results)
    print(f"{verdicts['ok']} of {len(results)} within the bars, {verdicts['over']} over by "
          f"llama.cpp's rounding, {verdicts['FAIL']} failed")
    return 1 if verdicts["FAIL"] or not results else 0


if __name__ == "__main__":
    sys.exit(main())
