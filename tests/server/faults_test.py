"""Faults under load: a server that is killed, clients that vanish at every stage. What is held afterwards is counted."""

import json
import os
import signal
import socket
import time
import unittest

from quipu_server import Server, ServerTest

PATH = "/v1/completions"
LONG = {"prompt": "Once upon a time", "max_tokens": 1500, "ignore_eos": True, "stream": True, "seed": 1}


def post(body, path=PATH):
    data = json.dumps(body).encode()
    return (f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(data)}\r\n\r\n").encode() + data


class Killed(unittest.TestCase):
    def test_killed_under_load_and_started_again_at_the_same_port(self):
        body = {**LONG, "stream": False, "max_tokens": 24}
        server = Server("--parallel", "4", "--kv-host-memory", "4MiB")
        expected = server.post(PATH, body)["choices"]
        streams = []
        for seed in range(12):  # four run, the others wait
            connection = server.connect()
            connection.sendall(post({**LONG, "seed": seed}))
            streams.append(connection)
        for connection in streams[:4]:
            connection.recv(100)
        server.signal(signal.SIGKILL)
        server.process.wait(timeout=20)
        for connection in streams:  # every client hears of it at once
            connection.settimeout(20)
            try:
                while connection.recv(65536):
                    pass
            except ConnectionResetError:
                pass
            connection.close()
        again = Server("--parallel", "4", "--kv-host-memory", "4MiB", port=server.port)
        self.addCleanup(again.stop)
        self.assertEqual(again.port, server.port)
        self.assertEqual(again.post(PATH, body)["choices"], expected)
        server.process.communicate()

    def test_two_cannot_have_one_port(self):
        server = Server()
        self.addCleanup(server.stop)
        with self.assertRaises(AssertionError) as refusal:
            Server(port=server.port)
        self.assertIn("port", str(refusal.exception))


class Vanishing(ServerTest):
    """Clients that leave at every stage of a request, by closing and by a reset."""

    flags = ("--parallel", "2", "--queue", "8", "--read-timeout", "1")

    def leave(self, connection, abruptly):
        if abruptly:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        connection.close()

    def stages(self, token):
        whole = post(LONG)
        yield "connected", b"", None
        yield "half a header", whole[:30], None
        yield "a header", whole[:whole.index(b"{")], None
        yield "half a body", whole[:-20], None
        yield "a whole request", whole, None  # gone before it is read
        yield "a long prompt", post({**LONG, "prompt": [token] * 1500}), lambda: not self.server.is_idle()
        yield "some output", whole, "some"
        yield "all output", post({**LONG, "max_tokens": 3}), "all"
        yield "a pin", post({"prompt": [token + 10] * 1200}, "/v1/kv/pin"), lambda: not self.server.is_idle()
        yield "an explanation", post({"prompt": [9] * 1200}, "/v1/kv/explain"), None
        yield "a watch", b"GET /v1/kv/events HTTP/1.1\r\nHost: localhost\r\n\r\n", "some"
        yield "a look", b"GET /v1/kv/snapshot HTTP/1.1\r\nHost: localhost\r\n\r\n", None

    def expect_nothing_held(self):
        self.server.wait_until(self.server.is_idle, "every request has ended")
        kv = self.server.get("/v1/kv")
        self.assertEqual(kv["requests"], {"running": 0, "waiting": 0})
        for group in kv["groups"]:
            self.assertEqual((group["blocks"]["open"], group["blocks"]["closed"]), (0, 0))

    def files(self):
        return len(os.listdir(f"/proc/{self.server.process.pid}/fd"))

    def test_at_every_stage(self):
        before = self.files()
        for abruptly in (False, True):
            for stage, data, until in self.stages(20 + abruptly):
                with self.subTest(stage=stage, abruptly=abruptly):
                    connection = self.server.connect()
                    connection.sendall(data)
                    if until == "some":
                        self.assertGreater(len(connection.recv(100)), 0)
                    elif until == "all":
                        answer = b""
                        while not answer.endswith(b"0\r\n\r\n"):
                            answer += connection.recv(4096)
                    elif until is not None:
                        self.server.wait_until(until, "it runs")
                    self.leave(connection, abruptly)
                    self.expect_nothing_held()
        for session in self.server.get("/v1/kv/sessions")["data"]:  # the pin may have come about just in time
            self.server.post("/v1/kv/unpin", {"session": session["id"]})
        self.server.wait_until(lambda: self.files() <= before + 1, "every connection's file is closed")

    def test_while_waiting_in_the_queue(self):
        running = [self.server.connect() for _ in range(2)]
        for connection in running:
            connection.sendall(post({**LONG, "n": 1}))
            connection.recv(100)
        waiting = [self.server.connect() for _ in range(6)]
        for connection in waiting:
            connection.sendall(post(LONG))
        self.server.wait_until(lambda: self.server.metric("quipu_num_requests_waiting") == 6, "six wait")
        for index, connection in enumerate(waiting):
            self.leave(connection, index % 2 == 0)
        self.server.wait_until(lambda: self.server.metric("quipu_num_requests_waiting") == 0, "nobody waits for those that left")
        for connection in running:
            self.leave(connection, False)
        self.expect_nothing_held()

    def test_half_open_connections_cost_their_time_and_no_more(self):
        """Peers that stopped in the middle of a request and say nothing, not even that they left."""
        silent = []
        for data in (b"", b"POST", post(LONG)[:60], post(LONG)[:-5]):
            for _ in range(10):
                connection = self.server.connect()
                connection.sendall(data)
                silent.append(connection)
        begin = time.monotonic()
        self.assertEqual(self.server.get("/health"), {"status": "ok"})
        self.assertEqual(self.server.post(PATH, {"prompt": "The", "max_tokens": 2})["usage"]["completion_tokens"], 2)
        self.assertLess(time.monotonic() - begin, 10)
        for connection in silent[10:]:  # those that began are told 408 and closed
            connection.settimeout(30)
            self.assertIn(b" 408 ", connection.recv(100))
        for connection in silent:
            connection.close()
        self.expect_nothing_held()


class OutOfFiles(unittest.TestCase):
    def test_streams_go_on_without_files_and_others_come_later(self):
        server = Server("--max-connections", "1000", "--parallel", "4", files_max=48)
        self.addCleanup(server.stop)
        stream = server.send("POST", PATH, {**LONG, "max_tokens": 400})
        first = stream.read(50)
        held = [server.connect() for _ in range(60)]
        late = server.connect()
        late.sendall(post({"prompt": "The", "max_tokens": 2}))
        late.settimeout(0.5)
        self.assertRaises(TimeoutError, late.recv, 1)  # out of files: it waits
        text = (first + stream.read()).decode()
        self.assertTrue(text.endswith("data: [DONE]\n\n"), text[-200:])
        for connection in held:
            connection.close()
        late.settimeout(60)
        self.assertTrue(late.recv(4096).startswith(b"HTTP/1.1 200 "))
        late.close()


if __name__ == "__main__":
    unittest.main()
