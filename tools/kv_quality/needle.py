"""A needle test of the KV formats: facts, nearly a whole context of other text, a question about one.

    python3 tools/kv_quality/needle.py --json docs/kv_needle.json

Needs a built quipu and a model that looks things up, as the built-in one does (models/README.md). The
answer counts when greedy decoding gives exactly the word of the fact. Facts stand in the words that the
model was trained with; the text between is the project's perplexity sample, which it never saw.
"""

import argparse
import json
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
FORMATS = ["f32", "bf16", "int8", "int4", "int4,first=int8,last=int8"]
FACTS = [
    {"Lily": "lemon", "Tom": "river", "Max": "window", "Sam": "garden"},
    {"Anna": "kettle", "Ben": "castle", "Mia": "rocket", "Tim": "feather"},
    {"Jack": "bridge", "Emma": "monkey", "Leo": "ribbon", "Lucy": "tower"},
]
FILLER_BYTES = 6400


def answer(options, kv_format, prompt):
    line = [options.quipu, "run", "-m", options.model, "-n", "3", "--temp", "0", "--json", "--quiet",
            "--threads", str(options.threads), "--kv-format", kv_format, prompt]
    done = subprocess.run(list(map(str, line)), capture_output=True)
    if done.returncode != 0:
        raise SystemExit(done.stderr.decode())
    return json.loads(done.stdout)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--quipu", default=ROOT / "build/release/quipu", type=pathlib.Path)
    p.add_argument("--model", default=ROOT / "models/quipu-stories-q8_0.gguf", type=pathlib.Path)
    p.add_argument("--text", default=ROOT / "models/perplexity-sample.txt", type=pathlib.Path)
    p.add_argument("--fillers", type=int, default=5, help="different texts in between, for each list of facts")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--json", type=pathlib.Path)
    options = p.parse_args()
    sample = options.text.read_text(encoding="utf-8")
    rows = []
    for kv_format in FORMATS:
        right = asked = tokens = 0
        for i in range(options.fillers):
            filler = sample[i * FILLER_BYTES:(i + 1) * FILLER_BYTES].rsplit("\n", 1)[0]
            for facts in FACTS:
                lines = "".join(f"The secret word of {k} is {v}.\n" for k, v in facts.items())
                for name, word in facts.items():
                    question = f"Question: What is the secret word of {name}?\nAnswer: The secret word of {name} is"
                    out = answer(options, kv_format, f"Facts:\n{lines}\n{filler}\n\n{question}")
                    asked += 1
                    tokens += out["usage"]["prompt_tokens"]
                    right += out["text"].startswith(f" {word}.")
        rows.append({"format": kv_format, "right": right, "asked": asked, "prompt_tokens_mean": round(tokens / asked)})
        print(rows[-1], flush=True)
    if options.json:
        options.json.write_text(json.dumps({"model": options.model.name, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
