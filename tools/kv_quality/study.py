"""What the KV formats cost in quality, measured with the engine itself: one command, for docs/KV_FORMATS.md.

    python3 tools/kv_quality/study.py --json docs/kv_quality.json --plot docs/kv_quality.svg

Needs a built quipu and nothing else. For each model and format:

- perplexity over windows of the model's whole context, against f32 keys and values;
- 256 greedy tokens after a prompt: equal to those with f32, or where they part first;
- retrieval over the whole context: a passage of half the context, then the same passage again. What
  of the second half the model predicts better than it predicted the first is what it looks up in its
  cache. A needle test asks a model to say what it looked up; models as small as these cannot, but
  their perplexity of the repeated half shows the looking up all the same.

`--ablation` takes the JSON of tools/kv_quality/ablation.py into the plot.
"""

import argparse
import json
import math
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
STORIES = ROOT.parent / "shared/data/weights/stories260K/tinyllamas-stories-260k-f32.gguf"
STORIES_TEXT = ROOT.parent / "shared/data/text/stories/tinystories/data.txt"  # what it was trained on
STORIES_BYTES = 90_000
FORMATS = ["f32", "bf16", "int8", "int4", "int4,first=int8,last=int8"]
PROMPT = "Once upon a time"
COLOURS = ["#1f6f8b", "#c8553d"]


class Quipu:
    def __init__(self, program, threads):
        self.program, self.threads = program, threads

    def json(self, command, *arguments, stdin=None):
        line = [self.program, command, *map(str, arguments), "--json"]
        if command != "tokenize" and command != "inspect":
            line += ["--threads", str(self.threads), "--quiet"]
        done = subprocess.run(line, capture_output=True, input=stdin)
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(map(str, line))}\n{done.stderr.decode()}")
        return json.loads(done.stdout)


def text_of(model, options):
    """The bytes to score: of the kind that the model was trained on."""
    if model.resolve() != STORIES.resolve() or not STORIES_TEXT.exists():
        return options.text.read_bytes()
    stories = STORIES_TEXT.read_bytes()[:4 * STORIES_BYTES].split(b"<|endoftext|>")
    return b"\n".join(story.strip() for story in stories)[:STORIES_BYTES]


def measure(quipu, model, options):
    scratch, windows = options.scratch, options.windows
    text = scratch / "kv_quality.txt"
    text.write_bytes(text_of(model, options))
    context = quipu.json("inspect", "-m", model)["metadata"]
    context = next(v for k, v in context.items() if k.endswith(".context_length"))
    ids = quipu.json("tokenize", "-m", model, "--no-special", stdin=text.read_bytes())["ids"]
    half = context // 2
    repeats = scratch / "repeated.txt"
    passages = [ids[i * half:(i + 1) * half] for i in range(min(4, len(ids) // half))]
    repeats.write_text(" ".join(str(t) for passage in passages for t in passage + passage))
    rows = []
    for name in FORMATS:
        inspected = quipu.json("inspect", "-m", model, "--kv-format", name)["kv"][name]
        common = ["-m", model, "--kv-format", name]
        ppl = quipu.json("perplexity", *common, "-f", text, "--no-bos", "--windows", windows)
        # By position, in sixteenths of the window: the second half is the repeated passage.
        again = quipu.json("perplexity", *common, "--tokens-file", repeats, "--no-bos",
                           "--window", 2 * half)["perplexity_by_sixteenth"]
        logs = [math.log(value) for value in again]
        tokens = quipu.json("run", *common, "--temp", 0, "-n", 256, PROMPT)["token_ids"]
        rows.append({"format": name, "bytes_per_token": inspected["bytes_per_token"],
                     "perplexity": ppl["perplexity"], "scored_tokens": ppl["scored_tokens"],
                     "first_half": math.exp(sum(logs[:8]) / 8),
                     "repeated_half": math.exp(sum(logs[8:]) / 8), "tokens": tokens})
        print(f"{model.name:34} {name:26} {ppl['perplexity']:9.4f}", flush=True)
    base = rows[0]
    for row in rows:
        row["percent"] = 100 * (row["perplexity"] / base["perplexity"] - 1)
        row["repeated_percent"] = 100 * (row["repeated_half"] / base["repeated_half"] - 1)
        tokens = row.pop("tokens")
        if row is base:
            greedy = tokens
        parts = [i for i, (a, b) in enumerate(zip(tokens, greedy)) if a != b]
        row["greedy_tokens"], row["first_divergence"] = len(tokens), parts[0] if parts else None
    return {"model": model.name, "context": context, "rows": rows}


def markdown(study):
    lines = [f"### `{study['model']}`, windows of {study['context']} tokens", "",
             "| format | bytes per token | perplexity | against f32 | repeated half | against f32 | "
             "256 greedy tokens |", "|---|---|---|---|---|---|---|"]
    for row in study["rows"]:
        parts = row["first_divergence"]
        greedy = "equal" if parts is None else f"part at token {parts}"
        lines.append(f"| `{row['format']}` | {row['bytes_per_token']} | {row['perplexity']:.4f} | "
                     f"{row['percent']:+.3f} % | {row['repeated_half']:.4f} | "
                     f"{row['repeated_percent']:+.3f} % | {greedy} |")
    base = study["rows"][0]
    lines += ["", f"{base['scored_tokens']} tokens scored; perplexity of the passages where they stand first: "
              f"{base['first_half']:.2f}."]
    return "\n".join(lines)


def plot(studies, ablation, path):
    """Bars: what each format, and each part of the 4-bit recipe, adds to the perplexity."""
    bars = []
    for colour, study in zip(COLOURS, studies):
        bars += [(f"{row['format']}, {study['model'].split('-q8')[0].split('.gguf')[0]}", row["percent"],
                  colour) for row in study["rows"][1:]]
    if ablation:
        bars += [(row["name"] + (f", planted {row['planted']}" if row["planted"] else ""),
                  row["percent"], "#6a994e") for row in ablation["rows"]]
    height, left, width = 20, 330, 430
    most = max(1.2, *(abs(value) for _, value, _ in bars))
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 80}" '
             f'height="{(len(bars) + 3) * height}" font-family="sans-serif" font-size="12">',
             '<rect width="100%" height="100%" fill="white"/>',
             f'<text x="10" y="18" font-size="14">Perplexity against f32 keys and values, percent</text>']
    gate = left + width / most
    lines.append(f'<line x1="{gate:.1f}" y1="26" x2="{gate:.1f}" y2="{(len(bars) + 2) * height}" '
                 'stroke="#999" stroke-dasharray="4 3"/>')
    for i, (name, value, colour) in enumerate(bars):
        y = (i + 1.6) * height
        length = abs(value) * width / most
        lines.append(f'<text x="{left - 6}" y="{y + 11}" text-anchor="end">{name}</text>'
                     f'<rect x="{left}" y="{y}" width="{length:.1f}" height="14" fill="{colour}"/>'
                     f'<text x="{left + length + 5:.1f}" y="{y + 11}">{value:+.3f}</text>')
    lines.append(f'<text x="{gate - 20:.1f}" y="{(len(bars) + 2.6) * height}" fill="#666">+1 %</text></svg>')
    path.write_text("\n".join(lines) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quipu", default=ROOT / "build/release/quipu")
    parser.add_argument("--model", type=pathlib.Path, action="append",
                        help="default: the built-in model, and stories260K beside the checkout")
    parser.add_argument("--text", type=pathlib.Path, default=ROOT / "models/perplexity-sample.txt")
    parser.add_argument("--windows", type=int, default=0, help="0: all of the text")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--scratch", type=pathlib.Path, default=ROOT / "build")
    parser.add_argument("--ablation", type=pathlib.Path)
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--plot", type=pathlib.Path)
    options = parser.parse_args()

    models = options.model
    if not models:
        models = [ROOT / "models/quipu-stories-q8_0.gguf"]
        if STORIES.exists():
            models.append(STORIES)
        else:
            print(f"skipped: {STORIES} is not there")
    quipu = Quipu(options.quipu, options.threads)
    studies = [measure(quipu, model, options) for model in models]
    print("\n\n".join(markdown(study) for study in studies))
    if options.json:
        options.json.write_text(json.dumps(studies, indent=1) + "\n")
    if options.plot:
        plot(studies, json.loads(options.ablation.read_text()) if options.ablation else None, options.plot)


if __name__ == "__main__":
    main()
