#!/usr/bin/env python3
"""Makes tests/golden/encoder_decoder: tiny encoder-decoder models and their golden logits.

The reference is the `transformers` implementation in float32 with eager attention, on exactly the
weights that the committed file holds: T5 1.0 and 1.1 for `t5`; MarianMT (norms after each part) and
Pegasus (norms before) for `transformer`. Run once; tests/golden/encoder_decoder_golden_test.cc
compares quipu with the results.

    python3 -m venv ENV && ENV/bin/pip install torch transformers safetensors gguf
    ENV/bin/python tools/golden/make_encoder_decoder_goldens.py [--only NAME]

Each case is one folder:
    config.json, model.safetensors      a Hugging Face directory (weights rounded to BF16), or
    model.gguf                          a GGUF file of F32 weights (written by the `gguf` package);
    golden.json                         the input, decoder tokens, positions, greedy continuation
    logits.f32                          [positions, vocabulary] little-endian float32

The logits are those of given decoder tokens; `greedy` continues from the start token alone. Weights
are scaled so that logits spread over several units and attention is neither uniform nor one-hot;
inputs are chosen so that the greedy continuation never rests on a near tie.
"""

import argparse
import json
import pathlib
import re
import shutil
import zlib

import numpy as np
import torch
import transformers
from gguf import GGUFWriter
from safetensors.torch import save_file

ROOT = pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden" / "encoder_decoder"
GREEDY_TOKENS = 16
GREEDY_MARGIN = 0.05


def _t5(**changes):
    config = {
        "architectures": ["T5ForConditionalGeneration"], "model_type": "t5", "d_model": 32, "d_kv": 8,
        "d_ff": 64, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4, "vocab_size": 101,
        "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128,
        "feed_forward_proj": "relu", "layer_norm_epsilon": 1e-6, "is_encoder_decoder": True,
        "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1, "n_positions": 512,
        "torch_dtype": "bfloat16",
    }
    config.update(changes)
    return config


def _seq2seq(model_type, **changes):
    config = {
        "model_type": model_type, "d_model": 24, "encoder_layers": 2, "decoder_layers": 2,
        "encoder_attention_heads": 3, "decoder_attention_heads": 3, "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48, "vocab_size": 67, "max_position_embeddings": 640,
        "activation_function": "swish", "scale_embedding": True, "pad_token_id": 66,
        "decoder_start_token_id": 66, "eos_token_id": 0, "forced_eos_token_id": None,
    }
    config.update(changes)
    return config


# `input`: tokens of the encoder; `tokens`: of the decoder; `at`: positions whose logits are kept;
# `distinct`: tokens in the greedy continuation.
CASES = {
    # Distances beyond every bucket's own range and beyond the last bucket's beginning.
    "t5-relu-tied": dict(config=_t5(), input=150, tokens=140, at=[0, 1, 8, 20, 63, 127, 128, 139]),
    "t5-gated": dict(config=_t5(feed_forward_proj="gated-gelu", tie_word_embeddings=False, d_kv=16,
                                num_layers=1, num_decoder_layers=3)),
    # More positions than one chunk of attention, in the encoder and across.
    "t5-long-input": dict(config=_t5(num_layers=1, num_decoder_layers=1, n_positions=640,
                                     relative_attention_num_buckets=16,
                                     relative_attention_max_distance=64), input=600),
    "t5-gated-gguf": dict(config=_t5(feed_forward_proj="gated-gelu", tie_word_embeddings=False,
                                     num_decoder_layers=1), gguf="t5"),
    "t5-relu-tied-gguf": dict(config=_t5(num_layers=1), gguf="t5"),
    "transformer-norm-after": dict(config=_seq2seq("marian"), gguf="transformer"),
    "transformer-norm-before": dict(config=_seq2seq("pegasus", activation_function="gelu",
                                                    decoder_layers=1, tie_word_embeddings=False),
                                    gguf="transformer"),
    "transformer-long-input": dict(config=_seq2seq("pegasus", activation_function="relu",
                                                   scale_embedding=False, encoder_layers=1,
                                                   decoder_layers=1, tie_word_embeddings=False),
                                  gguf="transformer", input=600, distinct=1),
}
DEFAULT_INPUT, DEFAULT_TOKENS, DEFAULT_POSITIONS = 37, 40, [0, 1, 7, 15, 16, 31, 32, 39]

CLASSES = {"t5": (transformers.T5Config, transformers.T5ForConditionalGeneration),
           "marian": (transformers.MarianConfig, transformers.MarianMTModel),
           "pegasus": (transformers.PegasusConfig, transformers.PegasusForConditionalGeneration)}


LAST_NORM = {"t5": r"^decoder\.final_layer_norm", "pegasus": r"^model\.decoder\.layer_norm",
             "marian": r"^model\.decoder\.layers\.{}\.final_layer_norm"}


def random_weight(rng, name, shape, config, tied):
    """One tensor, scaled by its role."""
    if len(shape) == 1:
        if name.endswith("bias"):
            return 0.1 * rng.standard_normal(shape)
        # Norms. A tied head multiplies with embeddings that are kept small, so that the residual
        # stream does not predict the token it began with: the last norm makes up for it.
        last = re.search(LAST_NORM[config["model_type"]].format(config.get("decoder_layers", 0) - 1), name)
        return ((4.0 if config["model_type"] == "t5" else 2.0) if tied and last else 1.0) * (1.0 + 0.25 * rng.standard_normal(shape))
    root = np.sqrt(shape[1])
    t5 = config["model_type"] == "t5"
    if "relative_attention_bias" in name:
        return 1.0 * rng.standard_normal(shape)
    if "shared" in name or "embed_tokens" in name:
        if t5:  # a tied head sees inputs divided by the root
            return (0.6 if tied else 1.0) * rng.standard_normal(shape)
        scale = 1.4 if tied else 1.0 if config["scale_embedding"] else root
        return scale / root * rng.standard_normal(shape)
    gain = 1.5
    if re.search(r"\.q\.weight$", name):
        gain = 1.3 / np.sqrt(config["d_kv"])  # T5 does not scale scores
    elif "lm_head" in name:
        gain = 2.5
    elif re.search(r"wi|fc1|q_proj|k_proj", name):
        gain = 1.4
    return gain / root * rng.standard_normal(shape)


def is_tied(config):
    return config.get("tie_word_embeddings", True)


def make_model(name, config, round_to):
    """The reference model, filled with random weights that `round_to` can hold."""
    config_class, model_class = CLASSES[config["model_type"]]
    loaded = config_class(**{key: value for key, value in config.items() if key != "torch_dtype"})
    loaded._attn_implementation = "eager"
    model = model_class(loaded).float().eval()
    if not is_tied(config):
        # The library ties some heads always; files of T5 1.1 hold one of their own.
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
        assert getattr(model.config, "scale_decoder_outputs", False) is False
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "embed_positions" in key:
                continue
            values = random_weight(rng, key, tuple(parameter.shape), config, is_tied(config))
            parameter.copy_(torch.from_numpy(values.astype(np.float32)).to(round_to))
        if hasattr(model, "final_logits_bias"):
            bias = 0.3 * rng.standard_normal(model.final_logits_bias.shape)
            model.final_logits_bias.copy_(torch.from_numpy(bias.astype(np.float32)))
    return model


@torch.no_grad()
def logits_of(model, inputs, tokens):
    """SHAPE: [len(tokens), vocabulary]."""
    out = model(input_ids=torch.tensor([inputs]), decoder_input_ids=torch.tensor([tokens]),
                use_cache=False)
    return out.logits[0].float()


def greedy(model, inputs, start):
    """The continuation and the smallest margin on the way, recomputing everything at each step."""
    tokens, margin = [start], float("inf")
    for _ in range(GREEDY_TOKENS):
        best = torch.topk(logits_of(model, inputs, tokens)[-1], 2)
        margin = min(margin, float(best.values[0] - best.values[1]))
        tokens.append(int(best.indices[0]))
    return tokens[1:], margin


def choose_input(name, model, config, count, distinct):
    for attempt in range(200):
        rng = np.random.default_rng([zlib.crc32(name.encode()), attempt])
        inputs = rng.integers(2, config["vocab_size"] - 1, count).tolist()
        continuation, margin = greedy(model, inputs, config["decoder_start_token_id"])
        if margin >= GREEDY_MARGIN and len(set(continuation)) >= distinct:
            return inputs, continuation, margin
    raise RuntimeError(f"{name}: no input with a clear greedy continuation")


# Reference names -> GGUF names, stated here from the description of the format and not shared with
# quipu's own reader: agreement between the two is the test.
T5_RULES = [
    (r"^shared\.", "token_embd."), (r"^lm_head\.", "output."),
    (r"^(en|de)coder\.final_layer_norm\.", r"\1c.output_norm."),
    (r"^(en|de)coder\.block\.(\d+)\.layer\.0\.layer_norm\.", r"\1c.blk.\2.attn_norm."),
    (r"^(en|de)coder\.block\.(\d+)\.layer\.0\.SelfAttention\.relative_attention_bias\.",
     r"\1c.blk.\2.attn_rel_b."),
    (r"^(en|de)coder\.block\.(\d+)\.layer\.0\.SelfAttention\.(\w)\.", r"\1c.blk.\2.attn_\3."),
    (r"^decoder\.block\.(\d+)\.layer\.1\.layer_norm\.", r"dec.blk.\1.cross_attn_norm."),
    (r"^decoder\.block\.(\d+)\.layer\.1\.EncDecAttention\.(\w)\.", r"dec.blk.\1.cross_attn_\2."),
    (r"^(en|de)coder\.block\.(\d+)\.layer\.[12]\.layer_norm\.", r"\1c.blk.\2.ffn_norm."),
    (r"^(en|de)coder\.block\.(\d+)\.layer\.[12]\.DenseReluDense\.wi_0\.", r"\1c.blk.\2.ffn_gate."),
    (r"^(en|de)coder\.block\.(\d+)\.layer\.[12]\.DenseReluDense\.wi(_1)?\.", r"\1c.blk.\2.ffn_up."),
    (r"^(en|de)coder\.block\.(\d+)\.layer\.[12]\.DenseReluDense\.wo\.", r"\1c.blk.\2.ffn_down."),
]
SEQ2SEQ_RULES = [
    (r"^model\.shared\.", "token_embd."),
    # Untied, encoder and decoder have embeddings of their own.
    (r"^model\.encoder\.embed_tokens\.", "enc.token_embd."),
    (r"^model\.decoder\.embed_tokens\.", "token_embd."), (r"^lm_head\.", "output."),
    (r"^model\.(en|de)coder\.layer_norm\.", r"\1c.output_norm."),
    (r"^model\.(en|de)coder\.layers\.(\d+)\.self_attn\.(\w)_proj\.", r"\1c.blk.\2.attn_\3."),
    (r"^model\.(en|de)coder\.layers\.(\d+)\.self_attn\.out_proj\.", r"\1c.blk.\2.attn_o."),
    (r"^model\.(en|de)coder\.layers\.(\d+)\.self_attn_layer_norm\.", r"\1c.blk.\2.attn_norm."),
    (r"^model\.decoder\.layers\.(\d+)\.encoder_attn\.(\w)_proj\.", r"dec.blk.\1.cross_attn_\2."),
    (r"^model\.decoder\.layers\.(\d+)\.encoder_attn\.out_proj\.", r"dec.blk.\1.cross_attn_o."),
    (r"^model\.decoder\.layers\.(\d+)\.encoder_attn_layer_norm\.", r"dec.blk.\1.cross_attn_norm."),
    (r"^model\.(en|de)coder\.layers\.(\d+)\.fc1\.", r"\1c.blk.\2.ffn_up."),
    (r"^model\.(en|de)coder\.layers\.(\d+)\.fc2\.", r"\1c.blk.\2.ffn_down."),
    (r"^model\.(en|de)coder\.layers\.(\d+)\.final_layer_norm\.", r"\1c.blk.\2.ffn_norm."),
]


def gguf_name(name, rules):
    for pattern, replacement in rules:
        renamed, count = re.subn(pattern, replacement, name)
        if count:
            return renamed
    raise KeyError(name)


def write_gguf(path, config, model):
    t5 = config["model_type"] == "t5"
    writer = GGUFWriter(str(path), "t5" if t5 else "transformer")
    arch = writer.arch
    writer.add_name(f"golden {arch}")
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(config["vocab_size"])
    writer.add_embedding_length(config["d_model"])
    writer.add_uint32(f"{arch}.decoder_start_token_id", config["decoder_start_token_id"])
    if t5:
        writer.add_context_length(config["n_positions"])
        writer.add_block_count(config["num_layers"])
        writer.add_uint32("t5.decoder_block_count", config["num_decoder_layers"])
        writer.add_feed_forward_length(config["d_ff"])
        writer.add_head_count(config["num_heads"])
        writer.add_key_length(config["d_kv"])
        writer.add_value_length(config["d_kv"])
        writer.add_layer_norm_eps(config["layer_norm_epsilon"])
        writer.add_layer_norm_rms_eps(config["layer_norm_epsilon"])
        writer.add_uint32("t5.attention.relative_buckets_count",
                          config["relative_attention_num_buckets"])
    else:
        writer.add_context_length(config["max_position_embeddings"])
        writer.add_block_count(config["encoder_layers"])
        writer.add_uint32("transformer.decoder_block_count", config["decoder_layers"])
        writer.add_feed_forward_length(config["encoder_ffn_dim"])
        writer.add_head_count(config["encoder_attention_heads"])
        writer.add_layer_norm_eps(1e-5)
        writer.add_string("transformer.norm_placement",
                          "after" if config["model_type"] == "marian" else "before")
        writer.add_string("transformer.activation",
                          {"swish": "silu"}.get(config["activation_function"],
                                                config["activation_function"]))
        writer.add_float32("transformer.embedding_scale",
                           config["d_model"] ** 0.5 if config["scale_embedding"] else 1.0)
        writer.add_string("transformer.position.layout", "halves")
        writer.add_string("transformer.position.frequencies", "exclusive")
        writer.add_uint32("transformer.position.first", 0)
    rules = T5_RULES if t5 else SEQ2SEQ_RULES
    parameters = dict(model.named_parameters())
    unused = "model.shared." if "model.encoder.embed_tokens.weight" in parameters else "embed_positions"
    for key, parameter in parameters.items():
        if unused not in key and "embed_positions" not in key:
            writer.add_tensor(gguf_name(key, rules), parameter.detach().numpy().astype(np.float32))
    if not t5:
        writer.add_tensor("output.bias", model.final_logits_bias[0].numpy().astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def make_case(name, case):
    folder = ROOT / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    config = case["config"]
    gguf = "gguf" in case
    model = make_model(name, config, torch.float32 if gguf else torch.bfloat16)
    if gguf:
        write_gguf(folder / "model.gguf", config, model)
    else:
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        tensors = {key: value.detach().to(torch.bfloat16).contiguous()
                   for key, value in model.named_parameters()}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    inputs, continuation, margin = choose_input(name, model, config, case.get("input", DEFAULT_INPUT),
                                                case.get("distinct", 3))
    rng = np.random.default_rng([zlib.crc32(name.encode()), 1000])
    count, positions = case.get("tokens", DEFAULT_TOKENS), case.get("at", DEFAULT_POSITIONS)
    tokens = [config["decoder_start_token_id"]] + rng.integers(2, config["vocab_size"] - 1,
                                                               count - 1).tolist()
    logits = logits_of(model, inputs, tokens)
    golden = {
        "case": name,
        "reference": f"transformers {transformers.__version__}, torch "
                     f"{torch.__version__.split('+')[0]}, float32, eager attention",
        "model": "model.gguf" if gguf else ".",
        "vocab_size": config["vocab_size"],
        "input": inputs,
        "tokens": tokens,
        "logit_positions": positions,
        "logits": "logits.f32",
        "greedy": continuation,
        "greedy_margin": round(margin, 4),
    }
    (folder / "golden.json").write_text(json.dumps(golden) + "\n")
    kept = logits[positions].numpy().astype("<f4")
    assert np.isfinite(kept).all()
    (folder / "logits.f32").write_bytes(kept.tobytes())
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{name:26} {size / 1e3:6.0f} kB  std {float(logits.std()):5.2f}  margin {margin:5.3f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="make only the cases whose name contains this")
    only = parser.parse_args().only or ""
    torch.set_num_threads(1)
    for name, case in CASES.items():
        if only in name:
            make_case(name, case)


if __name__ == "__main__":
    main()
