"""Wrong input: one clear line, exit code 2, never a crash."""

import json
import shutil
import struct
import unittest

from quipu_cli import CliTest, ids_model, quipu, scratch, text_model, write_llama


class Flags(CliTest):
    def test_an_unknown_flag_gets_the_nearest(self):
        message = self.refused("run", "-m", ids_model(), "--temperatur", "0", "x")
        self.assertIn("--temperatur", message)
        self.assertIn("did you mean '--temperature'", message)

    def test_an_unknown_command_gets_the_nearest(self):
        self.assertIn("did you mean 'tokenize'", self.refused("tokenise"))

    def test_nothing_at_all(self):
        self.assertEqual(quipu().returncode, 2)

    def test_values_that_make_no_sense(self):
        run = ["run", "-m", ids_model(), "--tokens", "1"]
        for flags in (["--temp", "-1"], ["--top-p", "2"], ["--kv-format", "int3"], ["--kv-format", "int8,"],
                      ["--kv-format", "int8,5=bf16"], ["--kv-format", "int8,bf16"], ["--kv-format", "int8,2-1=f32"],
                      ["--kv-memory", "many"],
                      ["--kv-cache", "maybe"], ["--kv-block", "17"], ["--threads", "-2"], ["--isa", "mmx"], ["-n", "x"],
                      ["--logit-bias", "five"], ["--chunk", "0"], ["--weights", "q9"], ["--ctx-size", "-5"]):
            with self.subTest(flags=flags):
                self.refused(*run, *flags)

    def test_sizes(self):
        run = ["run", "-m", ids_model(), "--tokens", "1,2", "-n", "2"]
        for size, expected in (("2MiB", 2 << 20), ("1.5MiB", 3 << 19), ("1MB", 10**6)):
            kv = self.json(*run, "--kv-memory", size)["kv"]
            self.assertLessEqual(kv["bytes"], expected)
            self.assertGreater(kv["bytes"], expected * 9 // 10)
        self.refused(*run, "--kv-memory", "1KiB")

    def test_token_ids(self):
        for tokens in ("1,,2", "a", "1,-2", "99999", ""):
            with self.subTest(tokens=tokens):
                self.refused("logits", "-m", ids_model(), "--tokens", tokens)

    def test_two_prompts(self):
        path = scratch("two.txt")
        path.write_text("x")
        self.refused("run", "-m", text_model(), "-f", path, "and this")

    def test_an_empty_prompt(self):
        self.refused("run", "-m", text_model(), "")

    def test_text_for_a_model_without_a_vocabulary(self):
        self.assertIn("--tokens", self.refused("run", "-m", ids_model(), "Hello"))

    def test_unknown_shapes_and_types(self):
        self.assertIn("tiny-llama", self.refused("synth", "--arch", "tiny-lama", "-o", scratch("x.gguf")))
        self.assertIn("q9", self.refused("synth", "--arch", "tiny-llama", "--type", "q9", "-o", scratch("x.gguf")))
        self.refused("quantize", ids_model(), scratch("x.gguf"), "--type", "iq2_xxs")


class Context(CliTest):
    def test_a_prompt_that_is_too_long_is_refused_with_the_numbers(self):
        message = self.refused("run", "-m", ids_model(), "--tokens", ",".join(["7"] * 100), "--ctx-size", "64")
        self.assertIn("100", message)
        self.assertIn("64", message)

    def test_a_context_that_fills_up_is_said(self):
        done = quipu("run", "-m", text_model(), "--ctx-size", "48", "-n", "500", "--ignore-eos", "--seed", "1", "Once upon a time")
        self.assertEqual(done.returncode, 0)
        self.assertIn(b"context is full", done.stderr)
        out = self.json("run", "-m", text_model(), "--ctx-size", "48", "-n", "500", "--ignore-eos", "--seed", "1", "Once upon a time")
        self.assertEqual(out["finish_reason"], "length")
        self.assertEqual(out["usage"]["prompt_tokens"] + out["usage"]["completion_tokens"], 48)

    def test_more_context_than_the_model_has(self):
        message = self.refused("run", "-m", ids_model(), "--tokens", "1", "--ctx-size", "999999")
        self.assertIn("2048", message)


class Files(CliTest):
    def broken(self, data, *expected):
        path = scratch("broken.gguf")
        path.write_bytes(data)
        for command in (["inspect", "-m", path], ["run", "-m", path, "--tokens", "1"], ["tokenize", "-m", path]):
            message = self.refused(*command)
            self.assertIn("broken.gguf", message)
            for word in expected:
                self.assertIn(word, message)

    def test_absent(self):
        self.assertIn("nowhere.gguf", self.refused("run", "-m", scratch("nowhere.gguf"), "x"))

    def test_not_a_model(self):
        self.broken(b"")
        self.broken(b"GGU")
        self.broken(b"hello, this is no model file at all, only text\n")
        self.broken(bytes(range(256)) * 16)

    def test_an_unknown_version(self):
        self.broken(b"GGUF" + struct.pack("<IQQ", 99, 1, 1), "99")

    def test_absurd_counts(self):
        self.broken(b"GGUF" + struct.pack("<IQQ", 3, 1 << 62, 1))
        self.broken(b"GGUF" + struct.pack("<IQQ", 3, 1, 1 << 62))
        self.broken(b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 60) + b"key")

    def test_truncated_anywhere(self):
        data = ids_model().read_bytes()
        for length in (8, 24, 100, 700, 1500, len(data) // 2, len(data) - 1):
            with self.subTest(length=length):
                self.broken(data[:length])

    def test_an_empty_directory(self):
        folder = scratch("empty-model")
        folder.mkdir()
        self.assertIn("config.json", self.refused("run", "-m", folder, "x"))


class Directories(CliTest):
    def model(self, name, **config):
        folder = scratch(name)
        folder.mkdir()
        write_llama(folder, vocabulary=60, hidden=32, inner=32, layers=1, heads=2, kv_heads=1, context=64)
        if config:
            path = folder / "config.json"
            path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
        return folder

    def run_ids(self, folder):
        return self.refused("run", "-m", folder, "--tokens", "1,2")

    def test_sound(self):
        self.assertEqual(len(self.json("run", "-m", self.model("dir-sound"), "--tokens", "1,2", "-n", 2)["token_ids"]), 2)

    def test_a_wrong_shape_names_the_tensor(self):
        message = self.run_ids(self.model("dir-shape", intermediate_size=48))
        self.assertRegex(message, "ffn_|mlp")

    def test_a_missing_tensor_is_named(self):
        self.assertIn("blk.1", self.run_ids(self.model("dir-missing", num_hidden_layers=2)).replace("layers.1", "blk.1"))

    def test_an_unsupported_architecture_lists_the_supported(self):
        message = self.run_ids(self.model("dir-arch", architectures=["MambaForCausalLM"], model_type="mamba"))
        for name in ("mamba", "llama", "qwen3"):
            self.assertIn(name, message)

    def test_a_config_that_is_no_json(self):
        folder = self.model("dir-json")
        (folder / "config.json").write_text('{"model_type": "llama", ')
        self.assertIn("config.json", self.run_ids(folder))

    def test_a_truncated_safetensors_file(self):
        folder = self.model("dir-short")
        path = folder / "model.safetensors"
        data = path.read_bytes()
        for length in (0, 4, 60, len(data) - 10):
            with self.subTest(length=length):
                path.write_bytes(data[:length])
                self.assertIn("model.safetensors", self.run_ids(folder))

    def test_an_index_that_points_outside(self):
        folder = self.model("dir-index")
        shutil.move(folder / "model.safetensors", folder / "other.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"model.norm.weight": "../../etc/passwd"}}))
        self.run_ids(folder)


if __name__ == "__main__":
    unittest.main()
