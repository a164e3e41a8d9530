"""Clients that break the rules, leave, or do not listen: an answer or a closed connection, and a server that goes on."""

import concurrent.futures
import http.client
import json
import random
import socket
import time
import unittest

from quipu_server import TIME_OUT_S, Server, ServerTest

PATH = "/v1/completions"
LONG = {"prompt": "Once upon a time", "max_tokens": 1500, "ignore_eos": True, "stream": True, "seed": 1}


def post(body, *headers, version="HTTP/1.1"):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"POST {PATH} {version}", "Host: localhost", "Content-Type: application/json",
             f"Content-Length: {len(data)}", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + data


def status_of(answer):
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else None


class Hostile(ServerTest):
    flags = ("--read-timeout", "0.5", "--timeout", "1", "--max-body", "100KiB", "--parallel", "4", "--queue", "4")

    def tearDown(self):
        self.assertEqual(self.server.get("/health"), {"status": "ok"})
        self.server.wait_until(self.server.is_idle, "every request has ended")

    def test_not_http(self):
        for garbage in (b"\x00\x01\x02\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00\x01",
                        b"GET /health HTTP/1.1\r\nBad Header: x\r\n\r\n",
                        b"POST " + PATH.encode() + b" HTTP/1.1\r\nContent-Length: -1\r\n\r\n"):
            answer = self.server.raw(garbage)
            self.assertIn(status_of(answer), (400, 408, None), garbage)
            if answer:
                self.assertEqual(json.loads(answer.split(b"\r\n\r\n", 1)[1])["error"]["code"], "bad_http")

    def test_headers_that_are_too_large(self):
        answer = self.server.raw(b"GET /health HTTP/1.1\r\nX: " + b"a" * 100_000 + b"\r\n\r\n")
        self.assertEqual(status_of(answer), 431)

    def test_bodies_that_are_too_large(self):
        self.assertEqual(status_of(self.server.raw(post(b"x" * 200_000))), 413)
        declared = post(b"", "X: y").replace(b"Content-Length: 0", b"Content-Length: 999999999")
        self.assertEqual(status_of(self.server.raw(declared)), 413)
        chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        chunked = (f"POST {PATH} HTTP/1.1\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
                   + chunk * 3 + b"0\r\n\r\n")
        self.assertEqual(status_of(self.server.raw(chunked)), 413)

    def test_slow_headers_and_bodies_are_given_up(self):
        begin = time.monotonic()
        answer = self.server.raw(b"GET /health HTTP/1.1\r\nHost: loc")
        self.assertEqual(status_of(answer), 408)
        with self.server.connect() as connection:  # a byte now and then does not help
            connection.settimeout(0.1)
            connection.sendall(b"GET /health HTTP/1.1\r\n")
            answer = b""
            for letter in b"X" * 100:
                try:
                    connection.sendall(bytes([letter]))
                    answer += connection.recv(4096)
                except TimeoutError:
                    continue
                except OSError:
                    break
                if answer:
                    break
        self.assertEqual(status_of(answer), 408)
        answer = self.server.raw(post(b"{}").replace(b"Content-Length: 2", b"Content-Length: 50"))
        self.assertEqual(status_of(answer), 408)
        self.assertLess(time.monotonic() - begin, 20)

    def test_a_connection_that_says_nothing_is_closed(self):
        self.assertEqual(self.server.raw(b""), b"")

    def test_one_connection_many_requests(self):
        connection = self.server.http_connection()
        for _ in range(5):
            self.assertEqual(self.server.send("GET", "/health", connection=connection).read(), b'{"status":"ok"}')
            reply = self.server.send("POST", PATH, {"prompt": "The", "max_tokens": 2}, connection=connection)
            self.assertEqual(json.loads(reply.read())["usage"]["completion_tokens"], 2)
            reply = self.server.send("POST", PATH, {"prompt": "The", "max_tokens": 2, "stream": True}, connection=connection)
            self.assertTrue(reply.read().endswith(b"[DONE]\n\n"))
            self.assertEqual(self.server.send("POST", PATH, "{", connection=connection).read()[:8], b'{"error"')
        connection.close()

    def test_requests_sent_ahead_are_answered_in_order(self):
        get = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
        last = b"GET /nothing HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        answer = self.server.raw(get + post({"prompt": "The", "max_tokens": 3}) + get + post({"prompt": 3}) + last)
        statuses = [int(part.split(b" ", 1)[0]) for part in answer.split(b"HTTP/1.1 ")[1:]]
        self.assertEqual(statuses, [200, 200, 200, 400, 404])

    def test_old_http(self):
        answer = self.server.raw(b"GET /health HTTP/1.0\r\n\r\n")
        self.assertEqual(status_of(answer), 200)
        answer = self.server.raw(post({"prompt": "The", "max_tokens": 2, "stream": True}, version="HTTP/1.0"))
        self.assertNotIn(b"chunked", answer)
        self.assertTrue(answer.endswith(b"data: [DONE]\n\n"), answer)

    def test_expect_continue(self):
        data = json.dumps({"prompt": "The", "max_tokens": 2}).encode()
        head = post(data, "Expect: 100-continue", "Connection: close")[:-len(data)]
        with self.server.connect() as connection:
            connection.sendall(head)
            self.assertTrue(connection.recv(100).startswith(b"HTTP/1.1 100 "))
            connection.sendall(data)
            self.assertTrue(connection.recv(4096).startswith(b"HTTP/1.1 200 "))

    def leave_during(self, body, leave):
        before = self.server.metric('quipu_request_success_total{model_name="quipu-stories-q8_0",finished_reason="abort"}')
        connection = self.server.connect()
        connection.sendall(post(body))
        leave(connection)
        begin = time.monotonic()
        self.server.wait_until(self.server.is_idle, "the request of a client that left has ended")
        self.assertLess(time.monotonic() - begin, 10)
        connection.close()
        after = self.server.metric('quipu_request_success_total{model_name="quipu-stories-q8_0",finished_reason="abort"}')
        return after - before

    def test_a_client_that_leaves_cancels_its_request(self):
        def after_some_text(connection):
            connection.recv(4096)
            connection.close()

        def by_reset(connection):
            connection.recv(4096)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            connection.close()

        def half(connection):  # nothing more will be sent: as good as gone
            connection.recv(4096)
            connection.shutdown(socket.SHUT_WR)

        for leave in (after_some_text, by_reset, half):
            self.assertEqual(self.leave_during(LONG, leave), 1, leave.__name__)

        def before_any_answer(connection):
            self.server.wait_until(lambda: not self.server.is_idle(), "it runs")
            connection.close()

        self.assertEqual(self.leave_during({**LONG, "stream": False}, before_any_answer), 1)
        self.assertEqual(self.leave_during({**LONG, "n": 3}, after_some_text), 3)

    def test_a_client_that_does_not_read_is_dropped(self):
        wordy = {**LONG, "logprobs": 20, "max_tokens": 600, "n": 2}
        with self.server.connect(receive_buffer=4096) as connection:
            connection.sendall(post(wordy, "X-Request-Id: deaf"))
            connection.recv(1000)
            self.server.wait_until(lambda: any(line["id"] == "deaf" for line in self.server.log()),
                                   "a client that does not read is dropped", 30)
            entry = next(line for line in self.server.log() if line["id"] == "deaf")
            self.assertEqual((entry["status"], entry["finish"]), (499, "the client left"))

    def test_a_full_queue_says_when_to_come_back(self):
        streams = []
        try:
            for _ in range(8):
                connection = self.server.connect()
                connection.sendall(post(LONG))
                streams.append(connection)
            for connection in streams[:4]:
                connection.recv(100)
            response = None
            for _ in range(200):  # until all eight have arrived
                response = self.server.send("POST", PATH, {"prompt": "x", "max_tokens": 1})
                text = response.read()
                if response.status == 429:
                    break
            self.assertEqual(response.status, 429, text)
            self.assertEqual(response.getheader("Retry-After"), "1")
            self.assertEqual(json.loads(text)["error"]["code"], "queue_full")
        finally:
            for connection in streams:
                connection.close()

    def test_changed_requests(self):
        """Valid requests with bytes changed at random: every one is answered or its connection closed."""
        draw = random.Random(5)
        seeds = [post({"prompt": "The", "max_tokens": 2}), b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n",
                 post({"prompt": "The", "max_tokens": 2, "stream": True}, "Connection: close"),
                 post(b"2\r\n{}\r\n0\r\n\r\n", "Transfer-Encoding: chunked")]

        def attempt(data):
            answer = self.server.raw(data, patience_s=0.15)
            return status_of(answer) if answer else None

        mutated = []
        for _ in range(300):
            data = bytearray(draw.choice(seeds))
            for _ in range(draw.randrange(1, 6)):
                at = draw.randrange(len(data))
                kind = draw.randrange(3)
                if kind == 0:
                    data[at] = draw.randrange(256)
                elif kind == 1:
                    data[at:at] = draw.choice([b"\r\n", b"\n", b":", b" ", b"\0", b"\xff" * 9, b"9" * 30, b"%00", b"\t"])
                else:
                    del data[at:at + draw.randrange(1, 20)]
                if not data:
                    data = bytearray(b"\r")
            mutated.append(bytes(data))
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            statuses = list(pool.map(attempt, mutated))
        self.assertGreater(statuses.count(400), 20)
        self.assertTrue(all(status is None or status in (200, 400, 403, 404, 405, 408, 413, 415, 429, 431)
                            for status in statuses), statuses)


class FewConnections(ServerTest):
    flags = ("--max-connections", "3")

    def test_too_many_connections_are_told_so(self):
        held = [self.server.connect() for _ in range(3)]
        try:
            self.server.wait_until(lambda: status_of(self.server.raw(b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n"))
                                   == 503, "the fourth is refused")
        finally:
            for connection in held:
                connection.close()
        self.server.wait_until(lambda: status_of(self.server.raw(b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n"))
                               == 200, "there is room again")


class FewFiles(unittest.TestCase):
    def test_a_server_out_of_files_goes_on_when_some_are_free(self):
        server = Server("--max-connections", "1000", files_max=60)
        self.addCleanup(server.stop)
        get = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
        first = server.connect()
        held = [server.connect() for _ in range(80)]  # the last ones wait to be accepted
        first.sendall(get)  # who has a connection is served meanwhile
        self.assertEqual(status_of(first.recv(4096)), 200)
        held[-1].sendall(get)
        held[-1].settimeout(0.3)
        self.assertRaises(TimeoutError, held[-1].recv, 1)  # it waits: the test does reach the limit
        for connection in [first, *held[:-1]]:
            connection.close()
        held[-1].settimeout(TIME_OUT_S)
        self.assertEqual(status_of(held[-1].recv(4096)), 200)
        held[-1].close()


class LittleMemory(ServerTest):
    """Memory for less than two of the requests: they wait and give way, and every one gets its own text."""

    flags = ("--kv-memory", "1536KiB", "--parallel", "6", "--kv-host-memory", "4MiB")

    def test_requests_that_do_not_fit_together(self):
        bodies = [{"prompt": f"Story {i}. Once upon a time", "max_tokens": 500, "ignore_eos": True, "seed": i}
                  for i in range(6)]

        def text(body):
            reply = self.server.post(PATH, body)
            self.assertEqual(reply["usage"]["completion_tokens"], 500)
            return reply["choices"][0]["text"]

        alone = [text(body) for body in bodies]
        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            self.assertEqual(list(pool.map(text, bodies)), alone)
        self.assertGreater(self.server.metric("quipu_num_preemptions_total"), 0)
        self.assertEqual(self.server.metric("quipu_kv_tier_capacity_bytes"), 4 << 20)
        limit = self.server.ready["token_limit"]
        error = self.refused(400, "POST", PATH, {"prompt": [5] * (limit + 1)}, code="context_length_exceeded")
        self.assertIn(str(limit), error["message"])
        for group in self.server.get("/v1/kv")["groups"]:
            self.assertEqual((group["blocks"]["open"], group["blocks"]["closed"]), (0, 0))


if __name__ == "__main__":
    unittest.main()
