"""The manual page and the completions: nothing that the program knows is missing, and `man` reads them."""

import os
import pathlib
import re
import shutil
import subprocess
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("QUIPU_BUILD_DIR", ROOT / "build" / "release"))
TIME_OUT_S = 60


def quipu(*arguments):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("QUIPU_")}
    done = subprocess.run([BUILD / "quipu", *arguments], capture_output=True, timeout=TIME_OUT_S, check=True,
                          env={**clean, "QUIPU_CONFIG": "/dev/null"})
    return done.stdout.decode()


def commands():
    """What `quipu --help` lists."""
    listed = quipu("--help").split("Subcommands:")[1]
    names = re.findall(r"^  (\w+) ", listed, re.MULTILINE)
    assert len(names) > 10 and "serve" in names, names
    return names


class Manual(unittest.TestCase):
    def test_every_flag_of_every_command(self):
        page = quipu("man")
        sections = page.split(".SS ")[1:]
        fish = quipu("completion", "fish")
        self.assertEqual([section.split(" ")[1] for section in sections], commands())
        for name, section in zip(commands(), sections, strict=True):
            flags = re.findall(r"--([a-z][a-z0-9-]+)", quipu(name, "--help").split("Options:")[1])
            own = {flag for flag in flags if f"  --{flag}" in quipu(name, "--help") or f",--{flag}" in quipu(name, "--help")}
            self.assertIn("help", own, name)
            for flag in own:
                self.assertIn("\\-\\-" + flag.replace("-", "\\-") + "\\fR", section, f"{name} --{flag}")
                self.assertRegex(fish, rf"from {name}'.* -l {re.escape(flag)}\b", f"{name} --{flag}")
        self.assertNotIn("\\fB\\fR", page)

    def test_man_reads_it(self):
        if shutil.which("groff") is None:
            self.skipTest("groff is not there to read the page")
        done = subprocess.run(["groff", "-man", "-ww", "-Tutf8", "-P-cbou"], input=quipu("man").encode(), capture_output=True,
                              timeout=TIME_OUT_S, check=True)
        self.assertEqual(done.stderr.decode(), "")
        text = done.stdout.decode()
        self.assertIn("--kv-memory VALUE", text)
        self.assertIn("/etc/quipu/config.toml", text)

    def test_the_built_files_are_what_the_program_says(self):
        built = BUILD / "src" / "cli"
        self.assertEqual((built / "quipu.1").read_text(), quipu("man"))
        self.assertEqual((built / "completions" / "quipu").read_text(), quipu("completion", "bash"))
        self.assertEqual((built / "completions" / "quipu.fish").read_text(), quipu("completion", "fish"))

    def test_bash_takes_the_completions(self):
        script = (BUILD / "src" / "cli" / "completions" / "quipu").read_text()
        asked = script + '\nCOMP_WORDS=(quipu serve --ssl); COMP_CWORD=2; _quipu; echo "${COMPREPLY[@]}"\n'
        done = subprocess.run(["bash", "--norc", "-c", asked], capture_output=True, timeout=TIME_OUT_S, check=True)
        self.assertEqual(done.stdout.decode().split(), ["--ssl-cert-file", "--ssl-key-file"])


if __name__ == "__main__":
    unittest.main()
