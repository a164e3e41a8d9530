#!/usr/bin/env python3
"""What guesses and the pace of prompts do to the time of output tokens, on a model as large as real ones.

    QUIPU_PROGRAM=build/release/quipu tests/load/decode.py [--scratch FOLDER] [--rounds N] [--parts drafts,forced,stretch]

The model has the shape of Qwen3-0.6B, random weights in Q8_0, and the built-in model's tokenizer (`quipu synth` makes none):
what it says means nothing, how long it takes does.

  drafts   tokens/s of one output with --draft-max 0 and 8, where the output repeats itself (greedy, and a choice
           that a bias holds in a circle) and where it does not (temperature 1); the built-in model quoting its prompt
  forced   steps for an answer by a JSON schema with --draft-forced 0 and 8, of the built-in model and of the large one
  stretch  times between two tokens of four streams, alone and while a long prompt is computed, with --decode-stretch 2
           (the default) and 0

Servers that are compared are asked in turn; medians. Not a part of the test suite: it measures time.
"""

import argparse
import json
import pathlib
import random
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "server"))
import quipu_server  # noqa: E402

BUILT_IN = quipu_server.MODEL
SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes of GGUF's types
SCHEMA = {
    "type": "object", "required": ["species", "favourite_food", "number_of_legs", "lives_on_the_farm", "home"],
    "properties": {
        "species": {"enum": ["goat", "hen", "lion"]},
        "favourite_food": {"type": "string", "maxLength": 12},
        "number_of_legs": {"type": "integer", "minimum": 0, "maximum": 4},
        "lives_on_the_farm": {"type": "boolean"},
        "home": {"type": "object", "required": ["village", "country"], "properties": {
            "village": {"type": "string", "maxLength": 8}, "country": {"enum": ["Peru", "Bolivia"]}}},
    },
}


class Gguf:
    """As much of a GGUF file as copying metadata needs."""

    def __init__(self, path):
        self.data = path.read_bytes()
        magic, version, self.tensors, self.pairs_count = struct.unpack_from("<4sIQQ", self.data)
        assert magic == b"GGUF" and version == 3, path
        at, self.pairs = 24, {}
        for _ in range(self.pairs_count):
            begin = at
            name, at = self.string(at)
            kind, = struct.unpack_from("<I", self.data, at)
            at = self.skip(kind, at + 4)
            self.pairs[name] = self.data[begin:at]
        self.pairs_end = at
        for _ in range(self.tensors):
            _, at = self.string(at)
            dimensions, = struct.unpack_from("<I", self.data, at)
            at += 4 + 8 * dimensions + 12
        self.infos_end = at

    def string(self, at):
        size, = struct.unpack_from("<Q", self.data, at)
        return self.data[at + 8:at + 8 + size].decode(), at + 8 + size

    def skip(self, kind, at):
        if kind == 8:
            return self.string(at)[1]
        if kind != 9:
            return at + SCALARS[kind]
        inner, count = struct.unpack_from("<IQ", self.data, at)
        at += 12
        if inner in SCALARS:
            return at + SCALARS[inner] * count
        for _ in range(count):
            at = self.skip(inner, at)
        return at


def with_tokenizer(model, donor, out, alignment=32):
    """The model's file with the donor's tokenizer."""
    a, b = Gguf(model), Gguf(donor)
    pairs = {name: raw for name, raw in a.pairs.items() if not name.startswith("tokenizer.")}
    pairs |= {name: raw for name, raw in b.pairs.items() if name.startswith("tokenizer.")}
    head = struct.pack("<4sIQQ", b"GGUF", 3, a.tensors, len(pairs)) + b"".join(pairs.values())
    head += a.data[a.pairs_end:a.infos_end]
    tensors_begin = -(-a.infos_end // alignment) * alignment
    out.write_bytes(head + bytes(-len(head) % alignment) + a.data[tensors_begin:])


def large_model(scratch):
    path = scratch / "qwen3-0.6b-q8_0-tokenizer.gguf"
    if not path.exists():
        plain = scratch / "qwen3-0.6b-q8_0.gguf"
        if not plain.exists():
            subprocess.run([quipu_server.PROGRAM, "synth", "--arch", "qwen3-0.6b", "--type", "q8_0", "-o", plain, "-q"],
                           check=True)
        with_tokenizer(plain, BUILT_IN, path)
    return path


def serve(model, *flags):
    context = "2048" if model == BUILT_IN else "8192"
    return quipu_server.Server("--kv-memory", "1GiB", "--ctx-size", context, *flags, model=model)


def row(*cells):
    print("  " + "".join(f"{cell:>{26 if i == 0 else 14}}" for i, cell in enumerate(cells)), flush=True)


def complete(server, **fields):
    reply = server.post("/completion", {"cache_prompt": True, "seed": 1, **fields})
    return reply["timings"], reply["content"]


def measure_drafts(model, rounds):
    draw = random.Random(7)
    circle = [draw.randrange(300, 5000) for _ in range(12)]
    text = "Once upon a time a goat named Pip lived near a lake with a hen. "
    cases = [("large, greedy", model, {"prompt": circle * 12, "n_predict": 160, "temperature": 0, "ignore_eos": True}),
             ("large, one of 8 tokens", model, {"prompt": circle * 12, "n_predict": 160, "temperature": 0, "ignore_eos": True,
                                                "logit_bias": [[token, 1000] for token in circle[:8]]}),
             ("large, temperature 1", model, {"prompt": circle * 12, "n_predict": 160, "temperature": 1, "top_k": 0, "top_p": 1,
                                              "min_p": 0, "ignore_eos": True}),
             ("built-in, quotes", BUILT_IN, {"prompt": text * 20, "n_predict": 300, "temperature": 0, "ignore_eos": True}),
             ("built-in, tells", BUILT_IN, {"prompt": "Once upon a time", "n_predict": 300, "temperature": 0.8,
                                            "ignore_eos": True})]
    row("drafts: tokens/s", "none", "8 at most", "ratio", "guessed", "came true")
    for file in (model, BUILT_IN):
        servers = [serve(file, "--draft-max", "0"), serve(file, "--draft-max", "8")]
        try:
            for name, of, fields in cases:
                if of != file:
                    continue
                rates, contents, timings = ([], []), set(), None
                for _ in range(rounds):
                    for i, server in enumerate(servers):
                        timings, content = complete(server, **fields)
                        rates[i].append(timings["predicted_per_second"])
                        contents.add(content)
                assert len(contents) == 1, "guesses changed the text"
                plain, guessed = map(statistics.median, rates)
                row(name, f"{plain:.1f}", f"{guessed:.1f}", f"{guessed / plain:.2f}", timings.get("draft_n", 0),
                    timings.get("draft_n_accepted", 0))
        finally:
            for server in servers:
                server.stop()


def measure_forced(model, rounds):
    row("answers by a schema", "steps, none", "steps, 8", "tokens", "ms, none", "ms, 8", "came true")
    for name, file in (("built-in", BUILT_IN), ("large", model)):
        servers = [serve(file, "--draft-forced", "0"), serve(file, "--draft-forced", "8")]
        try:
            for temperature in (0, 1):
                steps, times, tokens, true = ([], []), ([], []), [], []
                for seed in range(rounds):
                    contents = set()
                    for i, server in enumerate(servers):
                        before = server.metric("quipu_steps_total"), server.metric("quipu_spec_decode_num_forced_accepted_tokens_total")
                        timings, content = complete(server, prompt="Once upon a time", n_predict=400, seed=seed,
                                                    temperature=temperature, json_schema=SCHEMA)
                        contents.add(content)
                        steps[i].append(server.metric("quipu_steps_total") - before[0])
                        times[i].append(timings["predicted_ms"])
                        tokens.append(timings["predicted_n"])
                        if i == 1:
                            true.append(server.metric("quipu_spec_decode_num_forced_accepted_tokens_total") - before[1])
                    assert len(contents) == 1, "guesses changed the text"
                    json.loads(contents.pop())
                row(f"{name}, temperature {temperature}", *(f"{statistics.median(of):.0f}" for of in (*steps, tokens, *times, true)))
        finally:
            for server in servers:
                server.stop()


def stream_times(server, prompt, count, into, started):
    """Arrival times of a stream's tokens."""
    response = server.send("POST", "/completion", {"prompt": prompt, "n_predict": count, "stream": True, "ignore_eos": True,
                                                    "temperature": 1, "seed": prompt[0], "return_tokens": True})
    for line in response:
        if line.startswith(b"data: "):
            into.append(time.perf_counter())
            started.set()


def measure_stretch(model, rounds):
    row("4 streams, a prompt", "idle ms", "beside ms", "ratio", "99 % beside", "tokens/s of it")
    draw = random.Random(9)
    names = ("2", "0")
    servers = [serve(model, "--decode-stretch", name) for name in names]
    results = {name: ([], [], [], [], []) for name in names}
    try:
        for _ in range(rounds):
            for name, server in zip(names, servers):
                arrivals, threads = [[] for _ in range(4)], []
                for into in arrivals:
                    started = threading.Event()
                    prompt = [draw.randrange(300, 5000) for _ in range(64)]
                    threads.append(threading.Thread(target=stream_times, args=(server, prompt, 500, into, started)))
                    threads[-1].start()
                    started.wait()
                time.sleep(3)
                begin = time.perf_counter()
                long = [draw.randrange(300, 5000) for _ in range(3000)]
                timings, _ = complete(server, prompt=long, n_predict=1, cache_prompt=False)
                end = time.perf_counter()
                for thread in threads:
                    thread.join()
                idle, beside = [], []
                for times in arrivals:
                    for a, b in zip(times[8:], times[9:]):
                        # Wholly before, or wholly beside the prompt.
                        (idle if b < begin else beside if a > begin and b < end else []).append((b - a) * 1000)
                into = results[name]
                into[0].append(statistics.median(idle))
                into[1].append(statistics.median(beside))
                into[2].append(statistics.median(beside) / statistics.median(idle))
                into[3].append(statistics.quantiles(beside, n=100)[98])
                into[4].append(len(long) / (end - begin))
    finally:
        for server in servers:
            server.stop()
    for name in names:
        row(f"--decode-stretch {name}", *(f"{statistics.median(of):.{2 if i == 2 else 1}f}" for i, of in enumerate(results[name])))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scratch", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--parts", default="drafts,forced,stretch")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="quipu-decode-") as folder:
        model = large_model(options.scratch or pathlib.Path(folder))
        for part in options.parts.split(","):
            {"drafts": measure_drafts, "forced": measure_forced, "stretch": measure_stretch}[part](model, options.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
