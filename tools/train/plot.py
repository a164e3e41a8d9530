"""Turn log.jsonl files of train.py into models/training-log.json and an SVG of the
loss curves. Plain text output; no drawing library.
"""

import argparse
import json
from pathlib import Path

COLOURS = ["#1b6ca8", "#c8553d", "#3c8d5a", "#8a5fa8"]


def read(path):
    """Training rows, validation rows and the settings of every part of a run.
    A part that resumed before the end of the one before it replaces what it repeats."""
    train, valid, parts = {}, {}, []
    for line in Path(path).read_text().splitlines():
        row = json.loads(line)
        if "start" in row:
            keep = ("start", "preset", "mix", "dense", "length", "long_every", "long_length", "long_mix", "batch", "steps", "decay", "warmup", "minutes", "decay_part", "end_rate", "answer_weight", "qk_rate", "muon_lr", "adam_lr", "seed", "parameters")
            parts.append({k: row[k] for k in keep if k in row})
            train = {s: r for s, r in train.items() if s <= row["start"]}
            valid = {s: r for s, r in valid.items() if s <= row["start"]}
        elif "validation" in row:
            valid[row["step"]] = row
        else:
            train[row["step"]] = row
    return list(train.values()), list(valid.values()), parts


def svg(runs):
    width, height, left, bottom, top = 860, 420, 60, 50, 20
    most = max(r["tokens"] for _, t, _, _ in runs for r in t) / 1e6
    low, high = 1.0, 6.0

    def x(tokens):
        return left + (width - left - 20) * tokens / 1e6 / most

    def y(loss):
        return top + (height - top - bottom) * (high - min(high, max(low, loss))) / (high - low)

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
           f'<rect width="{width}" height="{height}" fill="white"/>']
    for v in range(int(low), int(high) + 1):
        out.append(f'<line x1="{left}" x2="{width - 20}" y1="{y(v):.1f}" y2="{y(v):.1f}" stroke="#ddd"/>'
                   f'<text x="{left - 8}" y="{y(v) + 4:.1f}" text-anchor="end">{v}</text>')
    step = max(1, round(most / 8))
    for v in range(0, int(most) + 1, step):
        out.append(f'<text x="{x(v * 1e6):.1f}" y="{height - bottom + 18}" text-anchor="middle">{v}</text>')
    out.append(f'<text x="{(left + width) / 2}" y="{height - 10}" text-anchor="middle">million tokens</text>'
               f'<text x="16" y="{height / 2}" transform="rotate(-90 16 {height / 2})" text-anchor="middle">loss per token</text>')
    for i, (name, train, valid, _) in enumerate(runs):
        colour = COLOURS[i % len(COLOURS)]
        points = " ".join(f"{x(r['tokens']):.1f},{y(r['loss']):.1f}" for r in train)
        out.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.2" opacity="0.7" points="{points}"/>')
        points = " ".join(f"{x(r['tokens']):.1f},{y(r['validation']['tiny']):.1f}" for r in valid if "tiny" in r["validation"])
        out.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="5 3" points="{points}"/>')
        for k, (text, dash) in enumerate((("training mix", ""), ("validation, simple stories", ' stroke-dasharray="5 3"'))):
            line = top + 16 + 34 * i + 16 * k
            out.append(f'<line x1="{width - 300}" x2="{width - 270}" y1="{line}" y2="{line}" stroke="{colour}" stroke-width="2"{dash}/>'
                       f'<text x="{width - 262}" y="{line + 4}">{name}: {text}</text>')
    return "\n".join(out + ["</svg>"]) + "\n"


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("runs", nargs="+", help="name=log.jsonl")
    p.add_argument("--json", default="models/training-log.json")
    p.add_argument("--svg", default="models/loss.svg")
    args = p.parse_args()
    runs = [(name, *read(path)) for name, path in (r.split("=", 1) for r in args.runs)]
    data = {name: {"parts": parts, "training": train, "validation": valid} for name, train, valid, parts in runs}
    # One row per line keeps the file readable and small.
    lines = json.dumps(data, separators=(", ", ": ")).replace("}, {", "},\n{")
    Path(args.json).write_text(lines + "\n")
    Path(args.svg).write_text(svg(runs))


if __name__ == "__main__":
    main()
