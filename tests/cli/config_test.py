"""Configuration files: which value wins, what is said about mistakes, where a value came from."""

import json
import pathlib
import tempfile
import unittest

from quipu_cli import CliTest, environment, ids_model


class Config(CliTest):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.user = self.folder / "quipu" / "config.toml"
        self.user.parent.mkdir()
        self.run_model = ["run", "-m", ids_model(), "--tokens", "1,2"]

    def env(self, **changes):
        """An environment whose user has files below self.folder."""
        clean = environment(XDG_CONFIG_HOME=str(self.folder), **changes)
        if "QUIPU_CONFIG" not in changes:
            del clean["QUIPU_CONFIG"]
        return clean

    def tokens(self, *flags, **changes):
        return self.json(*self.run_model, *flags, env=self.env(**changes))["usage"]["completion_tokens"]

    def settings(self, command, *flags, **changes):
        return self.json(command, "--print-config", *flags, env=self.env(**changes))["settings"]

    def test_flag_then_variable_then_table_then_top(self):
        self.user.write_text("max-tokens = 7\n")
        self.assertEqual(self.tokens(), 7)
        self.user.write_text("max-tokens = 7\n[run]\nn-predict = 5\n[chat]\nmax-tokens = 9\n")
        self.assertEqual(self.tokens(), 5)
        self.assertEqual(self.tokens(QUIPU_MAX_TOKENS="3"), 3)
        self.assertEqual(self.tokens("-n", "2", QUIPU_MAX_TOKENS="3"), 2)
        other = self.folder / "other.toml"
        other.write_text("max_tokens = 4\n")  # an underscore is as good as a dash
        self.assertEqual(self.tokens("--config", other), 4)
        self.assertEqual(self.tokens(QUIPU_CONFIG=str(other)), 4)
        self.assertEqual(self.tokens("--config", "/dev/null", "-n", "1"), 1)
        self.user.unlink()
        self.assertEqual(self.tokens("-n", "1"), 1)  # none is no mistake

    def test_kinds_of_values(self):
        self.user.write_text('kv-memory = "2MiB"\ntemperature = 0.5\nkv-cache = "off"\n[run]\nignore-eos = true\n'
                             'stop = ["a", "-b", ""]\nlogit-bias = "3=1"\n[serve]\nport = 9000\nalias = ["x", "y"]\n')
        found = self.settings("run", "-m", ids_model())
        origin = f"{self.user}:"
        self.assertEqual(found["kv-memory"], {"value": "2MiB", "origin": origin + "1"})
        self.assertEqual(found["temperature"], {"value": 0.5, "origin": origin + "2"})
        self.assertEqual(found["ignore-eos"], {"value": True, "origin": origin + "5"})
        self.assertEqual(found["stop"]["value"], ["a", "-b", ""])
        self.assertEqual(found["echo"], {"value": False, "origin": "default"})
        self.assertNotIn("port", found)
        self.assertEqual(self.settings("serve")["port"], {"value": 9000, "origin": origin + "9"})
        done = self.json(*self.run_model, "-n", "1", env=self.env())
        self.assertLessEqual(done["kv"]["bytes"], 2 << 20)

    def test_where_a_value_came_from(self):
        self.user.write_text('[serve]\napi-key = "very secret"\n')
        found = self.settings("serve", "--port", "1", QUIPU_HOST="::1")
        self.assertEqual(found["port"], {"value": 1, "origin": "flag"})
        self.assertEqual(found["host"], {"value": "::1", "origin": "environment"})
        self.assertEqual(found["parallel"], {"value": 16, "origin": "default"})
        self.assertEqual(found["api-key"], {"value": "(not shown)", "origin": f"{self.user}:2"})
        self.assertEqual(found["model"], {"value": None, "origin": "default"})
        text = self.ok("serve", "--print-config", "--port", "1", env=self.env(QUIPU_API_KEY="secret too"))
        self.assertNotIn("secret", text)
        self.assertTrue(text.startswith("[serve]\n"))
        # What it prints is a file that says the same.
        again = self.folder / "again.toml"
        again.write_text("\n".join(line for line in text.splitlines() if "not shown" not in line) + "\n")
        port = self.settings("serve", "--config", again)["port"]
        self.assertEqual(port["value"], 1)
        self.assertTrue(port["origin"].startswith(f"{again}:"), port)

    def test_mistakes_have_a_line_and_the_nearest_name(self):
        def refused(text, *flags):
            self.user.write_text(text)
            message = self.refused(*self.run_model, *flags, env=self.env())
            self.assertIn(str(self.user), message)
            return message

        message = refused("# a comment\nkv-memroy = '1GiB'\n")
        self.assertIn(f"{self.user}:2: 'kv-memroy' is no flag of any command; did you mean 'kv-memory'?", message)
        # Also in tables of other commands: the file is wrong whoever reads it.
        self.assertIn(":3: 'prot' is no flag of 'serve'; did you mean 'port'?", refused("[chat]\n[serve]\nprot = 1\n"))
        self.assertIn(":1: [sevre] is no command; did you mean 'serve'?", refused("[sevre]\n"))
        self.assertIn(":1: not TOML", refused("port =\n"))
        self.assertIn(":2: not TOML", refused("seed = 1\nseed = 2\n"))
        self.assertIn(":2: Could not convert: --temperature = hot", refused("seed = 1\ntemperature = 'hot'\n"))
        self.assertIn(":1: --kv-format: ", refused("kv-format = 'int3'\n"))
        self.assertIn("takes one value, not a list", refused("seed = [1, 2]\n"))
        self.assertIn("expected true or false", refused("[run]\necho = 1\n"))
        self.assertIn("needs a value, not true or false", refused("seed = true\n"))
        self.assertIn("takes a string, a number, or true or false", refused("seed = 2026-11-26\n"))
        self.assertIn("is no flag", refused("config = 'x'\n"))
        self.user.write_bytes(b"seed = 1\n\xff\xfe")
        self.assertIn("not TOML", self.refused(*self.run_model, env=self.env()))
        self.refused(*self.run_model, "--config", self.folder / "absent.toml", env=self.env())
        self.refused(*self.run_model, "--config", self.folder, env=self.env(), code=1)

    def test_a_value_that_a_flag_overrides_is_not_looked_at(self):
        self.user.write_text("temperature = 'hot'\n")
        self.assertEqual(self.tokens("-n", "1", "--temp", "0"), 1)

    def test_help_and_mistakes_of_the_command_line_come_first(self):
        self.user.write_text("nonsense = 1\n")
        self.assertIn("--port", self.ok("serve", "--help", env=self.env()))
        self.assertIn("unknown flag '--prot'", self.refused("serve", "--prot", "1", env=self.env()))
        self.assertEqual(self.ok("--version", env=self.env())[:5], "quipu")
        self.assertIn("complete", self.ok("completion", "bash", env=self.env()))

    def test_a_prompt_behind_two_dashes(self):
        self.user.write_text("max-tokens = 3\ntokens = '1,2'\n")
        done = self.ok("run", "-m", ids_model(), "--json", "--", env=self.env())
        self.assertEqual(json.loads(done)["usage"]["completion_tokens"], 3)

    def test_doctor_names_the_files(self):
        self.user.write_text("")
        found = self.json("doctor", env=self.env())["config_files"]
        self.assertEqual(found[0], {"path": str(self.user), "exists": True})
        self.assertEqual(found[1]["path"], "/etc/quipu/config.toml")


if __name__ == "__main__":
    unittest.main()
