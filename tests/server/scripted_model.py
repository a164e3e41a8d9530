"""A model that says by heart what a test wants to hear: a GGUF file of the `llama` architecture, tokenizer and template included.

Its one block adds nothing. The embedding of a token is one-hot, and the output matrix maps it to the token that follows, so
that its outputs are chains of tokens, with logits that no temperature shakes. Each script is cut into tokens that nothing else
uses. The chat template ends a prompt with a control token for the script that the last message of a user or a tool asks for
("play NAME", else "hello"), and there the chain begins. A token that no script has is followed by the end of the turn.
"""

import array
import math

import struct

_UNIT = 64  # sizes are multiples of it
_LOGIT = 60.0
_PIECE_MIN, _PIECE_MAX = 2, 12  # letters of a token
_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4
_END, _START = "<|im_end|>", "<|im_start|>"

# ChatML with tools as Hermes and Qwen tell them. What the assistant thought is told again, so that tests can see it in a prompt.
TEMPLATE = """{%- if tools %}<|im_start|>system
Call them as <tool_call>
{"name": NAME, "arguments": ARGUMENTS}
</tool_call>
{%- for tool in tools %}
{{ tool | tojson }}
{%- endfor %}<|im_end|>
{% endif %}
{%- set script = namespace(name="hello") %}
{%- for message in messages %}
{%- if message.role in ["user", "tool"] and "play " in message.content %}
{%- set script.name = message.content.split("play ")[-1].split()[0] %}
{%- endif %}<|im_start|>{{ message.role }}
{% if message.reasoning_content %}<think>{{ message.reasoning_content }}</think>
{% endif %}
{%- if message.role == "tool" %}<tool_response>{{ message.content }}</tool_response>
{%- else %}{{ message.content }}
{%- endif %}
{%- for call in message.tool_calls or [] %}<tool_call>
{"name": {{ call.function.name | tojson }}, "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{{ "<|play " ~ script.name ~ "|>" }}
{%- if script.name.endswith("_open") %}<think>{% endif %}
{%- endif %}"""


def _byte_letters():
    """GPT-2's letters for bytes: printable ones stand for themselves."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = {byte: chr(byte) for byte in plain}
    for byte in range(256):
        if byte not in letters:
            letters[byte] = chr(0x100 + len(letters) - len(plain))
    return letters


_LETTERS = _byte_letters()


def _spelled(text):
    return "".join(_LETTERS[byte] for byte in text.encode())


class _Vocabulary:
    def __init__(self):
        self.tokens, self.types, self.ids = [], [], {}
        for byte in range(256):
            self.add(_LETTERS[byte], _NORMAL)

    def add(self, text, kind):
        assert text not in self.ids, text
        self.ids[text] = len(self.tokens)
        self.tokens.append(text)
        self.types.append(kind)
        return self.ids[text]

    def cut(self, text, marks):
        """Tokens that spell `text`: its marks, and between them new ones."""
        at, ids = 0, []
        while at < len(text):
            places = sorted((place, mark) for mark in marks if (place := text.find(mark, at)) >= 0)
            end, mark = places[0] if places else (len(text), "")
            ids += [self.add(piece, _NORMAL) for piece in self._new_pieces(text[at:end])]
            if mark:
                ids.append(self.ids[mark])
            at = end + len(mark)
        return ids

    def _new_pieces(self, text):
        """`text` in pieces that are no tokens yet, short ones first; a dead end takes the last piece back for a longer one."""
        pieces, lengths, at, length = [], [], 0, _PIECE_MIN
        while at < len(text):
            piece = _spelled(text[at:at + length])
            if length > min(_PIECE_MAX, len(text) - at):
                assert pieces, f"no new tokens spell {text!r}"
                pieces.pop()
                length = lengths.pop()
                at -= length
                length += 1
            elif piece in self.ids or piece in pieces:
                length += 1
            else:
                pieces.append(piece)
                lengths.append(length)
                at += length
                length = _PIECE_MIN
        return pieces


class _Gguf:
    """A file of version 3, with 32-bit floats only."""

    def __init__(self):
        self.metadata, self.pairs, self.tensors = b"", 0, []

    @staticmethod
    def _string(text):
        data = text.encode()
        return struct.pack("<Q", len(data)) + data

    def set(self, key, value):
        pack = {int: lambda v: struct.pack("<II", 4, v), float: lambda v: struct.pack("<If", 6, v),
                str: lambda v: struct.pack("<I", 8) + self._string(v)}
        if isinstance(value, list):
            kind = 8 if isinstance(value[0], str) else 4
            data = struct.pack("<IIQ", 9, kind, len(value))
            data += b"".join(self._string(v) if kind == 8 else struct.pack("<I", v) for v in value)
        else:
            data = pack[type(value)](value)
        self.metadata += self._string(key) + data
        self.pairs += 1

    def add(self, name, rows, columns, fill=0.0, entries=()):
        """A matrix, or a vector where `rows` is None: `fill` but for entries of (row, column, value)."""
        values = array.array("f", [fill]) * ((rows or 1) * columns)
        for row, column, value in entries:
            values[row * columns + column] = value
        self.tensors.append((name, [columns] if rows is None else [columns, rows], values.tobytes()))

    def write(self, path):
        header = b"GGUF" + struct.pack("<IQQ", 3, len(self.tensors), self.pairs) + self.metadata
        offset = 0
        for name, shape, data in self.tensors:
            header += self._string(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape) + struct.pack("<IQ", 0, offset)
            offset += len(data)  # a multiple of the alignment, 32
        with open(path, "wb") as file:
            file.write(header + bytes(-len(header) % 32))
            for _, _, data in self.tensors:
                file.write(data)


def write(path, scripts, marks=None, context=4096):
    """Writes the model.

    scripts: {name: text}, one of them "hello". At the end of the prompt of one whose name ends with "_open" stands <think>, so that
    its text begins inside; that needs <think> as a mark, and there can be one such script.
    marks: {text: "control" or "user"} of tokens of their own, as models have for <think> and <tool_call>. Each is used once, in
    the script that comes first; others are spelled.
    """
    vocabulary = _Vocabulary()
    end = vocabulary.add(_END, _CONTROL)
    vocabulary.add(_START, _CONTROL)
    vocabulary.add("qz", _NORMAL)
    for mark, kind in (marks or {}).items():
        vocabulary.add(mark, {"control": _CONTROL, "user": _USER_DEFINED}[kind])
    has_open = any(name.endswith("_open") for name in scripts)
    unused, follows = [mark for mark in marks or {} if mark != "<think>" or not has_open], {}
    for name, text in scripts.items():
        here = vocabulary.add(f"<|play {name}|>", _CONTROL)
        if name.endswith("_open"):
            here = vocabulary.ids["<think>"]
        for token in vocabulary.cut(text, unused):
            assert here not in follows, f"token {here} has two followers"
            follows[here] = here = token
        follows[here] = end
        unused = [mark for mark in unused if vocabulary.ids[mark] not in follows]
    assert not unused, f"marks that no script uses: {unused}"

    # Dimension 0 is that of all tokens which no script has.
    place = {token: i for i, token in enumerate(follows, start=1)}
    hidden = -(-(len(place) + 1) // _UNIT) * _UNIT
    size = len(vocabulary.tokens)
    logit = _LOGIT / math.sqrt(hidden)  # the last norm gives a one-hot row the length sqrt(hidden)

    model = _Gguf()
    model.set("general.architecture", "llama")
    model.set("general.name", "scripted")
    for key, value in {"context_length": context, "embedding_length": hidden, "block_count": 1, "feed_forward_length": _UNIT,
                       "attention.head_count": 1, "attention.head_count_kv": 1, "attention.key_length": _UNIT,
                       "attention.value_length": _UNIT, "rope.dimension_count": _UNIT, "vocab_size": size,
                       "attention.layer_norm_rms_epsilon": 1e-6, "rope.freq_base": 10000.0}.items():
        model.set("llama." + key, value)
    for key, value in {"model": "gpt2", "pre": "gpt-2", "tokens": vocabulary.tokens, "token_type": vocabulary.types,
                       # Prompts are bytes, which nothing but a pair that no text has merges.
                       "merges": ["q z"], "eos_token_id": end}.items():
        model.set("tokenizer.ggml." + key, value)
    model.set("tokenizer.chat_template", TEMPLATE)
    model.add("token_embd.weight", size, hidden, entries=[(token, place.get(token, 0), 1.0) for token in range(size)])
    model.add("output_norm.weight", None, hidden, fill=1.0)
    model.add("output.weight", size, hidden, entries=[(end, 0, logit), *((to, place[token], logit) for token, to in follows.items())])
    for norm in ("attn_norm", "ffn_norm"):
        model.add(f"blk.0.{norm}.weight", None, hidden, fill=1.0)
    for name, rows, columns in [("attn_q", _UNIT, hidden), ("attn_k", _UNIT, hidden), ("attn_v", _UNIT, hidden),
                                ("attn_output", hidden, _UNIT), ("ffn_gate", _UNIT, hidden), ("ffn_up", _UNIT, hidden),
                                ("ffn_down", hidden, _UNIT)]:
        model.add(f"blk.0.{name}.weight", rows, columns)
    model.write(path)
