"""Write models/README.md, the model card, from models/evaluation-*.json and
models/training-log.json, so that every figure in it is a measured one.
"""

import argparse
import json
from pathlib import Path

CARD = """# The built-in model

quipu ships a language model of its own, so that `quipu run "Once upon a time"` works in
the first minute and so that tests have *trained* weights. It is very small: it writes
simple children's stories, with slips, and it knows nothing.{recall_intro}

| | main | small |
|---|---|---|
{shapes}
| architecture | Llama: RMSNorm, SwiGLU, rope (theta 10,000), no biases, tied embeddings | the same |
| context | 2,048 tokens | 2,048 tokens |
| file | `quipu-stories-q8_0.gguf` | `quipu-stories-small-bf16.gguf` |
| purpose | to play with; tests of quality (KV quantisation, perplexity, speculation) | tests that need trained weights, exactly |

## Files

| file | what it is |
|---|---|
| `tokenizer/` | the tokenizer: byte-level BPE, 5,120 entries, split pattern `qwen2`, with the ChatML template |
| `perplexity-sample.txt` | 298 kB of validation text; origin and licence in `LICENSES.md` |
| `evaluation-main.json`, `evaluation-small.json`, `evaluation-quipu.json` | every measurement below, in full |
| `training-log.json`, `loss.svg` | loss of every 20 steps, validation loss, settings of every part of the run |
| `LICENSES.md`, `ATTRIBUTION-*.tsv` | sources of the text, licences, authors of the CC-BY stories |

## Training

{training}

Optimizer: Muon for the matrices inside the layers (rate 0.02), AdamW for the embedding and
the norms (rate 0.004), a short warm-up, a flat part, then a straight fall towards zero;
8,192 tokens a step (main; {small_batch:,} small); matrix products in bfloat16. The exact parts, mixes and rates are in
`training-log.json`; how to run it is in `tools/train/README.md`.

![loss curves](loss.svg)

Training text, by kind (a document whose letters hash to 0 modulo 40 is validation and was
never trained on):

| kind | source | share of rows in the last part |
|---|---|---|
{mix}

## Measurements

{machine}; weights exactly as exported (bfloat16 values, computed in float32).
Windows do not overlap, have 2,048 tokens, and the first token of a window is not scored;
no BOS token is put in front.

    python tools/train/evaluate.py .train/model-main --perplexity models/perplexity-sample.txt \\
        --kinds --positions --recall --samples 5 --trials {trials} --json models/evaluation-main.json

(and the same with `small`). Dates: {dates}.

### Perplexity

| text | tokens scored | main | small |
|---|---|---|---|
{perplexity}

{quipu}

### Perplexity by position (validation stories, windows of 2,048)

| positions | main | small |
|---|---|---|
{positions}

### Recall by distance

A fact, then the given number of tokens of other text, then the question; the answer
counts when greedy decoding gives exactly it. {trials} questions for each distance, names,
values and other text never seen in training in this combination.

| distance | main | small |
|---|---|---|
{recall}

{verdict}

### Five samples, not picked

Seeds 1 to 5, temperature {temperature}, top-p {top_p}, at most {count} tokens, main model.

{samples}

## Limits

{limits}

## Licence

The weights, the tokenizer, the generated text and the tools: Apache-2.0, like the rest
of quipu. The text that the models were trained on has its own licences (`LICENSES.md`);
the part of it that is shipped, `perplexity-sample.txt`, keeps them.
"""

SOURCES = {
    "tiny": "TinyStories (two selections, 7.8 MB)",
    "storybook": "African Storybook and StoryWeaver, CC-BY stories",
    "fairy": "fairy tales and children's books, public domain",
    "book": "classic children's novels, public domain",
    "talk": "Topical-Chat dialogues",
    "gen": "generator: stories (`storygen.py`)",
    "chat": "generator: ChatML dialogues (`storygen.py`)",
    "zh-verse": "old Chinese poems and primers",
    "zh-plain": "generator: simple Chinese (`chinese.py`)",
    "recall": "generator: recall tasks (`recall.py`) inside the simple stories above",
}

LIMITS = """- It is a toy. It has no knowledge of the world; facts in its text are accidents.
- English of simple children's stories, a little Chinese verse, and a few fixed kinds of
  dialogue. It has not learnt to follow instructions outside of these.
- Old books carry the attitudes of their time. Nothing was filtered for content except a
  few slurs, and nothing was done to make the model safe. Do not use it for anything that matters.
- It was trained for {tokens} on a machine shared with other work. It is
  undertrained: the loss was still falling when the time was up (see the curve).
- 1 key-value head shared by 4 query heads, 2,048 tokens; there is nothing beyond that length."""


def table(rows):
    return "\n".join("| " + " | ".join(str(c) for c in row) + " |" for row in rows)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--models", default="models")
    p.add_argument("--machine", default="Two cores of a shared x86-64 server (AMD EPYC, AVX-512 with bf16), no GPU",
                   help="the kind of machine, for the card")
    args = p.parse_args()
    folder = Path(args.models)
    ev = {n: json.loads((folder / f"evaluation-{n}.json").read_text()) for n in ("main", "small")}
    log = json.loads((folder / "training-log.json").read_text())
    shape = {"main": (6, 768), "small": (2, 512)}

    shapes = [["parameters"] + [f"{ev[n]['parameters']:,}" for n in ev],
              ["layers, width, feed-forward"] + [f"{shape[n][0]}, 256, {shape[n][1]}" for n in ev],
              ["query heads, key-value heads, head size"] + ["4, 1, 64"] * 2]
    training = [["model", "steps", "tokens", "compute time", "last training loss"]] + [["---"] * 5]
    for n in ev:
        last = log[n]["training"][-1]
        end = max([last["step"]] + [v["step"] for v in log[n]["validation"]])
        tokens = max([last["tokens"]] + [v["tokens"] for v in log[n]["validation"]])
        training.append([n, f"{end:,}", f"{tokens:,}", f"{last['seconds'] / 60:.0f} min", last["loss"]])
    tokens = {n: max([log[n]["training"][-1]["tokens"]] + [v["tokens"] for v in log[n]["validation"]]) for n in ev}

    parts = dict(x.split("=") for x in log["main"]["parts"][-1]["mix"].split(","))
    mix = [[k, SOURCES[k], f"{float(s):.0%}"] for k, s in parts.items()]

    ppl = [["`perplexity-sample.txt`", f"{ev['main']['perplexity']['scored_tokens']:,}"]
           + [f"**{ev[n]['perplexity']['perplexity']:.3f}**" for n in ev]]
    for kind in SOURCES:
        if kind in ev["main"]["kinds"]:
            ppl.append([f"validation: {kind}", f"{ev['main']['kinds'][kind]['scored_tokens']:,}"]
                       + [f"{ev[n]['kinds'][kind]['perplexity']:.2f}" for n in ev])
    positions = [[a["positions"], f"{a['perplexity']:.2f}", f"{b['perplexity']:.2f}"]
                 for a, b in zip(ev["main"]["positions"], ev["small"]["positions"])]
    recall = [[a["distance"], f"{a['accuracy']:.0%}", f"{b['accuracy']:.0%}"]
              for a, b in zip(ev["main"]["recall"], ev["small"]["recall"])]
    at_1500 = next(r["accuracy"] for r in ev["main"]["recall"] if r["distance"] == 1500)
    verdict = (f"The aim is at least 90% at 1,500 tokens; the main model has {at_1500:.0%}. "
               + ("The aim is met." if at_1500 >= 0.9 else "**The aim is not met** by this training."))
    samples = "\n\n".join(f"Seed {s['seed']}, prompt `{json.dumps(s['prompt'], ensure_ascii=False)[1:-1]}`:\n\n"
                          + "\n".join("> " + line for line in s["text"].strip().splitlines())
                          for s in ev["main"]["samples"])
    # What quipu itself measures on the same file, by weight type (F32 keys and values).
    quipu = ""
    if (folder / "evaluation-quipu.json").exists():
        measured = json.loads((folder / "evaluation-quipu.json").read_text())
        rows = [[f"`{r['file']}`" if r.get("shipped") else r["model"], r["type"], f"{r['perplexity']:.4f}",
                 f"{r['perplexity'] / ev[r['model']]['perplexity']['perplexity'] - 1:+.3%}"] for r in measured["rows"]]
        quipu = (f"The same text through quipu (`{measured['command']}`, {measured['date']}):\n\n"
                 "| model | weights | perplexity | against PyTorch |\n|---|---|---|---|\n" + table(rows))
    text = CARD.format(
        quipu=quipu, small_batch=log["small"]["parts"][-1]["batch"],
        recall_intro="" if at_1500 >= 0.5 else " It has not learnt\nto look things up in its context (see Recall below).",
        shapes=table(shapes), training=table(training), mix=table(mix), machine=args.machine,
        dates=", ".join(f"{n} {ev[n]['date']}" for n in ev), perplexity=table(ppl), positions=table(positions),
        trials=ev["main"]["recall"][0]["trials"], recall=table(recall), verdict=verdict, samples=samples,
        temperature=ev["main"]["sampling"]["temperature"], top_p=ev["main"]["sampling"]["top_p"],
        count=ev["main"]["sampling"]["count"],
        limits=LIMITS.format(tokens=f"only {tokens['main'] / 1e6:.1f} million tokens (main) and {tokens['small'] / 1e6:.1f} million (small)"))
    (folder / "README.md").write_text(text)


if __name__ == "__main__":
    main()
