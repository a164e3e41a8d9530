"""Encoder-decoder models as a person meets them: real transliteration weights, sampling defaults, errors."""

import json
import subprocess
import sys
import unittest

from quipu_cli import ROOT, SHARED, CliTest, scratch

FOLDER = SHARED / "data" / "weights" / "aren-transliteration"
CONVERTER = ROOT / "tools" / "convert" / "ctranslate2_to_gguf.py"


def convert(folder, path):
    return subprocess.run([sys.executable, CONVERTER, folder, path], capture_output=True, text=True)


@unittest.skipUnless((FOLDER / "model.bin").is_file(), "the aren-transliteration weights are not beside this checkout")
class Transliteration(CliTest):
    def model(self):
        path = scratch("aren.gguf")
        if not path.exists():
            done = convert(FOLDER, path)
            self.assertEqual(done.returncode, 0, done.stderr)
        return path

    def test_the_known_output_with_the_files_own_defaults(self):
        self.assertEqual(self.ok("run", "-m", self.model(), "آتزمون"), "atzmon\n")

    def test_every_instruction_set_format_thread_count_and_no_cache(self):
        for isa in self.json("doctor", "--threads", 1)["instruction_sets"]:
            for flags in (["--kv-format", "f32"], ["--kv-format", "bf16"], ["--kv-format", "int8"],
                          ["--kv-format", "int4"], ["--kv-cache", "off"], ["--threads", "1"], ["--chunk", "1"], ["--kv-block", "16"]):
                with self.subTest(isa=isa, flags=flags):
                    out = self.json("run", "-m", self.model(), "--isa", isa, *flags, "آتزمون")
                    self.assertEqual(out["text"], "atzmon")
                    self.assertEqual(out["finish_reason"], "stop")
                    # Six characters for the encoder, and <s> for the decoder.
                    self.assertEqual(out["usage"]["prompt_tokens"], 7)

    def test_a_flag_wins_over_the_files_default(self):
        hot = {self.json("run", "-m", self.model(), "--temp", 3, "--top-k", 0, "--top-p", 1, "--min-p", 0,
                         "--seed", seed, "-n", 8, "آتزمون")["text"] for seed in range(4)}
        self.assertGreater(len(hot), 1)

    def test_what_inspect_says_of_both_caches(self):
        out = self.json("inspect", "-m", self.model())
        # 6 layers * 8 heads * (4 + 4) elements * 4 bytes
        self.assertEqual(out["kv"]["f32"]["bytes_per_token"], 1536)
        self.assertEqual(out["kv"]["f32"]["input_bytes_per_token"], 1536)
        self.assertIn("encoded input", self.ok("inspect", "-m", self.model()))
        self.assertEqual(out["metadata"]["general.architecture"], "transformer")

    def test_vocabularies_of_both_sides(self):
        out = self.json("tokenize", "-m", self.model(), stdin="آت!")
        self.assertEqual(out["pieces"], ["آ", "ت", "<unk>"])
        self.assertEqual(self.json("tokenize", "-m", self.model(), "--decode", stdin="3,11")["text"], "at")

    def test_perplexity_does_not_apply(self):
        text = scratch("aren.txt")
        text.write_text("آتزمون")
        self.assertIn("encoder-decoder", self.refused("perplexity", "-m", self.model(), "-f", text))

    def test_the_converter_refuses_broken_files(self):
        broken = scratch("aren-broken")
        broken.mkdir(exist_ok=True)
        for name in ("source_vocabulary.txt", "target_vocabulary.txt"):
            (broken / name).write_bytes((FOLDER / name).read_bytes())
        whole = (FOLDER / "model.bin").read_bytes()
        for part, message in ((whole[:5000], "expected"), (b"\x09\0\0\0" + whole[4:], "version 9"),
                              (whole.replace(b"decoder/projection/bias", b"decoder/projection/bios"), "no tensor")):
            (broken / "model.bin").write_bytes(part)
            done = convert(broken, scratch("aren-broken.gguf"))
            self.assertEqual(done.returncode, 2)
            self.assertIn(message, done.stderr)
            self.assertFalse(scratch("aren-broken.gguf").exists())


class SyntheticT5(CliTest):
    def model(self):
        path = scratch("tiny-t5.gguf")
        if not path.exists():
            self.ok("synth", "--arch", "tiny-t5", "-o", path, "--type", "f32", "--quiet")
        return path

    def test_the_likeliest_tokens_without_any_flag(self):
        first = self.json("run", "-m", self.model(), "--tokens", "5,6,7", "-n", 12)
        self.assertEqual(first["usage"], {"prompt_tokens": 4, "completion_tokens": 12, "cached_tokens": 0})
        self.assertEqual(self.json("run", "-m", self.model(), "--tokens", "5,6,7", "-n", 12)["token_ids"],
                         first["token_ids"])
        self.assertEqual(self.json("run", "-m", self.model(), "--tokens", "5,6,7", "-n", 12, "--kv-cache", "off")
                         ["logits_hash"], first["logits_hash"])
        self.assertNotEqual(self.json("run", "-m", self.model(), "--tokens", "5,6,8", "-n", 12)["logits_hash"],
                            first["logits_hash"])

    def test_quantised_it_still_runs(self):
        path = scratch("tiny-t5-q8_0.gguf")
        self.ok("quantize", self.model(), path, "--type", "q8_0", "--quiet")
        types = {tensor["name"]: tensor["type"] for tensor in self.json("inspect", path)["tensors"]}
        self.assertEqual(types["dec.blk.1.cross_attn_k.weight"], "q8_0")
        self.assertEqual(types["enc.blk.0.attn_rel_b.weight"], "f32")
        self.assertEqual(types["enc.blk.0.attn_norm.weight"], "f32")
        self.assertEqual(len(self.json("run", "-m", path, "--tokens", "5,6,7", "-n", 5)["token_ids"]), 5)

    def test_an_input_that_is_too_long(self):
        message = self.refused("run", "-m", self.model(), "--tokens", ",".join(["5"] * 600))
        self.assertIn("600", message)
        self.assertIn("512", message)


class EncoderOnly(CliTest):
    def test_it_says_why_there_is_no_kv_cache(self):
        folder = scratch("bert")
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps({"model_type": "bert", "hidden_size": 8}))
        message = self.refused("run", "-m", folder, "hello")
        for part in ("bert", "no KV cache", "nothing is appended"):
            self.assertIn(part, message)


if __name__ == "__main__":
    unittest.main()
