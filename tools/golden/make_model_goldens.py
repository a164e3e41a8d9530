#!/usr/bin/env python3
"""Makes tests/golden/models: tiny random-weight models and their golden logits.

The reference is the `transformers` implementation of each architecture, in float32 with eager
attention, on exactly the weights that the committed file holds (rounded to BF16, or dequantised).
Run once; the results are committed, and tests/golden/model_golden_test.cc compares quipu with them.

    python3 -m venv ENV && ENV/bin/pip install torch transformers safetensors gguf
    ENV/bin/python tools/golden/make_model_goldens.py [--only NAME]

Each case is one folder:
    config.json, model*.safetensors     a Hugging Face directory, or
    model.gguf                          a GGUF file (written by the `gguf` package);
    golden.json                         tokens, positions, greedy continuation, and where from
    logits.f32                          [positions, vocabulary] little-endian float32

Weights are scaled so that the logits spread over several units and attention is neither uniform nor
one-hot; prompts are chosen so that the greedy continuation never rests on a near tie.
"""

import argparse
import json
import pathlib
import shutil
import tempfile
import zlib

import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

import gguf_export
from golden_cases import GGUF_CASES, HF_CASES

ROOT = pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden" / "models"
DEFAULT_TOKENS = 40
DEFAULT_POSITIONS = [0, 1, 7, 15, 16, 31, 32, 39]
GREEDY_TOKENS = 16
GREEDY_MARGIN = 0.05  # between the best and the second-best logit, at every greedy step


def seed_of(name):
    """A seed that belongs to the case, so that adding a case changes no other."""
    return zlib.crc32(name.encode())


def random_weight(rng, name, shape, conv1d, tied, gain_of_one_more=False):
    """One tensor, scaled by its role. conv1d: gpt2 stores [in, out]. gain_of_one_more: a norm's
    gain is 1 + w (Gemma)."""
    if len(shape) == 1:
        if name.endswith("bias"):
            return 0.2 * rng.standard_normal(shape)
        if gain_of_one_more:
            # The parts must outweigh the embedding that the residual stream starts with, or a tied
            # head repeats the last token.
            part = max(2.0, shape[0] / 32) if "post_" in name else 0.0
            return part + 0.25 * rng.standard_normal(shape)
        return 1.0 + 0.25 * rng.standard_normal(shape)  # norms
    fan_in = shape[0] if conv1d else shape[1]
    gain = 1.0
    if any(part in name for part in ("q_proj", "k_proj", "qkv_proj", "c_attn")):
        gain = 1.1
    elif "gate_proj" in name or "up_proj" in name or "c_fc" in name:  # gate_up_proj too
        gain = 1.5
    elif "lm_head" in name or ("embed_tokens" in name or "wte" in name) and tied:
        gain = 2.5
    elif "embed_tokens" in name or "wte" in name:
        gain = np.sqrt(fan_in)
    elif "wpe" in name:
        gain = 0.4 * np.sqrt(fan_in)
    return gain / np.sqrt(fan_in) * rng.standard_normal(shape)


def make_weights(name, model, config):
    """{reference name: float32 tensor} for every parameter of `model`."""
    rng = np.random.default_rng(seed_of(name))
    gemma = config["model_type"].startswith("gemma")
    tied = config.get("tie_word_embeddings",
                      gemma or config["model_type"] in ("gpt2", "gpt_bigcode"))
    weights = {}
    for key, parameter in model.named_parameters():  # a tied head appears once, as the embedding
        conv1d = config["model_type"] == "gpt2" and ("c_" in key)
        values = random_weight(rng, key, tuple(parameter.shape), conv1d, tied, gemma)
        weights[key] = torch.from_numpy(values.astype(np.float32))
    return weights


def save_hf_weights(folder, weights, config, case):
    """model.safetensors, or shards and their index."""
    dtype = getattr(torch, case.get("dtype", "bfloat16"))
    tensors = {key: value.to(dtype).contiguous() for key, value in weights.items()}
    if case.get("published_names"):
        tensors = {key.removeprefix("transformer."): value for key, value in tensors.items()}
        size = config["n_positions"]
        for layer in range(config["n_layer"]):
            mask = torch.tril(torch.ones(size, size)).view(1, 1, size, size)
            tensors[f"h.{layer}.attn.bias"] = mask.to(dtype)
    if case.get("language_model"):
        tensors = {"language_model." + key: value for key, value in tensors.items()}
        tensors["vision_tower.patch.weight"] = torch.ones(2, 2, 2, 2, dtype=dtype)
        tensors["multi_modal_projector.norm.weight"] = torch.ones(4, dtype=dtype)
    shards = case.get("shards", 1)
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    keys = list(tensors)
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = keys[shard * len(keys) // shards:(shard + 1) * len(keys) // shards]
        save_file({key: tensors[key] for key in part}, folder / file, metadata={"format": "pt"})
        weight_map.update({key: file for key in part})
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


def load_reference(folder):
    """The reference model from a directory; fails if a weight is missing."""
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    problems = [key for key in info["missing_keys"] if key != "lm_head.weight"]
    assert not problems and not info["mismatched_keys"], (problems, info)
    return model.eval()


def load_quantised_reference(config, weights):
    """The reference model with these weights ({name: array})."""
    model = empty_model(config)
    state = {key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in weights.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and all(key == "lm_head.weight" for key in missing), (missing, unexpected)
    model.tie_weights()
    return model.eval()


def empty_model(config):
    """A float32 model of this configuration, to be filled."""
    with tempfile.TemporaryDirectory() as folder:
        (pathlib.Path(folder) / "config.json").write_text(json.dumps(config))
        loaded = AutoConfig.from_pretrained(folder)
    return AutoModelForCausalLM.from_config(loaded, dtype=torch.float32,
                                            attn_implementation="eager")


@torch.no_grad()
def logits_of(model, tokens):
    """SHAPE: [len(tokens), vocabulary]."""
    return model(torch.tensor([tokens]), use_cache=False).logits[0].float()


def greedy(model, tokens, count):
    """The continuation and the smallest margin on the way, recomputing everything at each step."""
    tokens, out, margin = list(tokens), [], float("inf")
    for _ in range(count):
        best = torch.topk(logits_of(model, tokens)[-1], 2)
        margin = min(margin, float(best.values[0] - best.values[1]))
        out.append(int(best.indices[0]))
        tokens.append(out[-1])
    return out, margin


def choose_prompt(name, model, config, count):
    """Random tokens whose greedy continuation has no near tie."""
    for attempt in range(200):
        rng = np.random.default_rng([seed_of(name), attempt])
        tokens = rng.integers(0, config["vocab_size"], count).tolist()
        continuation, margin = greedy(model, tokens, GREEDY_TOKENS)
        if margin >= GREEDY_MARGIN and len(set(continuation)) > 3:
            return tokens, continuation, margin
    raise RuntimeError(f"{name}: no prompt with a clear greedy continuation")


def attention_entropy(model, tokens):
    """Mean entropy of the last token's attention, relative to uniform: 1 is uniform, 0 one-hot."""
    with torch.no_grad():
        out = model(torch.tensor([tokens]), use_cache=False, output_attentions=True)
    last = torch.stack([layer[0, :, -1] for layer in out.attentions])
    entropy = -(last * torch.log(last.clamp_min(1e-30))).sum(-1).mean()
    return float(entropy / np.log(len(tokens)))


def with_int8_activations(model, tokens):
    """Logits when every linear layer's input is rounded to int8 per group of 32: what an engine
    with integer dot products computes. Says how near 1e-3 such an engine must come."""
    def round_input(_module, args):
        x = args[0]
        groups = torch.nn.functional.pad(x, (0, -x.shape[-1] % 32)).unflatten(-1, (-1, 32))
        step = groups.abs().amax(-1, keepdim=True).clamp_min(1e-30) / 127
        return (((groups / step).round() * step).flatten(-2)[..., :x.shape[-1]],)

    linear = [m for m in model.modules()
              if isinstance(m, (torch.nn.Linear, transformers.pytorch_utils.Conv1D))]
    hooks = [module.register_forward_pre_hook(round_input) for module in linear]
    logits = logits_of(model, tokens)
    for hook in hooks:
        hook.remove()
    return logits


def write_golden(folder, name, model, case, file):
    """golden.json and logits.f32; prints one line about the case."""
    config = case["config"]
    count = case.get("tokens", DEFAULT_TOKENS)
    positions = case.get("at", DEFAULT_POSITIONS)
    tokens, continuation, margin = choose_prompt(name, model, config, count)
    logits = logits_of(model, tokens)
    rounded = with_int8_activations(model, tokens)
    int8_nmse = float(((logits - rounded) ** 2).mean() / (logits ** 2).mean())
    golden = {
        "case": name,
        "architecture": gguf_export.ARCHITECTURES[config["model_type"]],
        "reference": f"transformers {transformers.__version__}, torch "
                     f"{torch.__version__.split('+')[0]}, float32, eager attention",
        "model": file,
        "vocab_size": config["vocab_size"],
        "tokens": tokens,
        "logit_positions": positions,
        **({"context": case["context"]} if "context" in case else {}),
        "logits": "logits.f32",
        "greedy": continuation,
        "greedy_margin": round(margin, 4),
        "int8_activation_nmse": float(f"{int8_nmse:.2e}"),
    }
    (folder / "golden.json").write_text(json.dumps(golden) + "\n")
    kept = logits[positions].numpy().astype("<f4")
    assert np.isfinite(kept).all()
    (folder / "logits.f32").write_bytes(kept.tobytes())
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{name:28} {size / 1e3:6.0f} kB  std {float(logits.std()):5.2f}  entropy "
          f"{attention_entropy(model, tokens):4.2f}  margin {margin:5.3f}  int8 {int8_nmse:.1e}")


def make_hf_case(name, case):
    folder = fresh_folder(name)
    config = case["config"]
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    weights = make_weights(name, empty_model(config), config)
    save_hf_weights(folder, weights, config, case)
    if not case.get("language_model"):
        write_golden(folder, name, load_reference(folder), case, ".")
        return
    # The reference of the text alone, from the same rounded weights.
    rounded = {key: value.to(torch.bfloat16).float() for key, value in weights.items()}
    write_golden(folder, name, load_quantised_reference(config, rounded), case, ".")
    outer = {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3",
             "text_config": config, "vision_config": {"model_type": "siglip_vision_model"},
             "bos_token_id": 2, "eos_token_id": [1, 106]}
    (folder / "config.json").write_text(json.dumps(outer, indent=2) + "\n")


def make_gguf_case(name, case):
    folder = fresh_folder(name)
    config = case["config"]
    weights = {key: value.numpy() for key, value in
               make_weights(name, empty_model(config), config).items()}
    transposed = {key for key in weights if config["model_type"] == "gpt2" and "c_" in key
                  and key.endswith("weight")}
    flip = {key: np.ascontiguousarray(value.T) if key in transposed else value
            for key, value in weights.items()}
    stored = gguf_export.write_gguf(folder / "model.gguf", config, flip, case["scheme"])
    back = {key: value.T if key in transposed else value for key, value in stored.items()}
    write_golden(folder, name, load_quantised_reference(config, back), case, "model.gguf")


def fresh_folder(name):
    folder = ROOT / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="make only the cases whose name contains this")
    only = parser.parse_args().only or ""
    torch.set_num_threads(1)
    for name, case in HF_CASES.items():
        if only in name:
            make_hf_case(name, case)
    for name, case in GGUF_CASES.items():
        if only in name:
            make_gguf_case(name, case)


if __name__ == "__main__":
    main()
