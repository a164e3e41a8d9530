"""Every command's ordinary use, and the shape of its JSON."""

import base64
import json
import shutil
import struct
import subprocess
import unittest

from quipu_cli import ROOT, CliTest, environment, ids_model, quipu, scratch, text_gguf, text_model

IDS = "5,9,200,31"


class Run(CliTest):
    KEYS = {"text", "token_ids", "finish_reason", "usage", "timings", "kv", "logits_hash", "seed"}

    def test_json(self):
        out = self.json("run", "-m", text_model(), "-n", 12, "--seed", 3, "--ignore-eos", "Once upon a time")
        self.assertEqual(set(out), self.KEYS)
        self.assertIsInstance(out["text"], str)
        self.assertEqual(len(out["token_ids"]), 12)
        self.assertEqual(out["finish_reason"], "length")
        self.assertEqual(list(out["usage"]), ["prompt_tokens", "completion_tokens", "cached_tokens"])
        self.assertEqual(out["usage"]["completion_tokens"], 12)
        self.assertEqual(out["usage"]["cached_tokens"], 0)
        self.assertEqual(set(out["timings"]), {"load_ms", "prefill_ms", "prefill_tokens_per_s", "decode_ms",
                                               "decode_tokens_per_s"})
        self.assertTrue(all(value > 0 for value in out["timings"].values()), out["timings"])
        self.assertEqual(set(out["kv"]), {"bytes", "blocks", "block_tokens", "format"})
        self.assertEqual(out["kv"]["format"], "bf16")
        self.assertEqual(out["kv"]["block_tokens"], 32)
        self.assertRegex(out["logits_hash"], "^[0-9a-f]{16}$")
        self.assertEqual(out["seed"], 3)

    def test_several_prompts_share_the_cache_and_say_so(self):
        common = "Once upon a time there was a little girl who liked to play in the park with her "
        lines = self.ok("run", "-m", text_model(), "-n", 2, "--temp", 0, "--seed", 1, "--json", "--explain-cache", "--stats",
                        common + "dog", common + "cat").strip().splitlines()
        first, second = (json.loads(line) for line in lines)
        self.assertEqual(first["cache"]["reused"], 0)
        self.assertEqual(first["cache"]["reason"], "never_seen")
        reused = second["cache"]["reused"]
        self.assertGreater(reused, 5)
        self.assertEqual(second["usage"]["cached_tokens"], reused)
        self.assertEqual(sum(second["cache"][source] for source in ("shared", "tail", "copied")), reused)
        self.assertEqual(second["stats"]["prefix_cache_hits"], reused)
        self.assertEqual(second["stats"]["requests"]["finished"], 2)

    def test_evicted_blocks_come_back_from_host_memory_with_equal_bits(self):
        a, b = "The cat sat on the mat. " * 20, "A dog ran to the tall tree. " * 20
        common = ["run", "-m", text_model(), "--temp", 0, "--seed", 1, "--kv-block", 16, "--stats"]
        alone = self.json(*common, "-n", 0, a)
        # Room for one of the prompts and a little more.
        memory = (alone["usage"]["prompt_tokens"] // 16 + 4) * alone["stats"]["groups"][0]["block_bytes"]
        lines = self.ok(*common, "-n", 3, "--json", "--kv-memory", memory, "--kv-host-memory", "64MiB", a, b, a)
        lines = lines.strip().splitlines()
        first, _, third = (json.loads(line) for line in lines)
        self.assertGreater(third["stats"]["host_tier"]["loads"], 0)
        self.assertGreater(third["stats"]["tokens_reused"]["from_tier"], 0)
        self.assertEqual(third["logits_hash"], first["logits_hash"])

    def test_streamed_text_equals_the_json_text(self):
        arguments = ["run", "-m", text_model(), "-n", 20, "--seed", 3, "--ignore-eos", "Once upon a time"]
        self.assertEqual(self.ok(*arguments).rstrip("\n"), self.json(*arguments)["text"].rstrip("\n"))

    def test_statistics_go_to_stderr_and_quiet_silences_them(self):
        arguments = ["run", "-m", text_model(), "-n", 3, "--seed", 3, "Hello"]
        loud, quiet = quipu(*arguments), quipu(*arguments, "--quiet")
        self.assertIn(b"tokens/s", loud.stderr)
        self.assertIn(b"KV cache", loud.stderr)
        self.assertEqual(quiet.stderr, b"")
        self.assertEqual(loud.stdout, quiet.stdout)

    def test_the_prompt_comes_from_an_argument_a_file_or_standard_input(self):
        path = scratch("prompt.txt")
        path.write_text("Once upon a time")
        common = ["run", "-m", text_model(), "-n", 8, "--temp", 0]
        expected = self.json(*common, "Once upon a time")["token_ids"]
        self.assertEqual(self.json(*common, "-f", path)["token_ids"], expected)
        self.assertEqual(self.json(*common, stdin="Once upon a time")["token_ids"], expected)
        self.assertEqual(self.json(*common, "-", stdin="Once upon a time")["token_ids"], expected)

    def test_token_ids_in_and_out_without_a_vocabulary(self):
        out = self.json("run", "-m", ids_model(), "--tokens", IDS, "-n", 6, "--temp", 0)
        self.assertEqual(len(out["token_ids"]), 6)
        self.assertEqual(out["text"], "")
        shown = self.ok("run", "-m", ids_model(), "--tokens", IDS, "-n", 6, "--temp", 0)
        self.assertEqual([int(i) for i in shown.strip().split(",")], out["token_ids"])

    def test_a_stop_string_ends_the_output_before_it(self):
        arguments = ["run", "-m", text_model(), "-n", 40, "--seed", 3, "--ignore-eos", "Once upon a time"]
        whole = self.json(*arguments)["text"]
        stop = whole[len(whole) // 2:len(whole) // 2 + 4]
        cut = self.json(*arguments, "--stop", stop)
        self.assertEqual(cut["text"], whole[:whole.index(stop)])
        self.assertEqual(cut["finish_reason"], "stop")

    def test_a_seed_repeats_and_another_differs(self):
        common = ["run", "-m", text_model(), "-n", 16, "--ignore-eos", "--temp", 1, "Once"]
        first, again, other = (self.json(*common, "--seed", seed) for seed in (1, 1, 2))
        self.assertEqual((first["token_ids"], first["logits_hash"]), (again["token_ids"], again["logits_hash"]))
        self.assertNotEqual(first["token_ids"], other["token_ids"])

    def test_what_changes_no_bit(self):
        common = ["run", "-m", text_model(), "-n", 24, "--seed", 5, "--ignore-eos", "The cat sat on the mat. " * 8]
        expected = self.json(*common)
        for flags in (["--threads", 1], ["--chunk", 7], ["--kv-block", 16], ["--kv-cache", "off"]):
            with self.subTest(flags=flags):
                out = self.json(*common, *flags)
                self.assertEqual(out["text"], expected["text"])
                self.assertEqual(out["logits_hash"], expected["logits_hash"])

    def test_echo_and_system_messages(self):
        shown = self.ok("run", "-m", text_model(), "-n", 2, "--seed", 1, "--echo", "Hello there")
        self.assertTrue(shown.startswith("Hello there"), shown)
        chat = ["run", "-m", text_model(), "-n", 2, "--seed", 1, "--chat"]
        plain = self.json(*chat, "Hello")["usage"]["prompt_tokens"]
        system = self.json(*chat, "--system", "Be kind.", "Hello")["usage"]["prompt_tokens"]
        self.assertGreater(system, plain)

    def test_zero_tokens_only_computes_the_prompt(self):
        out = self.json("run", "-m", text_model(), "-n", 0, "Hello")
        self.assertEqual(out["token_ids"], [])
        self.assertEqual(out["usage"]["completion_tokens"], 0)


@unittest.skipUnless((ROOT / "models" / "quipu-stories-q8_0.gguf").is_file(), "the built-in model is not here")
class BuiltIn(CliTest):
    def test_it_is_what_runs_without_a_model(self):
        out = self.json("run", "-n", 24, "--temp", 0, "Once upon a time")
        self.assertEqual(len(out["token_ids"]), 24)
        self.assertRegex(out["text"], r"[a-z]+ [a-z]+ [a-z]+")
        self.assertEqual(self.json("inspect")["metadata"]["general.architecture"], "llama")

    def test_it_finds_a_fact_again_that_stands_far_back(self):
        sample = (ROOT / "models" / "perplexity-sample.txt").read_text(encoding="utf-8")
        story = sample[:5000].rsplit("\n", 1)[0]
        facts = {"Lily": "lemon", "Tom": "river", "Max": "window", "Sam": "garden"}
        lines = "".join(f"The secret word of {k} is {v}.\n" for k, v in facts.items())
        right = 0
        for name, word in facts.items():
            question = f"Question: What is the secret word of {name}?\nAnswer: The secret word of {name} is"
            out = self.json("run", "-n", 3, "--temp", 0, f"Facts:\n{lines}\n{story}\n\n{question}")
            self.assertGreater(out["usage"]["prompt_tokens"], 1200)
            right += out["text"].startswith(f" {word}.")
        self.assertGreaterEqual(right, 3)


class Chat(CliTest):
    def test_each_turn_reuses_the_turns_before(self):
        done = quipu("chat", "-m", text_model(), "--seed", 1, "-n", 8, stdin="Hello there\nAnd now?\n")
        self.assertEqual(done.returncode, 0, done.stderr)
        cached = [int(line.split(" cached")[0].split(", ")[-1]) for line in done.stderr.decode().splitlines() if " cached" in line]
        self.assertEqual(len(cached), 2)
        self.assertEqual(cached[0], 0)
        self.assertGreater(cached[1], 10)

    def test_commands(self):
        done = quipu("chat", "-m", text_model(), "--seed", 1, "-n", 4, stdin="/help\nHi\n/clear\n/nonsense\n/exit\nHi again\n")
        self.assertEqual(done.returncode, 0, done.stderr)
        notes = done.stderr.decode()
        self.assertIn("/undo", notes)
        self.assertIn("unknown command /nonsense", notes)
        self.assertEqual(notes.count(" cached"), 1)

    def test_a_model_without_a_vocabulary_cannot_chat(self):
        self.assertIn("vocabulary", self.refused("chat", "-m", ids_model(), stdin="Hi\n"))


class Tokenize(CliTest):
    TEXT = "Once upon a time, 中华人民共和国 🙂 don't!"

    def test_there_and_back(self):
        for model in (text_model(), text_gguf()):
            with self.subTest(model=model.name):
                out = self.json("tokenize", "-m", model, stdin=self.TEXT)
                self.assertEqual(list(out), ["ids", "pieces"])
                self.assertEqual(len(out["ids"]), len(out["pieces"]))
                back = self.json("tokenize", "-m", model, "--decode", stdin=",".join(map(str, out["ids"])))
                self.assertEqual(back["text"], self.TEXT)
                plain = self.ok("tokenize", "-m", model, stdin=self.TEXT)
                self.assertEqual([int(i) for i in plain.strip().split(",")], out["ids"])

    def test_special_tokens(self):
        text = "<|im_start|>user"
        one = self.json("tokenize", "-m", text_model(), stdin=text)["ids"]
        many = self.json("tokenize", "-m", text_model(), "--no-parse-special", stdin=text)["ids"]
        self.assertLess(len(one), len(many))

    def test_nothing(self):
        self.assertEqual(self.json("tokenize", "-m", text_model(), stdin="")["ids"], [])

    def test_an_id_outside_the_vocabulary(self):
        self.assertIn("outside the vocabulary", self.refused("tokenize", "-m", text_model(), "--decode", stdin="1,99999999"))


class Logits(CliTest):
    def logits(self, *arguments):
        out = self.json("logits", *arguments)
        data = base64.b64decode(out["logits_b64"], validate=True)
        values = struct.unpack(f"<{len(data) // 4}f", data)
        count = 1
        for size in out["shape"]:
            count *= size
        self.assertEqual(count, len(values))
        return out, values

    def test_the_last_position(self):
        out, values = self.logits("-m", ids_model(), "--tokens", IDS, "--top", 5)
        self.assertEqual(out["shape"], [321])
        best = sorted(range(321), key=lambda i: -values[i])[:5]
        self.assertEqual([entry["id"] for entry in out["top"]], best)

    def test_every_position(self):
        out, values = self.logits("-m", ids_model(), "--tokens", IDS, "--all")
        self.assertEqual(out["shape"], [4, 321])
        _, last = self.logits("-m", ids_model(), "--tokens", IDS)
        self.assertEqual(values[-321:], last)
        _, first = self.logits("-m", ids_model(), "--tokens", "5")
        self.assertEqual(values[:321], first)

    def test_threads_and_chunks_change_no_bit(self):
        tokens = ",".join(str(i * 37 % 321) for i in range(100))
        expected = self.json("logits", "-m", ids_model(), "--tokens", tokens)
        for flags in (["--threads", 1], ["--threads", 3], ["--chunk", 7]):
            self.assertEqual(self.json("logits", "-m", ids_model(), "--tokens", tokens, *flags), expected, flags)

    def test_kv_formats(self):
        for name in ("f32", "bf16", "int8", "int4", "int4,first=bf16", "bf16,0-1=int8,last=f32"):
            self.logits("-m", ids_model(), "--tokens", IDS, "--kv-format", name)

    def test_the_format_of_every_layer_is_named(self):
        for asked, shown in (("int8", "int8"), ("int4,first=bf16", "0=bf16,1=int4"), ("f32,0-1=int4", "int4")):
            out = self.json("run", "-m", ids_model(), "--tokens", IDS, "-n", 1, "--kv-format", asked)
            self.assertEqual(out["kv"]["format"], shown)

    def test_text_output(self):
        self.assertEqual(len(self.ok("logits", "-m", ids_model(), "--tokens", IDS, "--top", 3).splitlines()), 3)


class Inspect(CliTest):
    def test_kv_formats(self):
        sizes = self.json("inspect", "-m", ids_model(), "--kv-format", "int4,first=bf16")["kv"]
        self.assertEqual(list(sizes), ["f32", "bf16", "int8", "int4", "int4,first=bf16"])
        per_token = {name: size["bytes_per_token"] for name, size in sizes.items()}
        self.assertEqual(per_token["f32"], 2 * per_token["bf16"])
        self.assertLess(per_token["int4"], per_token["int8"])
        self.assertLess(per_token["int8"], per_token["bf16"])
        # Two layers. By block: a block's scales do not divide evenly by its tokens.
        block = {name: size["block_bytes"] for name, size in sizes.items()}
        self.assertEqual(2 * block["int4,first=bf16"], block["int4"] + block["bf16"])
        self.assertIn("int4,first=bf16", self.ok("inspect", "-m", ids_model(), "--kv-format", "int4,first=bf16"))

    def test_json(self):
        out = self.json("inspect", "-m", ids_model())
        self.assertEqual(list(out), ["path", "container", "parameters", "bytes", "metadata", "tensors", "kv"])
        self.assertEqual(out["container"], "gguf v3")
        self.assertEqual(out["metadata"]["general.architecture"], "llama")
        self.assertEqual({"name", "type", "shape", "bytes"}, set(out["tensors"][0]))
        # 2 layers, 2 heads of 64, keys and values: 512 elements a token.
        self.assertEqual(out["kv"]["f32"]["bytes_per_token"], 2048)
        self.assertEqual(out["kv"]["bf16"]["bytes_per_token"], 1024)

    def test_a_directory_and_text(self):
        self.assertEqual(self.json("inspect", "-m", text_model())["container"], "safetensors")
        shown = self.ok("inspect", text_model(), "--tensors")
        self.assertIn("token_embd.weight", shown)
        self.assertIn("per token", shown)


class Perplexity(CliTest):
    def test_of_text_and_of_ids(self):
        text = scratch("sample.txt")
        text.write_text((ROOT / "models" / "perplexity-sample.txt").read_text()[:3000])
        ids = scratch("sample.ids")
        tokens = self.json("tokenize", "-m", text_model(), "--no-special", stdin=text.read_bytes())["ids"]
        ids.write_text(" ".join(map(str, tokens)))
        common = ["perplexity", "-m", text_model(), "--window", 256]
        of_text = self.json(*common, "-f", text)
        of_ids = self.json(*common, "--tokens-file", ids)
        self.assertGreater(of_text["perplexity"], 1)
        self.assertGreater(of_text["scored_tokens"], 100)
        self.assertEqual(of_text["perplexity"], of_ids["perplexity"])
        self.assertIn("perplexity", self.ok(*common, "-f", text))

    def test_without_a_vocabulary(self):
        ids = scratch("numbers.ids")
        ids.write_text(" ".join(str(i * 37 % 321) for i in range(300)))
        self.assertGreater(self.json("perplexity", "-m", ids_model(), "--tokens-file", ids)["perplexity"], 1)
        self.assertIn("vocabulary", self.refused("perplexity", "-m", ids_model(), "-f", ids))


class Bench(CliTest):
    COMMON = ["--prompt", 20, "-n", 5, "--repeat", 2]

    def test_rows_limits_and_a_plot(self):
        plot = scratch("bench.svg")
        out = self.json("bench", "-m", ids_model(), *self.COMMON, "--depth", "0,40", "--batch", "1,2",
                        "--kv-format", "bf16,f32", "--kv-cache", "on,off", "--plot", plot)
        self.assertEqual(len(out["rows"]), 2 * 2 * 2 * 2 * 2)
        self.assertGreater(out["limits"]["read_bandwidth_bytes_per_s"], 0)
        for row in out["rows"]:
            self.assertGreater(row["tokens_per_s"], 0)
            self.assertGreater(row["share_of_limit"], 0)
            self.assertLessEqual(row["seconds"]["lowest"], row["seconds"]["median"])
        # The cache changes no token.
        hashes = {}
        for row in out["rows"]:
            key = (row["kind"], row["kv_format"], row["depth"], row["batch"])
            self.assertEqual(hashes.setdefault(key, row["output_hash"]), row["output_hash"], key)
        self.assertIn("<svg", plot.read_text())

    def test_text_for_people(self):
        shown = self.ok("bench", "-m", ids_model(), *self.COMMON, "--shared-prefix", 32, "--kv-cache", "on,off")
        for part in ("measured limits", "prefill", "decode", "32 tokens shared", "times as long"):
            self.assertIn(part, shown)

    def test_refusals(self):
        self.assertIn("int9", self.refused("bench", "-m", ids_model(), "--kv-format", "bf16,int9"))
        self.assertIn("maybe", self.refused("bench", "-m", ids_model(), "--kv-cache", "maybe"))
        self.assertIn("2048", self.refused("bench", "-m", ids_model(), "--depth", 4096))
        self.refused("bench", "-m", ids_model(), "--prompt", 0, "--gen", 0)


class QuantizeAndSynth(CliTest):
    def test_every_type_is_written_and_runs(self):
        for name in ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q4_k", "q5_k", "q6_k"):
            with self.subTest(type=name):
                path = scratch(f"tiny-{name}.gguf")
                out = self.json("quantize", ids_model(), path, "--type", name)
                self.assertEqual(out["bytes"], path.stat().st_size)
                self.assertEqual(len(self.json("run", "-m", path, "--tokens", IDS, "-n", 3, "--temp", 0)["token_ids"]), 3)

    def test_a_directory_keeps_its_tokenizer_and_its_answers(self):
        path = scratch("text-f32.gguf")
        self.ok("quantize", text_model(), path, "--type", "f32")
        common = ["-n", 16, "--seed", 2, "--ignore-eos", "Once upon a time"]
        self.assertEqual(self.json("run", "-m", path, *common)["text"], self.json("run", "-m", text_model(), *common)["text"])

    def test_an_existing_file_is_kept_unless_forced(self):
        path = scratch("kept.gguf")
        path.write_text("precious")
        self.assertIn("exists", self.refused("quantize", ids_model(), path, "--type", "q4_0"))
        self.assertEqual(path.read_text(), "precious")
        self.ok("quantize", ids_model(), path, "--type", "q4_0", "--force")
        self.refused("quantize", path, path, "--type", "q8_0", "--force")

    def test_synth_is_reproducible(self):
        one, two, other = (scratch(f"synth-{name}.gguf") for name in "abc")
        for path, seed, threads in ((one, 1, 1), (two, 1, 2), (other, 2, 1)):
            self.ok("synth", "--arch", "tiny-qwen3", "--type", "q4_k", "--seed", seed, "--threads", threads, "-o", path)
        self.assertEqual(one.read_bytes(), two.read_bytes())
        self.assertNotEqual(one.read_bytes(), other.read_bytes())
        self.assertIn("tiny-qwen3", self.ok("synth", "--list").split())

    def test_every_tiny_shape_runs(self):
        for shape in [name for name in self.ok("synth", "--list").split() if name.startswith("tiny-")]:
            with self.subTest(shape=shape):
                path = scratch(shape + "-run.gguf")
                self.ok("synth", "--arch", shape, "--type", "q4_0", "-o", path)
                self.assertEqual(len(self.json("run", "-m", path, "--tokens", IDS, "-n", 3)["token_ids"]), 3)


class Streaming(CliTest):
    def test_goes_on_past_the_context(self):
        path = scratch("tiny-context.gguf")
        self.ok("synth", "--arch", "tiny-llama", "--type", "q8_0", "--context", "128", "-o", path)
        run = ["run", "-m", path, "--tokens", IDS, "--temp", "0", "-n", "300"]
        self.assertLess(len(self.json(*run)["token_ids"]), 128)
        streamed = self.json(*run, "--kv-window", "60")
        self.assertEqual(len(streamed["token_ids"]), 300)
        self.assertLess(streamed["kv"]["blocks"], 128)
        self.assertEqual(self.json(*run, "--kv-window", "60", "--kv-sinks", "4", "--chunk", "1", "--threads", "1")
                         ["logits_hash"], streamed["logits_hash"])
        self.assertNotEqual(self.json(*run, "--kv-window", "60", "--kv-sinks", "0")["logits_hash"],
                            streamed["logits_hash"])
        refused = self.refused(*run, "--kv-window", "125")
        self.assertIn("129", refused)
        self.assertIn("128", refused)
        self.refused(*run, "--kv-sinks", "4")
        gpt2 = scratch("tiny-gpt2-streamed.gguf")
        self.ok("synth", "--arch", "tiny-gpt2", "--type", "q8_0", "-o", gpt2)
        self.assertIn("learned", self.refused("run", "-m", gpt2, "--tokens", IDS, "--kv-window", "60"))

    def test_inspect_counts_windows_up_to_their_end(self):
        path = scratch("tiny-mixed-inspect.gguf")
        self.ok("synth", "--arch", "tiny-mixed", "--type", "q8_0", "-o", path)
        kv = self.json("inspect", path)["kv"]["bf16"]
        full, windowed = kv["groups"]
        self.assertEqual((full["layers"], full["window"]), (1, 0))
        self.assertEqual((windowed["layers"], windowed["window"]), (5, 20))
        context, block = 2048, kv["block_tokens"]
        self.assertEqual(kv["context_bytes"], context // block * full["block_bytes"] + 2 * windowed["block_bytes"])


class Simulate(CliTest):
    def trace(self):
        """Users who come back with a longer history: 512-token blocks that repeat."""
        path = scratch("trace.jsonl")
        lines = []
        for turn in range(1, 9):
            for user in range(5):
                lines.append(json.dumps({
                    "timestamp": (turn * 5 + user) * 1000, "input_length": 512 * turn - 100, "output_length": 20,
                    "hash_ids": [user * 100 + i for i in range(turn)]}))
        path.write_text("\n".join(lines) + "\n")
        return path

    def test_json(self):
        out = self.json("simulate", self.trace(), "--kv-memory", "512MiB,4GiB", "--policy", "lru,cost")
        self.assertEqual(list(out), ["trace", "kv_bytes_per_token", "results"])
        by_policy = {(r["policy"], r["kv_bytes"] > 1 << 30): r for r in out["results"]}
        for large in (False, True):
            for policy in ("lru", "cost"):
                run = by_policy[policy, large]
                self.assertEqual(run["requests"], 40)
                self.assertLessEqual(run["hit_ratio"], by_policy["optimum", large]["hit_ratio"] + 1e-9)
        self.assertGreater(by_policy["cost", True]["hit_ratio"], 0.5)
        self.assertGreater(by_policy["cost", True]["hit_ratio"], by_policy["cost", False]["hit_ratio"])

    def test_table_and_plot(self):
        plot = scratch("hits.svg")
        self.assertIn("lru", self.ok("simulate", self.trace(), "--kv-memory", "1GiB", "--plot", plot))
        self.assertTrue(plot.read_text().startswith("<svg"))

    def test_sizes_of_a_model(self):
        out = self.json("simulate", self.trace(), "-m", ids_model(), "--kv-memory", "64MiB", "--policy", "lru")
        self.assertEqual(out["kv_bytes_per_token"], 1024)

    def test_wrong_traces(self):
        path = scratch("wrong.jsonl")
        negative = '{"timestamp": 1, "input_length": -5, "output_length": 1, "hash_ids": []}\n'
        for text in ("not json\n", "[1,2]\n", '{"timestamp": 1}\n', negative):
            with self.subTest(text=text):
                path.write_text(text)
                self.assertIn("wrong.jsonl", self.refused("simulate", path))
        self.refused("simulate", scratch("no-such-trace"))
        self.refused("simulate", self.trace(), "--policy", "random", "--quiet")


class Doctor(CliTest):
    def test_json_and_text(self):
        out = self.json("doctor", "--threads", 1)
        self.assertIn("scalar", out["instruction_sets"])
        self.assertGreater(out["read_bandwidth_bytes_per_s"], 0)
        self.assertIn("instruction sets", self.ok("doctor", "--threads", 1))


class General(CliTest):
    COMMANDS = ("run", "chat", "tokenize", "inspect", "logits", "perplexity", "quantize", "synth", "doctor", "simulate")

    def test_version(self):
        self.assertRegex(self.ok("--version"), r"^quipu \d+\.\d+\.\d+\n$")

    def test_help_lists_every_command_and_its_variables(self):
        listed = self.ok("--help")
        for command in self.COMMANDS:
            self.assertIn(command, listed)
            help_text = self.ok(command, "--help")
            self.assertIn("QUIPU_", help_text)
            self.assertIn("--json", help_text)

    def test_variables_stand_in_for_flags_and_flags_win(self):
        env = environment(QUIPU_MODEL=str(ids_model()), QUIPU_TOKENS=IDS, QUIPU_MAX_TOKENS="4", QUIPU_TEMPERATURE="0",
                          QUIPU_KV_FORMAT="f32", QUIPU_JSON="1")
        out = json.loads(self.ok("run", env=env))
        self.assertEqual(len(out["token_ids"]), 4)
        self.assertEqual(out["kv"]["format"], "f32")
        out = json.loads(self.ok("run", "-n", 2, env=env))
        self.assertEqual(len(out["token_ids"]), 2)

    def test_the_instruction_set_can_be_forced(self):
        for isa in self.json("doctor", "--threads", 1)["instruction_sets"]:
            self.json("logits", "-m", ids_model(), "--tokens", IDS, env=environment(QUIPU_ISA=isa))
        message = self.refused("logits", "-m", ids_model(), "--tokens", IDS, env=environment(QUIPU_ISA="mmx"))
        self.assertIn("scalar", message)


class Completion(CliTest):
    def commands(self):
        text = self.ok("--help").split("Subcommands:")[1]
        return [line.split()[0] for line in text.splitlines() if line.startswith("  ") and not line.startswith("   ")]

    def completed(self, *words):
        """What bash offers for the last word."""
        script = self.ok("completion", "bash")
        script += f'COMP_WORDS=({" ".join(map(repr, words))}); COMP_CWORD={len(words) - 1}; _quipu; echo "${{COMPREPLY[@]}}"'
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=20, check=True)
        self.assertEqual(done.stderr, "")
        return done.stdout.split()

    def test_bash_completes_commands_and_flags(self):
        commands = self.commands()
        self.assertIn("serve", commands)
        self.assertEqual(self.completed("quipu", ""), [*commands, "--help", "--version"])
        self.assertEqual(self.completed("quipu", "ser"), ["serve"])
        self.assertEqual(self.completed("quipu", "serve", "--drai"), ["--drain-timeout"])
        self.assertIn("-m", self.completed("quipu", "run", "-"))
        self.assertEqual(self.completed("quipu", "run", "-m", "mod"), [])  # a value: files, by the shell
        self.assertEqual(self.completed("quipu", "nothing", "--"), [])

    def test_other_shells(self):
        self.assertIn("bashcompinit", self.ok("completion", "zsh"))
        fish = self.ok("completion", "fish")
        for command in self.commands():
            self.assertIn(f"__fish_use_subcommand -f -a {command} -d '", fish)
        self.assertIn("'__fish_seen_subcommand_from serve' -l port -r -d '", fish)
        for shell, flags in (("zsh", ["-n"]), ("fish", ["--no-execute"])):
            if shutil.which(shell) is None:
                print(f"skipped: {shell} is not installed")
                continue
            subprocess.run([shell, *flags], input=self.ok("completion", shell), text=True, check=True, timeout=20)
        done = quipu("completion", "tcsh")
        self.assertEqual(done.returncode, 2)
        self.assertIn(b"bash", done.stderr)


if __name__ == "__main__":
    unittest.main()
