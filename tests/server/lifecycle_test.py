"""Starting and stopping: flags, files, addresses, signals."""

import json
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import unittest

from quipu_server import MODEL, PROGRAM, TIME_OUT_S, Server, parse_events

PATH = "/v1/completions"
LONG = {"prompt": "Once upon a time", "max_tokens": 1500, "ignore_eos": True, "stream": True, "seed": 1}


@unittest.skipUnless(MODEL.exists(), f"the built-in model is not there: {MODEL}")
class Lifecycle(unittest.TestCase):
    def fails(self, *flags):
        """The one line that a server which cannot start prints."""
        done = subprocess.run([PROGRAM, "serve", "-m", str(MODEL), *flags], capture_output=True, timeout=TIME_OUT_S, check=False)
        self.assertNotEqual(done.returncode, 0)
        self.assertEqual(done.stdout, b"")
        message = done.stderr.decode()
        self.assertTrue(message.startswith("quipu: error: "), message)
        return message

    @staticmethod
    def is_closed(server):
        with socket.socket() as attempt:
            return attempt.connect_ex((server.host, server.port)) != 0

    def test_other_addresses_need_a_key(self):
        self.assertIn("--api-key", self.fails("--host", "0.0.0.0", "--port", "0"))
        self.assertIn("not an address", self.fails("--host", "no.such.name", "--port", "0"))
        for flags in (("--api-key", "k"), ("--allow-open",)):
            server = Server("--host", "0.0.0.0", *flags)
            server.host = "127.0.0.1"
            self.assertEqual(server.get("/health"), {"status": "ok"})
            server.stop()

    def test_an_address_in_use(self):
        server = Server()
        self.assertIn("another --port", self.fails("--port", str(server.port)))
        server.stop()

    def test_a_log_that_cannot_be_written(self):
        self.assertIn("no-such-folder/log: cannot be written", self.fails("--port", "0", "--log-jsonl", "no-such-folder/log"))

    def test_keys_from_a_file_and_names_from_the_environment(self):
        with tempfile.TemporaryDirectory() as folder:
            keys = pathlib.Path(folder, "keys")
            self.assertIn(str(keys), self.fails("--api-key-file", str(keys)))
            keys.write_text("# nobody\n")
            self.assertIn("no key", self.fails("--api-key-file", str(keys)))
            keys.write_text("# the team\nalpha\n\nbeta  \n")
            server = Server("--api-key-file", keys, env={"QUIPU_ALIAS": "one,two", "QUIPU_PARALLEL": "3"})
            self.assertEqual(server.ready["parallel"], 3)
            headers = {"Authorization": "Bearer beta"}
            names = [model["id"] for model in server.get("/v1/models", headers=headers)["data"]]
            self.assertEqual(names, ["one", "two"])
            body = {"prompt": "The", "max_tokens": 1}
            for name in ("one", "two"):
                self.assertEqual(server.post(PATH, {**body, "model": name}, headers=headers)["model"], "one")
            server.post(PATH, {**body, "model": "three"}, headers=headers, status=404)
            server.stop()

    def test_llama_servers_short_flags(self):
        server = Server("-np", "2", "-c", "256", "-a", "org/tiny")
        self.assertEqual((server.ready["parallel"], server.ready["token_limit"], server.ready["model"]), (2, 256, "org/tiny"))
        self.assertEqual(server.get("/v1/models/org%2Ftiny")["id"], "org/tiny")
        self.assertEqual(server.get("/v1/models/org/tiny")["id"], "org/tiny")
        server.stop()

    def test_a_signal_lets_running_answers_finish(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            server = Server()
            response = server.send("POST", PATH, {**LONG, "max_tokens": 300})
            first = response.read(200)
            kept = server.connect()  # a connection without a request does not hold the server up
            server.signal(number)
            server.wait_until(lambda: self.is_closed(server), "it takes no new connection")
            events = parse_events((first + response.read()).decode())
            self.assertEqual(events[-1], "[DONE]")
            self.assertEqual(events[-2]["choices"][0]["finish_reason"], "length")
            self.assertEqual(kept.recv(10), b"")
            kept.close()
            server.wait()

    def test_what_runs_too_long_is_cancelled_and_told_so(self):
        server = Server("--drain-timeout", "0.2", "--parallel", "1")
        stream = server.send("POST", PATH, {**LONG, "n": 1})
        stream.read(100)
        waiting = server.connect()
        body = json.dumps({**LONG, "stream": False}).encode()
        waiting.sendall(b"POST /v1/completions HTTP/1.1\r\nContent-Type: application/json\r\n"
                        b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        server.wait_until(lambda: server.metric("quipu_num_requests_waiting") == 1, "one waits")
        begin = time.monotonic()
        server.signal()
        events = parse_events("data: " + stream.read().decode().split("data: ", 1)[1])
        self.assertEqual(events[-1]["error"]["code"], "shutting_down")
        answer = b""
        while piece := waiting.recv(4096):
            answer += piece
        waiting.close()
        self.assertTrue(answer.startswith(b"HTTP/1.1 503 "), answer)
        server.wait()
        self.assertLess(time.monotonic() - begin, 10)

    def test_a_second_signal_does_not_wait(self):
        server = Server()
        stream = server.send("POST", PATH, {**LONG, "n": 8})
        stream.read(100)
        server.signal(signal.SIGINT)
        time.sleep(0.05)
        server.signal(signal.SIGINT)
        self.assertIn("shutting_down", stream.read().decode())
        server.wait()

    def test_a_hangup_without_a_certificate_changes_nothing(self):
        server = Server()
        server.signal(signal.SIGHUP)
        self.assertEqual(server.get("/health"), {"status": "ok"})
        server.signal(signal.SIGHUP)
        self.assertEqual(server.get("/health"), {"status": "ok"})
        server.signal()
        _, said = server.process.communicate(timeout=TIME_OUT_S)
        shutil.rmtree(server.folder, ignore_errors=True)
        self.assertEqual(server.process.returncode, 0)
        self.assertIn(b"there is no certificate to read again", said)

    def test_a_service_manager_hears_of_start_and_stop(self):
        with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(str(pathlib.Path(folder, "notify")))
            manager.settimeout(TIME_OUT_S)
            server = Server(env={"NOTIFY_SOCKET": manager.getsockname()})
            self.assertEqual(manager.recv(100), b"READY=1")
            server.signal()
            self.assertEqual(manager.recv(100), b"STOPPING=1")
            server.wait()
        server = Server(env={"NOTIFY_SOCKET": "/no/such/socket"})  # nobody listens
        self.assertEqual(server.get("/health"), {"status": "ok"})
        server.stop()

    def test_a_model_without_a_vocabulary(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "ids.gguf")
            subprocess.run([PROGRAM, "synth", "--arch", "tiny-llama", "--type", "q8_0", "-o", str(path)], check=True,
                           capture_output=True, timeout=TIME_OUT_S)
            done = subprocess.run([PROGRAM, "serve", "-m", str(path), "--port", "0"], capture_output=True, timeout=TIME_OUT_S,
                                  check=False)
        self.assertEqual(done.returncode, 2)
        self.assertIn(b"no vocabulary", done.stderr)


if __name__ == "__main__":
    unittest.main()
