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
{small_intro}
| | {names} |
|---|{bars}
{shapes}

## Files

| file | what it is |
|---|---|
| `tokenizer/` | the tokenizer: byte-level BPE, 5,120 entries, split pattern `qwen2`, with the ChatML template |
| `perplexity-sample.txt` | 298 kB of validation text; origin and licence in `LICENSES.md` |
| {evaluations}, `evaluation-quipu.json` | every measurement below, in full |
| `training-log.json`, `loss.svg` | loss of every 20 steps, validation loss, settings of every part of the run |
| `LICENSES.md`, `ATTRIBUTION-*.tsv` | sources of the text, licences, authors of the CC-BY stories |

## Training

{training}

1. *First part* (row "first"): from random weights, 1,024 then 2,048 tokens in a row,
   rope theta 10,000. It wrote stories sentence by sentence, and could not look anything up.
   Its weights were shipped as Q8_0 for a while, and only these were kept: the next part
   starts from them, dequantised, with a new optimizer state.
2. *Heads by hand* (`heads.py`): rope theta raised to 500,000; the attention of layer 1 is
   overwritten with previous-token heads and that of layer 2 with induction heads, both
   fitted by least squares to the model's own activations on training text. Nothing else
   changes. This is a mimetic initialisation: the circuit that looks things up was put
   there, and trained afterwards; it did not arise by itself.
3. *Main part* (row "main"), everything trained: short dense recall rows (256 tokens) until
   the loss of the answers collapsed, then rows of 1,024, then of 512 with mostly stories; in
   the last two, in which the rate fell to zero, every third and then every second step had
   rows of 2,048. In recall rows the tokens of an answer count 4 times, those of facts and questions 0.3 times.
{small_training}
Optimizer: Muon for the matrices inside the layers, AdamW for the embedding and the norms;
{batch} tokens a step in the main part; matrix products in bfloat16. Losses in the table and
the curve are weighted as the rows were. The exact parts, mixes and rates are in
`training-log.json` ("main" counts its steps from the heads on); how to run it is in `tools/train/README.md`. The parts were bounded by
time on a shared machine, so the weights can be approached by the same commands, but not
repeated bit by bit.

![loss curves](loss.svg)

Training text, by kind (a document whose letters hash to 0 modulo 40 is validation and was
never trained on):

| kind | source | share of rows in the last part: 512 tokens | 2,048 tokens |
|---|---|---|---|
{mix}

## Measurements

{machine}; weights exactly as exported (bfloat16 values, computed in float32).
Windows do not overlap, have 2,048 tokens, and the first token of a window is not scored;
no BOS token is put in front.

    python tools/train/evaluate.py .train/model-main --perplexity models/perplexity-sample.txt \\
        --kinds --positions --recall --samples 5 --trials {trials} --json models/evaluation-main.json

Dates: {dates}.

### Perplexity

| text | tokens scored | {names} |
|---|---|{bars}
{perplexity}

By kind, the first {most:,} tokens of the validation part. {before}

{quipu}

### Perplexity by position (validation stories, windows of 2,048)

| positions | {names} |
|---|{bars}
{positions}

### Recall by distance

A list of 4 to 8 facts (2 at the distances of 64 and 128), then validation stories, then a question
about one of the facts; the given number of tokens lies between the value in the list and the
place where it must be said again. It counts when greedy decoding gives exactly the value and
ends the line. {trials} questions for each distance, in the 6 styles of `recall.py` in turn;
the pairs of key and value are held out (training never joins them), and so is the text.

> The secret word of Lily is lemon. [...] Question: What is the secret word of Lily?
> Answer: The secret word of Lily is

The answer repeats the line of the fact, and one word stands between key and value: this
measures finding a place in the context again and copying from it. It does not measure
understanding; questions in other words were not tested.

| distance | as measured, mean | {names} |
|---|---|{bars}
{recall}

{verdict}

### Five samples, not picked

Seeds 1 to 5, temperature {temperature}, top-k 40, top-p {top_p}, min-p 0.05 (the defaults of
`quipu run`), at most {count} tokens, main model, drawn with PyTorch.

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
- Chinese was a small part of the training{chinese}.
- Old books carry the attitudes of their time. Nothing was filtered for content except a
  few slurs, and nothing was done to make the model safe. Do not use it for anything that matters.
- It was trained for only {tokens},
  on a machine shared with other work. It is undertrained: the loss was still falling when
  the time was up (see the curve).
- 1 key-value head shared by 4 query heads, 2,048 tokens; there is nothing beyond that length."""


def table(rows):
    return "\n".join("| " + " | ".join(str(c) for c in row) + " |" for row in rows)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--models", default="models")
    p.add_argument("--machine", default="A virtual machine with two cores (AMD EPYC, Zen 4), shared with other work, no GPU",
                   help="the kind of machine, for the card")
    p.add_argument("--before", default="", help="a sentence on the weights that these replace")
    p.add_argument("--chinese", default="", help="what to add to the remark on Chinese")
    args = p.parse_args()
    folder = Path(args.models)
    ev = {n: json.loads((folder / f"evaluation-{n}.json").read_text()) for n in ("main", "small")
          if (folder / f"evaluation-{n}.json").exists()}
    log = json.loads((folder / "training-log.json").read_text())
    files = {"main": "quipu-stories-q8_0.gguf", "small": "quipu-stories-small-bf16.gguf"}
    layers = {"main": "6, 256, 768", "small": "2, 256, 512"}
    use = {"main": "to play with; tests of quality (KV quantisation, perplexity, speculation, recall)",
           "small": "tests that need trained weights, exactly"}
    shapes = [["parameters"] + [f"{ev[n]['parameters']:,}" for n in ev],
              ["layers, width, feed-forward"] + [layers[n] for n in ev],
              ["query heads, key-value heads, head size"] + ["4, 1, 64" for n in ev],
              ["architecture"] + ["Llama: RMSNorm, SwiGLU, rope (theta 500,000), no biases, tied embeddings" for n in ev],
              ["context"] + ["2,048 tokens" for n in ev], ["file"] + [f"`{files[n]}`" for n in ev],
              ["purpose"] + [use[n] for n in ev]]
    training = [["part", "steps", "tokens", "compute time", "last training loss"]] + [["---"] * 5]
    tokens = {}
    for n in log:
        last = log[n]["training"][-1]
        end = max([last["step"]] + [v["step"] for v in log[n]["validation"]])
        tokens[n] = max([last["tokens"]] + [v["tokens"] for v in log[n]["validation"]])
        training.append([n, f"{end:,}", f"{tokens[n]:,}", f"{last['seconds'] / 60:.0f} min", last["loss"]])

    parts = dict(x.split("=") for x in log["main"]["parts"][-1]["mix"].split(","))
    long = dict(x.split("=") for x in log["main"]["parts"][-1]["long_mix"].split(","))
    mix = [[k, SOURCES[k], f"{float(s):.0%}", f"{float(long.get(k, 0)):.0%}"] for k, s in parts.items()]

    ppl = [["`perplexity-sample.txt`", f"{ev['main']['perplexity']['scored_tokens']:,}"]
           + [f"**{ev[n]['perplexity']['perplexity']:.3f}**" for n in ev]]
    for kind in SOURCES:
        if kind in ev["main"]["kinds"]:
            ppl.append([f"validation: {kind}", f"{ev['main']['kinds'][kind]['scored_tokens']:,}"]
                       + [f"{ev[n]['kinds'][kind]['perplexity']:.2f}" for n in ev])
    positions = [[r["positions"]] + [f"{ev[n]['positions'][i]['perplexity']:.2f}" for n in ev]
                 for i, r in enumerate(ev["main"]["positions"])]
    recall = [[r["distance"], r["mean_measured_distance"]] + [f"{ev[n]['recall'][i]['accuracy']:.0%}" for n in ev]
              for i, r in enumerate(ev["main"]["recall"])]
    at_1500 = next(r["accuracy"] for r in ev["main"]["recall"] if r["distance"] == 1500)
    verdict = (f"The aim is at least 90% at 1,500 tokens; the main model has {at_1500:.0%}. "
               + ("The aim is met." if at_1500 >= 0.9 else "**The aim is not met** by this training."))
    samples = "\n\n".join(f"Seed {s['seed']}, prompt `{json.dumps(s['prompt'], ensure_ascii=False)[1:-1]}`:\n\n"
                          + "\n".join("> " + line for line in s["text"].strip().splitlines())
                          for s in ev["main"]["samples"])
    # What quipu itself measures on the same file, by weight type and KV format.
    quipu = ""
    if (folder / "evaluation-quipu.json").exists():
        measured = json.loads((folder / "evaluation-quipu.json").read_text())
        rows = [[f"`{r['file']}`" if r.get("shipped") else r["model"], r["type"], r.get("kv", "f32"), f"{r['perplexity']:.4f}",
                 f"{r['perplexity'] / ev[r['model']]['perplexity']['perplexity'] - 1:+.3%}"]
                for r in measured["rows"] if r["model"] in ev]
        quipu = (f"The same text through quipu (`{measured['command']}`, {measured['date']}):\n\n"
                 "| model | weights | keys and values | perplexity | against PyTorch |\n|---|---|---|---|---|\n" + table(rows))
    text = CARD.format(
        quipu=quipu, batch=f"{log['main']['parts'][-1]['batch']:,}", names=" | ".join(ev), bars="---|" * len(ev),
        most=max(r["scored_tokens"] for r in ev["main"]["kinds"].values()) // 1000 * 1000, before=args.before,
        small_training="" if "small" not in ev else """4. *Small model* (row "small"): from random weights but for the embedding, which starts from the
   main model's; rows of 512 tokens, so that nothing beyond 512 positions was ever trained.
   No heads by hand, and it was not trained to be good: it is there to be exact with.
""",
        small_intro="" if "small" in ev else "\nThere is one model. A second, smaller one in bfloat16, for tests of exactness, was planned and\n"
                    "is not shipped: there was no time to train one that is worth its bytes.\n",
        evaluations=", ".join(f"`evaluation-{n}.json`" for n in ev),
        recall_intro=" It can look up\na fact in its context (see Recall below)." if at_1500 >= 0.5 else
                     " It has not learnt\nto look things up in its context (see Recall below).",
        shapes=table(shapes), training=table(training), mix=table(mix), machine=args.machine,
        dates=", ".join(f"{n} {ev[n]['date']}" for n in ev), perplexity=table(ppl), positions=table(positions),
        trials=ev["main"]["recall"][0]["trials"], recall=table(recall), verdict=verdict, samples=samples,
        temperature=ev["main"]["sampling"]["temperature"], top_p=ev["main"]["sampling"]["top_p"],
        count=ev["main"]["sampling"]["count"],
        limits=LIMITS.format(chinese=args.chinese, tokens=" and ".join(f"{t / 1e6:.1f} million tokens ({n})" for n, t in tokens.items())))
    (folder / "README.md").write_text(text)


if __name__ == "__main__":
    main()
