#!/usr/bin/env python3
"""Reference token ids of hard strings, one small file per tokenizer.

    make_tokenizer_goldens.py SHARED_DIR OUTPUT_DIR
    (pip install tokenizers sentencepiece tiktoken protobuf gguf)

The references: Hugging Face's `tokenizers` for tokenizer.json and for vocabularies with merges,
`sentencepiece` for SentencePiece models and for GGUF vocabularies with scores (put back into a
model file), `tiktoken` for rank files. OUTPUT_DIR gets texts.json, one NAME.json with the ids of each
text without special tokens, and for tokenizer.json also "special": ids of chat-like texts in which
special tokens are parsed and added. It also gets tiny.json, a tokenizer.json of a few hundred entries
trained here, for tests that have no other data.
"""

import base64
import json
import pathlib
import sys

import sentencepiece
import sentencepiece.sentencepiece_model_pb2 as sentencepiece_model
import tiktoken
import tokenizers
from gguf import GGUFReader
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

TEXTS = [
    "", " ", "  ", "   ", "\t", "\n", "\n\n", "\n\n\n", "\r\n", "\t\n", " \n ", "a",
    "Hello world", " Hello world", "Hello World!", " Hello, world!", "Hello, y'all! How are you 😁 ?我想在apple工作1314151天～",
    "The quick brown fox jumps over the lazy dog.",
    "I'm sure they've said we'll go, you're right; he'd can't don't WON'T I'LL IT'S",
    "中华人民共和国", "中华人民共和国成立于1949年10月1日。", "床前明月光，疑是地上霜。\n举头望明月，低头思故乡。",
    "日本語のテキストとひらがなカタカナ漢字", "한국어 텍스트입니다 그리고 더", "Привет, мир! Как дела?", "مرحبا بالعالم", "שלום עולם", "नमस्ते दुनिया",
    "สวัสดีชาวโลก", "Ελληνικά και ǅ ﬁ ligature", "Straße naïve café e\u0301 résumé",
    "😀", "👨‍👩‍👧‍👦 family 🏳️‍🌈 🇨🇳 👍🏽", "🚀 (normal) 😶‍🌫️ (multiple emojis concatenated) ✅",
    "0 1 12 123 1234 12345 123456 1234567", "3.14159 -2.5e10 1,234,567.89 ½ ² ٣ Ⅷ", "2024-07-26T12:34:56Z",
    "    leading spaces", "trailing spaces    ", "a  b   c    d     e", "tab\tseparated\t\tvalues",
    "line\nbreak\n\n  indented\n\tx = 1\r\nend", "def f(x):\n    if x > 0:\n        return x ** 2\n    # done\n",
    "<html>&amp; \"quoted\" 'single' `tick` {json: [1, 2]} \\n</html>", "http://example.com/path?q=1&r=2#frag", "user@example.com +1 (555) 123-4567",
    "CamelCaseString snake_case_string kebab-case-string SCREAMING_CASE", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "!!!!!!!!!!????????", "......-----=====_____", "\u00a0non-breaking\u2003em\u3000ideographic", "zero\u200bwidth\u200djoin\ufeffbom",
    "\u0000", "nul\u0000in\u0001the\u0007middle\u001b[31m\u007f", "\u0080\u0085\u009f\u00ad", "\ue000\uf8ff\U000f0000 private",
    "\U0001f1e6\U00020000\U0002a6d6 astral", "▁ already ▁▁ lower one eighth", "Ġ Ċ byte-level letters Ã",
    "a\u0300\u0301\u0302\u0303\u0304 stacked marks", "ﷺ ㎏ ① Ａｆｕｌｌ ﾊﾝｶｸ", "Việt Nam đẹp lắm; Türkçe İstanbul ığüşöç",
    "w048 7tuijk dsdfhu", "ied 4 ½ months", "\n \n\n \n\n\n \t \t\t \t\n  \n   \n    \n     \n",
    "Ⅷ'ſ 'S 'T it'S we'VE", "1\u0660\u09e6", "x" * 70 + " " * 70 + "y", "的" * 30, "Hello\u2028line\u2029para",
]

SPECIAL_TEXTS = {
    "minimind": ["<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n", "a <|endoftext|> b", "<|im_start|"],
    "phi-3": ["<|user|>\nHello<|end|>\n<|assistant|>\n", "<s> a </s> b", "x<|end|>  y"],
    "phi-2": ["a<|endoftext|>b", "        indented\t\t\tcode"],
    "roberta": ["a <mask> b", "<s>x</s>"],
    "t5-small": ["translate English to German: <extra_id_0> x </s>", "hello"],
}


def gguf_fields(path: pathlib.Path) -> dict:
    reader = GGUFReader(path)
    wanted = ("tokens", "scores", "token_type", "merges", "add_space_prefix")
    return {
        key: reader.fields[f"tokenizer.ggml.{key}"].contents()
        for key in wanted
        if f"tokenizer.ggml.{key}" in reader.fields
    }


def sentencepiece_from_gguf(path: pathlib.Path):
    fields = gguf_fields(path)
    model = sentencepiece_model.ModelProto()
    model.trainer_spec.model_type = sentencepiece_model.TrainerSpec.BPE
    model.trainer_spec.byte_fallback = True
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = bool(fields.get("add_space_prefix", True))
    model.normalizer_spec.remove_extra_whitespaces = False
    for token, score, kind in zip(fields["tokens"], fields["scores"], fields["token_type"]):
        piece = model.pieces.add()
        # A model has one unknown piece; some files type more of them so.
        first_unknown = int(kind) != 2 or len(model.pieces) == 1
        piece.piece, piece.score, piece.type = token, float(score), int(kind) if first_unknown else 3
    processor = sentencepiece.SentencePieceProcessor()
    processor.LoadFromSerializedProto(model.SerializeToString())
    return processor.Encode


def bpe_from_merges(vocabulary: dict, merges: list, pre_tokenizer):
    tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizer
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


def byte_level(use_regex: bool):
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)


def bpe_from_gguf(path: pathlib.Path, pre_tokenizer):
    fields = gguf_fields(path)
    vocabulary = {token: i for i, token in enumerate(fields["tokens"])}
    merges = [tuple(merge.split(" ")) for merge in fields["merges"]]
    return bpe_from_merges(vocabulary, merges, pre_tokenizer)


LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace("{1,3}", "")


def from_ranks(path: pathlib.Path, pattern: str):
    ranks = {}
    for line in path.read_text().splitlines():
        token, rank = line.split()
        ranks[base64.b64decode(token)] = int(rank)
    return tiktoken.Encoding("ranks", pat_str=pattern, mergeable_ranks=ranks, special_tokens={}).encode_ordinary


def from_tokenizer_json(path: pathlib.Path):
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


def special_ids(path: pathlib.Path, texts: list) -> list:
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return [[text, tokenizer.encode(text).ids] for text in texts]


def from_sentencepiece(path: pathlib.Path):
    return sentencepiece.SentencePieceProcessor(model_file=str(path)).Encode


def tiny_tokenizer(output: pathlib.Path) -> pathlib.Path:
    """A tokenizer of our own: byte-level BPE of 384 entries, trained on the texts above."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(QWEN2), "isolated"), byte_level(False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    path = output / "tiny" / "tokenizer.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=True), "utf-8")
    return path


def main() -> None:
    shared, output = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    data = shared / "data" / "tokenizers"
    vocabularies = data / "gguf-vocab"
    gpt2 = data / "gpt2-hf"
    merges = [tuple(line.split(" ")) for line in (gpt2 / "merges.txt").read_text("utf-8").splitlines()]
    merges = [merge for merge in merges if len(merge) == 2 and merge[0] != "#version:"]
    starcoder = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level(True)])
    tiny = tiny_tokenizer(output)
    references = {
        "llama-spm": ("sentencepiece", sentencepiece_from_gguf(vocabularies / "ggml-vocab-llama-spm.gguf")),
        "phi-3-gguf": ("sentencepiece", sentencepiece_from_gguf(vocabularies / "ggml-vocab-phi-3.gguf")),
        "gpt-2": ("tokenizers", bpe_from_merges(json.loads((gpt2 / "vocab.json").read_text("utf-8")), merges, byte_level(True))),
        "starcoder": ("tokenizers", bpe_from_gguf(vocabularies / "ggml-vocab-starcoder.gguf", starcoder)),
        "qwen2": ("tiktoken", from_ranks(data / "qwen" / "qwen.tiktoken", QWEN2)),
        "llama-bpe": ("tiktoken", from_ranks(data / "qwen" / "qwen.tiktoken", LLAMA3)),
        "mistral-v1": ("sentencepiece", from_sentencepiece(data / "mistral" / "tokenizer.model.v1")),
        "mistral-v3": ("sentencepiece", from_sentencepiece(data / "mistral" / "mistral_instruct_tokenizer_240323.model.v3")),
        "mistral-v7": ("sentencepiece", from_sentencepiece(data / "mistral" / "mistral_instruct_tokenizer_241114.model.v7")),
    }
    for name in ("test_sentencepiece", "test_sentencepiece_bpe", "test_sentencepiece_with_bytefallback"):
        references[name] = ("sentencepiece", from_sentencepiece(data / "sentencepiece" / f"{name}.model"))
    files = {
        "minimind": data / "minimind" / "tokenizer.json",
        "phi-2": data / "hf-json" / "phi-2" / "tokenizer.json",
        "phi-3": data / "hf-json" / "phi-3-mini" / "tokenizer.json",
        "roberta": data / "hf-json" / "roberta-base" / "tokenizer.json",
        "t5-small": data / "hf-json" / "t5-small" / "tokenizer.json",
        "tiny": tiny,
    }
    for name, path in files.items():
        references[name] = ("tokenizers", from_tokenizer_json(path))
    (output / "texts.json").write_text(json.dumps(TEXTS, ensure_ascii=True, indent=0) + "\n", "utf-8")
    for name, (reference, encode) in references.items():
        module = sys.modules[reference]
        golden = {"made_by": "tools/golden/make_tokenizer_goldens.py", "reference": f"{reference} {module.__version__}"}
        golden["ids"] = [list(encode(text)) for text in TEXTS]
        if name in SPECIAL_TEXTS:
            golden["special"] = special_ids(files[name], SPECIAL_TEXTS[name])
        text = json.dumps(golden, separators=(",", ":")).replace("],[", "],\n[")
        (output / f"{name}.json").write_text(text + "\n", "utf-8")
    print(f"{len(references)} tokenizers, {len(TEXTS)} texts each")


if __name__ == "__main__":
    main()
