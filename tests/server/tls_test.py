"""HTTPS: what holds over plain HTTP holds here too, and what only TLS brings."""

import json
import os
import pathlib
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
import unittest
import warnings

import hostile_test
from quipu_server import DATA, MODEL, PROGRAM, TIME_OUT_S, Server, ServerTest, TlsServer, client_context

PATH = "/v1/completions"
SEEDED = {"prompt": "Once upon a time", "max_tokens": 40, "seed": 3}
LONG = {"prompt": "Once upon a time", "max_tokens": 1500, "ignore_eos": True, "stream": True, "seed": 1}


class HostileOverTls(hostile_test.Hostile):
    """Every limit of the plain server, met through TLS."""

    kind = TlsServer

    def test_a_connection_that_says_nothing_is_closed(self):
        with self.server.plain_connect() as connection:
            self.assertEqual(connection.recv(1), b"")
        super().test_a_connection_that_says_nothing_is_closed()

    def test_half_a_handshake_is_given_up(self):
        offer = ssl.MemoryBIO()
        client = client_context().wrap_bio(ssl.MemoryBIO(), offer, server_hostname="localhost")
        self.assertRaises(ssl.SSLWantReadError, client.do_handshake)
        hello = offer.read()
        begin = time.monotonic()
        for beginning in (b"", hello[:1], hello[:40], hello):
            with self.server.plain_connect() as connection:
                connection.sendall(beginning)
                while connection.recv(65536):
                    pass
        with self.server.plain_connect() as connection:  # a byte now and then does not help
            connection.settimeout(0.1)
            for letter in hello:
                try:
                    connection.sendall(bytes([letter]))
                    if connection.recv(4096) == b"":
                        break
                except TimeoutError:
                    continue
                except OSError:
                    break
            else:
                self.fail("the handshake was waited for without end")
        self.assertLess(time.monotonic() - begin, 20)

    def test_garbage_instead_of_a_handshake(self):
        for garbage in (os.urandom(300), b"\x16\x03\x01\x00\x05hello", b"\x15\x03\x03\x00\x02\x02\x28", b"SSH-2.0-x\r\n"):
            with self.server.plain_connect() as connection:
                connection.sendall(garbage)
                try:
                    while connection.recv(4096):
                        pass
                except ConnectionResetError:
                    pass

    def test_plain_http_is_told_where_it_is(self):
        for method in ("GET", "POST"):
            with self.server.plain_connect() as connection:
                connection.sendall(f"{method} /health HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                answer = b""
                while piece := connection.recv(4096):
                    answer += piece
            self.assertEqual(hostile_test.status_of(answer), 400)
            error = json.loads(answer.split(b"\r\n\r\n", 1)[1])["error"]
            self.assertIn("https://", error["message"])


class Https(ServerTest):
    kind = TlsServer

    def test_the_same_answers(self):
        text = self.server.post(PATH, SEEDED)["choices"][0]["text"]
        events = self.server.events(PATH, SEEDED)
        self.assertEqual("".join(event["choices"][0]["text"] for event in events[:-1]), text)
        plain = Server()
        self.addCleanup(plain.stop)
        self.assertEqual(plain.post(PATH, SEEDED)["choices"][0]["text"], text)
        page = self.server.send("GET", "/").read()
        self.assertTrue(page.startswith(b"<!doctype html>") or page.startswith(b"<!DOCTYPE html>"), page[:40])

    def test_versions_ciphers_and_protocols(self):
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = client_context()
            context.minimum_version = context.maximum_version = version
            context.set_alpn_protocols(["h2", "http/1.1"])
            with self.server.connect(context=context) as connection:
                self.assertEqual(connection.version(), version.name.replace("_", "."))
                self.assertEqual(connection.selected_alpn_protocol(), "http/1.1")
                self.assertIsNone(connection.compression())
                self.assertRegex(connection.cipher()[0], "GCM|CHACHA20")
        context = client_context()
        context.set_alpn_protocols(["h2"])
        with self.server.connect(context=context) as connection:
            self.assertIsNone(connection.selected_alpn_protocol())
        weak = client_context()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            weak.minimum_version = weak.maximum_version = ssl.TLSVersion.TLSv1_1
        weak.set_ciphers("ALL:@SECLEVEL=0")
        self.assertRaises(ssl.SSLError, self.server.connect, context=weak)
        old = client_context()
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        old.set_ciphers("AES128-SHA")  # no forward secrecy
        self.assertRaises(ssl.SSLError, self.server.connect, context=old)

    def test_the_end_is_said_in_the_words_of_tls(self):
        with self.server.connect() as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            answer = b""
            while piece := connection.recv(4096):  # would raise if the connection were only cut
                answer += piece
            self.assertTrue(answer.endswith(b'{"status":"ok"}'))


@unittest.skipUnless(MODEL.exists(), f"the built-in model is not there: {MODEL}")
class Files(unittest.TestCase):
    def fails(self, *flags):
        done = subprocess.run([PROGRAM, "serve", "-m", str(MODEL), "--port", "0", *map(str, flags)], capture_output=True,
                              timeout=TIME_OUT_S, check=False)
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertEqual(done.stdout, b"")
        return done.stderr.decode()

    def test_what_is_wrong_with_them_is_said(self):
        certificate, key = DATA / "first.crt", DATA / "first.key"
        self.assertIn("--ssl-key-file is missing", self.fails("--ssl-cert-file", certificate))
        self.assertIn("--ssl-cert-file is missing", self.fails("--ssl-key-file", key))

        def both(certificate, key):
            return self.fails("--ssl-cert-file", certificate, "--ssl-key-file", key)

        self.assertIn("--ssl-cert-file: no-such-file", both("no-such-file", key))
        self.assertIn("--ssl-key-file: no-such-file", both(certificate, "no-such-file"))
        self.assertIn("no certificate in PEM form", both(key, key))
        self.assertIn("no private key in PEM form", both(certificate, certificate))
        self.assertIn("belongs to another certificate", both(certificate, DATA / "second.key"))
        self.assertIn("needs a passphrase", both(certificate, DATA / "encrypted.key"))

    def test_a_new_certificate_on_sighup(self):
        with tempfile.TemporaryDirectory() as folder:
            paths = [pathlib.Path(folder, name) for name in ("server.crt", "server.key")]

            def install(name):
                for path in paths:
                    shutil.copy(DATA / f"{name}{path.suffix}", path)

            install("first")
            server = Server("--ssl-cert-file", paths[0], "--ssl-key-file", paths[1])

            def shows(name):
                with socket.create_connection((server.host, server.port)) as connection:
                    try:
                        with client_context(name).wrap_socket(connection, server_hostname="localhost"):
                            return True
                    except ssl.SSLCertVerificationError:
                        return False

            self.assertTrue(shows("first") and not shows("second"))
            before = client_context("first").wrap_socket(socket.create_connection((server.host, server.port)),
                                                         server_hostname="localhost")
            install("second")
            self.assertTrue(shows("first"))  # not before it is told
            server.signal(signal.SIGHUP)
            server.wait_until(lambda: shows("second"), "new connections see the new certificate")
            paths[1].write_text("not a key")
            server.signal(signal.SIGHUP)
            server.wait_until(lambda: shows("second"), "a broken file leaves what was there")
            before.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            self.assertTrue(before.recv(4096).startswith(b"HTTP/1.1 200 "))
            before.close()
            server.signal()
            _, said = server.process.communicate(timeout=TIME_OUT_S)
            shutil.rmtree(server.folder, ignore_errors=True)
            self.assertEqual(server.process.returncode, 0)
            self.assertIn(b"the certificate was read again", said)
            self.assertIn(b"the certificate from before stays", said)

    def test_draining(self):
        server = TlsServer("--drain-timeout", "30")
        idle, half = server.connect(), server.plain_connect()
        stream = server.send("POST", PATH, {**LONG, "max_tokens": 300})
        stream.read(200)
        server.signal()
        self.assertIn(b"[DONE]", stream.read())
        self.assertEqual(idle.recv(1), b"")
        self.assertEqual(half.recv(1), b"")
        idle.close()
        half.close()
        server.wait()

    def test_too_many_connections(self):
        server = TlsServer("--max-connections", "2")
        self.addCleanup(server.stop)
        held = [server.connect() for _ in range(2)]
        self.assertRaises((ssl.SSLError, ConnectionError), server.connect)
        for connection in held:
            connection.close()

        def has_room():
            try:
                return server.get("/health") == {"status": "ok"}
            except (ssl.SSLError, ConnectionError):
                return False

        server.wait_until(has_room, "there is room again")


if __name__ == "__main__":
    unittest.main()
