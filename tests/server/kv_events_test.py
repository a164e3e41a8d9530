"""The stream of cache changes: complete, small, and gone when nobody reads it."""

import json
import time
import unittest

from quipu_server import Server, ServerTest

CHAT = {"messages": [{"role": "user", "content": "Tell me a story about a goat."}], "seed": 1, "max_tokens": 64}
CELLS_MAX = 2048


def named_events(response):
    """(name, data) of an open stream, one after the other."""
    name = None
    for line in response:
        text = line.decode().rstrip("\n")
        if text.startswith("event: "):
            name = text.removeprefix("event: ")
        elif text.startswith("data: "):
            yield name, json.loads(text.removeprefix("data: "))


def sums(cells):
    return [sum(cell[state] for cell in cells) for state in range(5)]


class KvEvents(ServerTest):
    def open_stream(self):
        response = self.server.send("GET", "/v1/kv/events")
        self.assertEqual((response.status, response.getheader("Content-Type")), (200, "text/event-stream"))
        self.addCleanup(response.close)
        return named_events(response)

    def test_changes_follow_a_snapshot_and_add_up(self):
        events = self.open_stream()
        name, snapshot = next(events)
        self.assertEqual(name, "snapshot")
        group = snapshot["groups"][0]
        cells = group["cells"]
        self.assertEqual(sums(cells), group["states"])
        before = group["states"]
        self.server.post("/v1/chat/completions", CHAT)
        changed = 0
        for _ in range(50):
            name, change = next(events)
            self.assertEqual(name, "change")
            group = change["groups"][0]
            self.assertNotIn("cells", group)
            for index, *cell in group["changed"]:
                self.assertNotEqual(cells[index], cell, "only what differs is told")
                cells[index] = cell
                changed += 1
            self.assertEqual(sums(cells), group["states"])
            self.assertEqual(sum(group["states"]), group["total"])
            if change["recent"]:
                break
        self.assertGreater(changed, 0)
        self.assertGreaterEqual(group["states"][3], before[3])
        told = change["recent"][-1]
        self.assertEqual((told["path"], told["completion_tokens"]), ("/v1/chat/completions", 64))
        self.assertEqual(sum(told["found"][source] for source in ("shared", "tail", "copied")), told["cached_tokens"])

    def test_the_page_is_public_and_the_cache_is_not(self):
        server = Server("--api-key", "sk-a")
        self.addCleanup(server.stop)
        page = server.send("GET", "/")
        self.assertEqual(page.status, 200)
        self.assertIn(b"quipu", page.read())
        for path in ("/v1/kv/snapshot", "/v1/kv/events"):
            response = server.send("GET", path)
            self.assertEqual(response.status, 401)
            response.read()
        self.assertEqual(server.get("/v1/kv/snapshot", headers={"Authorization": "Bearer sk-a"})["recent"], [])

    def test_watchers_are_bounded_and_make_room_when_they_leave(self):
        streams = [self.server.send("GET", "/v1/kv/events") for _ in range(16)]
        self.assertEqual([stream.status for stream in streams], [200] * 16)
        self.refused(503, "GET", "/v1/kv/events", code="overloaded")
        for stream in streams:
            stream.close()

        def has_room():
            response = self.server.send("GET", "/v1/kv/events")
            response.close()
            return response.status == 200

        self.server.wait_until(has_room, "room for another watcher")

    def test_a_tenant_that_takes_all_its_places_keeps_no_other_out(self):
        server = Server("--api-key", "sk-a", "--api-key", "sk-b", "--operator-key", "sk-ops")
        self.addCleanup(server.stop)

        def watch(key):
            stream = server.send("GET", "/v1/kv/events", headers={"Authorization": f"Bearer {key}"})
            self.addCleanup(stream.close)
            return stream

        streams = []
        while (stream := watch("sk-a")).status == 200:
            streams.append(stream)
            self.assertLess(len(streams), 17)
        error = json.loads(stream.read())["error"]
        self.assertEqual((stream.status, error["code"]), (503, "overloaded"))
        self.assertIn(f"{len(streams)} clients", error["message"])
        for key in ("sk-b", "sk-ops"):
            others = [watch(key) for _ in streams]
            self.assertEqual({other.status for other in others}, {200})
            self.assertEqual({next(named_events(other))[0] for other in others}, {"snapshot"})

    def test_a_reader_that_stalls_holds_nobody_up(self):
        with self.server.connect(receive_buffer=4096) as stalled:
            stalled.sendall(b"GET /v1/kv/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            time.sleep(1)
            for seed in range(4):
                self.server.post("/v1/chat/completions", {**CHAT, "seed": seed})
            name, _ = next(self.open_stream())
            self.assertEqual(name, "snapshot")

    def test_a_large_pool_is_summarised(self):
        server = Server("--kv-memory", "800MiB")
        self.addCleanup(server.stop)
        snapshot = server.get("/v1/kv/snapshot")
        group = snapshot["groups"][0]
        self.assertGreater(group["total"], 5 * CELLS_MAX)
        self.assertLessEqual(len(group["cells"]), CELLS_MAX)
        self.assertEqual(sums(group["cells"]), group["states"])
        self.assertLess(len(json.dumps(snapshot)), 128 * 1024)


class Drain(unittest.TestCase):
    def test_a_watched_server_ends(self):
        server = Server()
        events = named_events(server.send("GET", "/v1/kv/events"))
        next(events)
        server.signal()
        self.assertEqual([name for name, _ in events if name != "change"], ["end"])
        server.wait()


if __name__ == "__main__":
    unittest.main()
