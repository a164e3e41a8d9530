"""What the command-line tests share: running the program, and small models to run it on.

Environment: QUIPU_PROGRAM (the built program), QUIPU_SHARED_DIR (data that may be absent).
"""

import atexit
import json
import os
import pathlib
import random
import shutil
import struct
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = os.environ.get("QUIPU_PROGRAM", str(ROOT / "build" / "release" / "quipu"))
SHARED = pathlib.Path(os.environ.get("QUIPU_SHARED_DIR", ROOT.parent / "shared"))
TIME_OUT_S = 120

_scratch = tempfile.mkdtemp(prefix="quipu-cli-")
atexit.register(shutil.rmtree, _scratch, True)
_models = {}


def scratch(name):
    return pathlib.Path(_scratch, name)


def environment(**changes):
    """This process's environment without any QUIPU_ variable or configuration of the person who runs the tests."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("QUIPU_")}
    return {**clean, "QUIPU_CONFIG": "/dev/null", **changes}


def quipu(*arguments, stdin="", env=None, **options):
    """Runs the program to its end."""
    if isinstance(stdin, str):
        stdin = stdin.encode()
    return subprocess.run([PROGRAM, *map(str, arguments)], input=stdin, capture_output=True, timeout=TIME_OUT_S,
                          env=env or environment(), check=False, **options)


class CliTest(unittest.TestCase):
    def ok(self, *arguments, **options):
        """Runs the program, which must succeed; its standard output as text."""
        done = quipu(*arguments, **options)
        self.assertEqual(done.returncode, 0, done.stderr.decode(errors="replace"))
        return done.stdout.decode()

    def json(self, *arguments, **options):
        """The one JSON object that the command prints."""
        lines = self.ok(*arguments, "--json", **options).splitlines()
        self.assertEqual(len(lines), 1)
        return json.loads(lines[0])

    def refused(self, *arguments, code=2, **options):
        """Runs the program, which must fail with one clear line; that line."""
        done = quipu(*arguments, **options)
        message = done.stderr.decode()
        self.assertEqual(done.returncode, code, f"stderr: {message}\nstdout: {done.stdout[:300]!r}")
        self.assertEqual(done.stdout, b"")
        self.assertTrue(message.startswith("quipu: error: "), message)
        self.assertLessEqual(len(message.splitlines()), 2, message)
        return message


# ---- models

def ids_model():
    """A model without a vocabulary, as `quipu synth` writes it."""
    if "ids" not in _models:
        path = scratch("tiny-llama.gguf")
        done = quipu("synth", "--arch", "tiny-llama", "--type", "q8_0", "--seed", "3", "-o", path)
        if done.returncode != 0:
            raise AssertionError(done.stderr.decode())
        _models["ids"] = path
    return _models["ids"]


def text_model():
    """A small Llama with random weights and the tokenizer of the built-in model: a directory."""
    if "text" not in _models:
        folder = scratch("text-model")
        folder.mkdir()
        for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
            shutil.copy(ROOT / "models" / "tokenizer" / name, folder)
        tokenizer = json.loads((folder / "tokenizer.json").read_text())
        ids = list(tokenizer["model"]["vocab"].values()) + [entry["id"] for entry in tokenizer["added_tokens"]]
        write_llama(folder, vocabulary=max(ids) + 1, hidden=64, inner=96, layers=2, heads=4, kv_heads=2, context=2048)
        _models["text"] = folder
    return _models["text"]


def text_gguf():
    """text_model() as one GGUF file."""
    if "gguf" not in _models:
        path = scratch("text-model.gguf")
        done = quipu("quantize", text_model(), path, "--type", "q8_0")
        if done.returncode != 0:
            raise AssertionError(done.stderr.decode())
        _models["gguf"] = path
    return _models["gguf"]


def write_llama(folder, vocabulary, hidden, inner, layers, heads, kv_heads, context):
    head_dim = hidden // heads
    shapes = {"model.embed_tokens.weight": (vocabulary, hidden), "model.norm.weight": (hidden,)}
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        shapes.update({
            prefix + "input_layernorm.weight": (hidden,), prefix + "post_attention_layernorm.weight": (hidden,),
            prefix + "self_attn.q_proj.weight": (hidden, hidden), prefix + "self_attn.o_proj.weight": (hidden, hidden),
            prefix + "self_attn.k_proj.weight": (kv_heads * head_dim, hidden),
            prefix + "self_attn.v_proj.weight": (kv_heads * head_dim, hidden),
            prefix + "mlp.gate_proj.weight": (inner, hidden), prefix + "mlp.up_proj.weight": (inner, hidden),
            prefix + "mlp.down_proj.weight": (hidden, inner)})
    draw = random.Random(7)
    header, body = {}, bytearray()
    for name, shape in shapes.items():
        count = shape[0] * (shape[1] if len(shape) > 1 else 1)
        if len(shape) == 1:
            values = [1.0] * count
        else:  # uniform with deviation 1 / sqrt(inputs)
            width = (12 / shape[1]) ** 0.5
            values = [width * (draw.random() - 0.5) for _ in range(count)]
        data = struct.pack(f"<{count}f", *values)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + bytes(body))
    (folder / "config.json").write_text(json.dumps({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden, "intermediate_size": inner,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads,
        "max_position_embeddings": context, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "vocab_size": vocabulary,
        "hidden_act": "silu", "tie_word_embeddings": True, "torch_dtype": "float32"}))
