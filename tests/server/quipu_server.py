"""What the server tests share: a running server on a free port, and a client that hides nothing.

Environment: QUIPU_PROGRAM (the built program), QUIPU_SHARED_DIR (data that may be absent).
"""

import http.client
import json
import os
import pathlib
import resource
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = os.environ.get("QUIPU_PROGRAM", str(ROOT / "build" / "release" / "quipu"))
SHARED = pathlib.Path(os.environ.get("QUIPU_SHARED_DIR", ROOT.parent / "shared"))
MODEL = ROOT / "models" / "quipu-stories-q8_0.gguf"
DATA = pathlib.Path(__file__).resolve().parent / "data"
TIME_OUT_S = 120
JSON_TYPE = {"Content-Type": "application/json"}


class Server:
    """`quipu serve` on a free loopback port with the built-in model or another."""

    def __init__(self, *flags, env=None, files_max=None, port=0, model=MODEL):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="quipu-server-"))
        self.log_path = self.folder / "log.jsonl"
        clean = {name: value for name, value in os.environ.items() if not name.startswith("QUIPU_")}
        if "--kv-memory" not in flags:
            flags = ("--kv-memory", "64MiB", *flags)
        command = [PROGRAM, "serve", "-m", str(model), "--port", str(port), "--json", "--threads", "2",
                   "--log-jsonl", str(self.log_path), *map(str, flags)]

        def limit_files():
            resource.setrlimit(resource.RLIMIT_NOFILE, (files_max, files_max))

        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                        env={**clean, "QUIPU_CONFIG": "/dev/null", **(env or {})}, preexec_fn=limit_files if files_max else None)
        line = self.process.stdout.readline()
        if not line:
            message = self.process.stderr.read().decode()
            self.process.communicate()
            shutil.rmtree(self.folder, ignore_errors=True)
            raise AssertionError(message)
        self.ready = json.loads(line)
        self.host, port = self.ready["address"].rsplit(":", 1)
        self.port = int(port)

    def connect(self, receive_buffer=None):
        connection = socket.socket()
        if receive_buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.settimeout(TIME_OUT_S)
        connection.connect((self.host, self.port))
        return connection

    def http_connection(self):
        return http.client.HTTPConnection(self.host, self.port, timeout=TIME_OUT_S)

    def send(self, method, path, body=None, headers=None, connection=None):
        """One request; the http.client response, its body not read yet. On a connection of its own unless given one."""
        headers = {**({"Connection": "close"} if connection is None else {}), **(headers or {})}
        connection = connection or self.http_connection()
        if isinstance(body, (dict, list)):
            body = json.dumps(body)
        if isinstance(body, str):
            body = body.encode()
        connection.request(method, path, body, {**(JSON_TYPE if body is not None else {}), **headers})
        return connection.getresponse()

    def raw(self, data, patience_s=None):
        """Bytes in, all bytes out until the server closes; says after `patience_s` of silence that no more will come."""
        with self.connect() as connection:
            answer = b""
            try:
                connection.sendall(data)
                if patience_s is not None:
                    connection.settimeout(patience_s)
                while True:
                    try:
                        piece = connection.recv(65536)
                    except TimeoutError:
                        connection.settimeout(TIME_OUT_S)
                        connection.shutdown(socket.SHUT_WR)
                        continue
                    if not piece:
                        return answer
                    answer += piece
            except (ConnectionResetError, BrokenPipeError, ssl.SSLError):
                return answer

    def json(self, method, path, body=None, headers=None, status=200):
        response = self.send(method, path, body, headers)
        text = response.read()
        if response.status != status:
            raise AssertionError(f"{method} {path}: {response.status} instead of {status}: {text[:500]!r}")
        return json.loads(text)

    def get(self, path, **options):
        return self.json("GET", path, **options)

    def post(self, path, body, **options):
        return self.json("POST", path, body, **options)

    def events(self, path, body, headers=None):
        """The data of a whole stream's events, in order; [DONE] as the text "[DONE]"."""
        response = self.send("POST", path, {**body, "stream": True}, headers)
        if response.status != 200:
            raise AssertionError(f"{response.status}: {response.read()!r}")
        assert response.getheader("Content-Type") == "text/event-stream", response.getheaders()
        return parse_events(response.read().decode())

    def metric(self, name):
        text = self.send("GET", "/metrics").read().decode()
        for line in text.splitlines():
            if line.startswith(name + "{") or line.startswith(name + " "):
                return float(line.rsplit(" ", 1)[1])
        raise AssertionError(f"no metric {name} in\n{text}")

    def wait_until(self, condition, what, seconds=20):
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                raise AssertionError(f"not in {seconds} s: {what}")
            time.sleep(0.02)

    def is_idle(self):
        return not any(slot["is_processing"] for slot in self.get("/slots"))

    def log(self):
        return [json.loads(line) for line in self.log_path.read_text().splitlines()]

    def signal(self, number=signal.SIGTERM):
        self.process.send_signal(number)

    def wait(self):
        """The exit code of a server that is ending."""
        _, stderr = self.process.communicate(timeout=TIME_OUT_S)
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.process.returncode != 0:
            raise AssertionError(f"exit code {self.process.returncode}: {stderr.decode()}")

    def stop(self):
        if self.process.poll() is None:
            self.signal()
        self.wait()


def client_context(name="first"):
    """Trusts the one certificate of this name."""
    return ssl.create_default_context(cafile=DATA / f"{name}.crt")


class TlsServer(Server):
    """The same over HTTPS, with a certificate that its client checks."""

    def __init__(self, *flags, name="first", **options):
        super().__init__("--ssl-cert-file", DATA / f"{name}.crt", "--ssl-key-file", DATA / f"{name}.key", *flags, **options)

    def plain_connect(self, receive_buffer=None):
        return super().connect(receive_buffer)

    def connect(self, receive_buffer=None, context=None):
        connection = self.plain_connect(receive_buffer)
        try:
            return (context or client_context()).wrap_socket(connection, server_hostname="localhost")
        except BaseException:
            connection.close()
            raise

    def http_connection(self):
        return http.client.HTTPSConnection(self.host, self.port, timeout=TIME_OUT_S, context=client_context())


def parse_events(text):
    events = []
    for block in text.split("\n\n"):
        name, data = block.split("\n", 1) if block.startswith("event: ") else ("", block)
        if data.startswith("data: "):
            data = data[len("data: "):]
            if name:
                assert json.loads(data)["type"] == name[len("event: "):], block
            events.append(data if data == "[DONE]" else json.loads(data))
    return events


class ServerTest(unittest.TestCase):
    """Tests that share one server, started with `flags`."""

    flags = ()
    kind = Server
    server = None

    @classmethod
    def setUpClass(cls):
        if not MODEL.exists():
            raise unittest.SkipTest(f"the built-in model is not there: {MODEL}")
        cls.server = cls.kind(*cls.flags)

    @classmethod
    def tearDownClass(cls):
        if cls.server is not None:
            cls.server.stop()

    def refused(self, status, method, path, body=None, headers=None, code=None, param=None):
        """The error object of a request that must be refused."""
        error = self.server.json(method, path, body, headers, status=status)["error"]
        self.assertEqual(sorted(error), ["code", "message", "param", "type"])
        if code is not None:
            self.assertEqual(error["code"], code)
        if param is not None:
            self.assertEqual(error["param"], param)
        return error
