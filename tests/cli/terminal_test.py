"""Signals, closed pipes, full disks and terminals."""

import os
import pty
import resource
import select
import signal
import subprocess
import time
import unittest

from quipu_cli import PROGRAM, TIME_OUT_S, CliTest, environment, ids_model, quipu, scratch, text_model

def endless():
    """A command that runs long enough for a signal: without a cache every step recomputes everything."""
    return [PROGRAM, "run", "-m", str(text_model()), "-n", "2000", "--ignore-eos", "--seed", "1", "--kv-cache", "off",
            "Once upon a time"]


class Signals(CliTest):
    def test_ctrl_c_stops_the_output_and_still_reports(self):
        with subprocess.Popen(endless(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as process:
            self.assertNotEqual(os.read(process.stdout.fileno(), 1), b"")
            process.send_signal(signal.SIGINT)
            _, stderr = process.communicate(timeout=TIME_OUT_S)
        self.assertEqual(process.returncode, 130, stderr)
        self.assertIn(b"tokens/s", stderr)

    def test_ctrl_c_gives_the_json_of_what_there_is(self):
        command = [*endless(), "--json"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as process:
            time.sleep(1.5)
            process.send_signal(signal.SIGINT)
            stdout, stderr = process.communicate(timeout=TIME_OUT_S)
        self.assertEqual(process.returncode, 130, stderr)
        self.assertIn(b'"finish_reason":"cancelled"', stdout)

    def test_quantize_stopped_leaves_no_file(self):
        out = scratch("stopped.gguf")
        command = [PROGRAM, "synth", "--arch", "qwen3-0.6b", "--type", "q4_k", "-o", str(out)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as process:
            time.sleep(0.7)
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=TIME_OUT_S)
        self.assertEqual(process.returncode, 130)
        self.assertFalse(out.exists())
        self.assertEqual(list(out.parent.glob("stopped.gguf*")), [])


class Pipes(CliTest):
    def test_a_reader_that_leaves_ends_the_program(self):
        with subprocess.Popen(endless(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as process:
            os.read(process.stdout.fileno(), 1)
            process.stdout.close()
            stderr = process.stderr.read()
            self.assertEqual(process.wait(timeout=TIME_OUT_S), 1)
        self.assertEqual(stderr, b"")

    def test_a_full_standard_output(self):
        with open("/dev/full", "wb") as full:
            done = subprocess.run([PROGRAM, "inspect", "-m", str(ids_model())], stdout=full, stderr=subprocess.PIPE,
                                  env=environment(), timeout=TIME_OUT_S, check=False)
        self.assertEqual(done.returncode, 1)

    def test_standard_input_that_is_closed(self):
        done = subprocess.run([PROGRAM, "run", "-m", str(text_model())], stdin=subprocess.DEVNULL, capture_output=True,
                              env=environment(), timeout=TIME_OUT_S, check=False)
        self.assertEqual(done.returncode, 2)


class Disk(CliTest):
    def test_a_disk_that_fills_up_leaves_no_file(self):
        def small_files():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
        out = scratch("full.gguf")
        message = self.refused("quantize", ids_model(), out, "--type", "bf16", code=1, preexec_fn=small_files)
        self.assertIn("full.gguf", message)
        self.assertEqual(list(out.parent.glob("full.gguf*")), [])

    def test_a_small_file_system_is_refused_before_the_work(self):
        folder = scratch("small-disk")
        folder.mkdir()
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(folder)], capture_output=True, check=False)
        if mounted.returncode != 0:
            self.skipTest("mounting a small tmpfs needs privileges")
        try:
            done = quipu("quantize", ids_model(), folder / "out.gguf", "--type", "bf16")
            message = done.stderr.decode()
            self.assertIn(done.returncode, (1, 2), message)
            self.assertIn("out.gguf", message)
            self.assertEqual(list(folder.iterdir()), [])
        finally:
            subprocess.run(["umount", str(folder)], check=True)

    def test_a_folder_that_does_not_exist(self):
        done = quipu("quantize", ids_model(), scratch("absent") / "out.gguf", "--type", "bf16")
        self.assertIn(done.returncode, (1, 2))
        self.assertIn(b"absent", done.stderr)


class Terminal(CliTest):
    """On a pseudo-terminal: `chat` prompts, answers, and leaves on Ctrl-D; Ctrl-C stops an answer."""

    def converse(self, *inputs):
        leader, follower = pty.openpty()
        command = [PROGRAM, "chat", "-m", str(text_model()), "--seed", "1", "-n", "12"]
        process = subprocess.Popen(command, stdin=follower, stdout=follower, stderr=follower, env=environment(),
                                   start_new_session=True, close_fds=True)
        os.close(follower)
        shown = b""
        deadline = time.monotonic() + TIME_OUT_S
        pending = list(inputs)
        prompts = 0
        while time.monotonic() < deadline:
            readable, _, _ = select.select([leader], [], [], 0.5)
            if readable:
                try:
                    data = os.read(leader, 4096)
                except OSError:
                    break
                if not data:
                    break
                shown += data
            if shown.count(b"> ") > prompts and pending:
                prompts = shown.count(b"> ")
                os.write(leader, pending.pop(0))
        os.close(leader)
        return process.wait(timeout=TIME_OUT_S), shown.decode(errors="replace")

    def test_a_conversation(self):
        code, shown = self.converse(b"Hello\n", b"/exit\n")
        self.assertEqual(code, 0, shown)
        self.assertIn("cached", shown)
        self.assertIn("KV cache", shown)

    def test_ctrl_d_leaves(self):
        code, shown = self.converse(b"\x04")
        self.assertEqual(code, 0, shown)


if __name__ == "__main__":
    unittest.main()
