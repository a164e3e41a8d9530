"""Real trained weights: the published greedy text of stories260K, token for token."""

import re
import subprocess
import sys
import unittest

from quipu_cli import ROOT, SHARED, CliTest, environment, scratch

FOLDER = SHARED / "data" / "weights" / "stories260K"
GGUF = FOLDER / "tinyllamas-stories-260k-f32.gguf"
PROMPT = "Once upon a time"


def published_text():
    page = (FOLDER / "stories260K.md").read_text(encoding="utf-8")
    return re.search(r"-t 0\.0\n(Once upon a time.*?)\n```", page, re.DOTALL).group(1)


@unittest.skipUnless(GGUF.is_file(), "the stories260K weights are not beside this checkout")
class Stories260K(CliTest):
    def converted(self):
        path = scratch("stories260K.gguf")
        if not path.exists():
            script = ROOT / "tools" / "convert" / "llama2c_to_gguf.py"
            subprocess.run([sys.executable, script, FOLDER / "stories260K.bin", FOLDER / "tok512.bin", path], check=True,
                           stdout=subprocess.DEVNULL)
        return path

    def test_the_published_text(self):
        # It was made without a prompt, from the BOS token alone, over 256 positions.
        for model in (GGUF, self.converted()):
            with self.subTest(model=model.name):
                out = self.json("run", "-m", model, "--temp", 0, "-n", 256, "")
                self.assertEqual(out["usage"]["prompt_tokens"], 1)
                self.assertEqual(out["text"].lstrip(" "), published_text())

    def test_the_same_text_after_a_prompt(self):
        for model in (GGUF, self.converted()):
            shown = self.ok("run", "-m", model, "--temp", 0, "-n", 256, PROMPT)
            self.assertTrue((PROMPT + shown).startswith(published_text()), shown)

    def test_every_instruction_set_kv_format_and_no_cache(self):
        arguments = ["run", "-m", GGUF, "--temp", 0, "-n", 256, ""]
        for isa in self.json("doctor", "--threads", 1)["instruction_sets"]:
            for flags in (["--kv-format", "f32"], ["--kv-format", "bf16"], ["--kv-cache", "off"], ["--threads", "1"]):
                with self.subTest(isa=isa, flags=flags):
                    out = self.json(*arguments, *flags, env=environment(QUIPU_ISA=isa))
                    self.assertEqual(out["text"].lstrip(" "), published_text())

    def test_the_version_and_the_vocabulary(self):
        out = self.json("inspect", "-m", GGUF)
        self.assertEqual(out["container"], "gguf v1")
        self.assertEqual(self.json("tokenize", "-m", GGUF, stdin=PROMPT)["ids"], [1, 403, 407, 261, 378])


if __name__ == "__main__":
    unittest.main()
