"""Read the story folders, split off a validation part, train the tokenizer and
write token files.

  prepare.py tokenizer   train the byte-level BPE and write the tokenizer files
  prepare.py tokens      tokenise everything (natural and generated) into --out
  prepare.py recall      write a fixed set of recall rows out of validation text
  prepare.py sample      write the perplexity sample out of validation documents

The split is by content: a document whose first letters hash to 0 modulo 40 is
validation, whatever file it stands in, so copies of one story never straddle.
"""

import argparse
import hashlib
import json
import random
import re
from pathlib import Path

import numpy as np

import chinese
import storygen

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]

# The split pattern that llama.cpp knows as "qwen2": letters with at most one
# leading mark, single digits, punctuation runs, line breaks, spaces.
PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
           r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content']"
    " + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")

# kind -> [(source, most bytes to use)]
NATURAL = {
    "tiny": [("tinystories", None), ("tinystories-truecased", None)],
    "storybook": [("african-storybook", None), ("pratham-storyweaver", None)],
    "fairy": [("gutenberg-childrens", 6_000_000), ("folk-tales-mythic", 1_500_000), ("fairytaleqa", 1_000_000)],
    "book": [("classic-childrens-books", 4_000_000)],
    "talk": [("topical-chat", 1_500_000)],
    "zh-verse": [("zh-poetry-primers", None), ("zh-tang-poems", 800_000)],
}
GENERATED = ["gen", "chat", "zh-plain"]


def documents(text_dir, source, limit=None):
    """The documents of one source, in an order that does not follow the file."""
    text = (Path(text_dir) / source / "data.txt").read_text(encoding="utf-8")
    docs = [d.strip() for d in re.split(r"^<\|endoftext\|>$", text, flags=re.M)]
    docs = [re.sub(r"\n{3,}", "\n\n", d) for d in docs if len(d) > 20]
    random.Random(source).shuffle(docs)
    if limit is None:
        return docs
    kept, size = [], 0
    for d in docs:
        if size >= limit:
            break
        kept.append(d)
        size += len(d.encode())
    return kept


def is_validation(doc):
    letters = "".join(ch for ch in doc[:400].lower() if ch.isalnum())[:100]
    return int.from_bytes(hashlib.sha256(letters.encode()).digest()[:4], "big") % 40 == 0


def generated(kind, count, seed):
    rng = random.Random(f"{kind}-{seed}")
    make = {"gen": storygen.story, "chat": storygen.dialogue, "zh-plain": chinese.passage}[kind]
    return [make(rng) for _ in range(count)]


def train_tokenizer(args):
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    corpus = []
    weights = [("tinystories", None, 2), ("african-storybook", None, 2), ("pratham-storyweaver", None, 2),
               ("gutenberg-childrens", 2_500_000, 1), ("classic-childrens-books", 1_000_000, 1),
               ("topical-chat", 500_000, 1)]
    for source, limit, times in weights:
        corpus += [d for d in documents(args.text, source, limit) if not is_validation(d)] * times
    for source, limit in (("zh-poetry-primers", None), ("zh-tang-poems", 1_200_000)):
        corpus += [d for d in documents(args.text, source, limit) if not is_validation(d)]
    corpus += generated("zh-plain", 300, seed=0)
    corpus += [q + a for q, a in chinese.FACTS] * 12 + ["user\nassistant\nsystem\n"] * 200

    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PATTERN), behavior="isolated", invert=False),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=args.vocab, special_tokens=SPECIAL, show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    tok.train_from_iterator(corpus, trainer)
    out = Path(args.tokenizer)
    out.mkdir(parents=True, exist_ok=True)
    tok.save(str(out / "tokenizer.json"))
    (out / "tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 2048,
        "add_bos_token": False,
        "add_eos_token": False,
        "bos_token": None,
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
        "added_tokens_decoder": {
            str(i): {"content": s, "lstrip": False, "normalized": False, "rstrip": False,
                     "single_word": False, "special": True} for i, s in enumerate(SPECIAL)},
    }, indent=2, ensure_ascii=False) + "\n")
    (out / "special_tokens_map.json").write_text(json.dumps(
        {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}, indent=2) + "\n")
    print("vocabulary", tok.get_vocab_size())
    check_tokenizer(tok)


def check_tokenizer(tok):
    samples = ["中华人民共和国", "床前明月光，疑是地上霜。", "Once upon a time, there was a little girl named Lily.",
               "It's 1,234.5 km?!\n\n  Yes - \"naïve\" 🙂", "<|im_start|>user\nHi<|im_end|>\n"]
    for s in samples:
        ids = tok.encode(s, add_special_tokens=False).ids
        assert tok.decode(ids, skip_special_tokens=False) == s, s
        print(len(ids), [tok.decode([i], skip_special_tokens=False) for i in ids])


def write_tokens(tok, docs, path):
    """Flat uint16 tokens, each document closed by <|endoftext|>, and the offsets."""
    end = tok.token_to_id("<|endoftext|>")
    flat, starts = [], [0]
    for i in range(0, len(docs), 1000):
        for e in tok.encode_batch(docs[i:i + 1000], add_special_tokens=False):
            flat.append(np.array(e.ids + [end], dtype=np.uint16))
            starts.append(starts[-1] + len(flat[-1]))
    np.savez(path, tokens=np.concatenate(flat), starts=np.array(starts, dtype=np.int64))
    return starts[-1]


def write_all(args):
    from tokenizers import Tokenizer
    tok = Tokenizer.from_file(str(Path(args.tokenizer) / "tokenizer.json"))
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    report = {}
    for kind in args.kinds or list(NATURAL) + GENERATED:
        if kind in NATURAL:
            docs = [d for s, limit in NATURAL[kind] for d in documents(args.text, s, limit)]
            train = [d for d in docs if not is_validation(d)]
            valid = [d for d in docs if is_validation(d)]
        else:
            count = {"gen": args.stories, "chat": args.dialogues, "zh-plain": 2000}[kind]
            train = [d for d in generated(kind, count, seed=args.seed) if not is_validation(d)]
            valid = [d for d in generated(kind, count // 10 + 400, seed=args.seed + 1) if is_validation(d)]
        n = write_tokens(tok, train, out / f"{kind}.train.npz")
        v = write_tokens(tok, valid, out / f"{kind}.valid.npz")
        report[kind] = {"train_documents": len(train), "train_tokens": n,
                        "validation_documents": len(valid), "validation_tokens": v,
                        "bytes_per_token": round(sum(len(d.encode()) for d in valid) / v, 3)}
        print(kind, report[kind], flush=True)
    name = out / "report.json"
    old = json.loads(name.read_text()) if name.exists() else {}
    name.write_text(json.dumps({**old, **report}, indent=1) + "\n")


def write_recall(args):
    """Recall rows of 2,048 tokens whose filler is validation text: for the loss."""
    from tokenizers import Tokenizer

    from loader import Loader
    tok = Tokenizer.from_file(str(Path(args.tokenizer) / "tokenizer.json"))
    loader = Loader(args.out, tok, {"tiny": 0.7, "gen": 0.3, "recall": 1.0}, 2047, 1, seed=args.seed + 1, split="valid")
    rows = [loader.recall_row(random.Random(f"recall-{args.seed + 1}-{i}"))[0].astype(np.uint16) for i in range(16)]
    np.savez(Path(args.out) / "recall.valid.npz", tokens=np.concatenate(rows),
             starts=np.arange(len(rows) + 1, dtype=np.int64) * 2048)


def write_sample(args):
    """Validation documents of every kind that may be shipped, in a fixed order."""
    sizes = {"tiny": 130_000, "storybook": 25_000, "fairy": 60_000, "book": 30_000,
             "zh-verse": 12_000, "gen": 40_000, "chat": 15_000, "zh-plain": 4_000}
    picked, origin = [], {}
    for kind, size in sizes.items():
        if kind in NATURAL:
            pairs = [(s, d) for s, limit in NATURAL[kind] for d in documents(args.text, s, limit) if is_validation(d)]
        else:
            pairs = [("generator", d) for d in generated(kind, 4000, seed=args.seed + 1) if is_validation(d)]
        random.Random(kind).shuffle(pairs)
        used = 0
        for source, d in pairs:
            n = len(d.encode())
            if used + n <= size and n <= 12_000:
                picked.append(d)
                used += n
                part = origin.setdefault(source if kind in NATURAL else f"{source}: {kind}", [0, 0])
                part[0] += 1
                part[1] += n
    random.Random(args.seed).shuffle(picked)
    # Plain text: documents are separated by an empty line, no special tokens.
    text = "\n\n".join(re.sub(r"<\|im_start\|>(\w+)\n(.*?)<\|im_end\|>\n?", r"\1: \2\n", d, flags=re.S).strip()
                       for d in picked) + "\n"
    Path(args.sample).write_text(text, encoding="utf-8")
    print("bytes", len(text.encode()))
    for source, (count, size) in sorted(origin.items()):
        print(f"{source}\t{count} documents\t{size} bytes")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=["tokenizer", "tokens", "recall", "sample"])
    p.add_argument("--text", default="../shared/data/text/stories", help="folder with <source>/data.txt")
    p.add_argument("--tokenizer", default="models/tokenizer", help="folder of tokenizer.json")
    p.add_argument("--out", default=".train/tokens", help="folder for token files")
    p.add_argument("--sample", default="models/perplexity-sample.txt")
    p.add_argument("--vocab", type=int, default=5120)
    p.add_argument("--stories", type=int, default=40000, help="stories to generate")
    p.add_argument("--dialogues", type=int, default=12000, help="dialogues to generate")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--kinds", nargs="*", help="only these kinds")
    args = p.parse_args()
    {"tokenizer": train_tokenizer, "tokens": write_all, "recall": write_recall, "sample": write_sample}[args.what](args)


if __name__ == "__main__":
    main()
