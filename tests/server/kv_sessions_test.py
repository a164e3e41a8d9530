"""Prefixes that are kept because somebody asked for it, deadlines, and what the server tells of both."""

import concurrent.futures
import time
import unittest

from quipu_server import Server, ServerTest

STORY = "The elephant and the hare walked to the river. " * 8
NAME = 'model_name="quipu-stories-q8_0"'


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


class Sessions(ServerTest):
    """A small pool: what nobody pins is soon gone."""

    flags = ("--kv-memory", "5MiB", "--kv-policy", "lru")
    pressed = 0

    def tearDown(self):
        for session in self.server.get("/v1/kv/sessions")["data"]:
            self.server.post("/v1/kv/unpin", {"session": session["id"]})

    def cached(self, prompt):
        usage = self.server.post("/v1/completions", {"prompt": prompt, "max_tokens": 1})["usage"]
        return usage["prompt_tokens_details"]["cached_tokens"]

    def press(self):
        """New prompts that fill the pool."""
        for _ in range(4):
            Sessions.pressed += 1
            self.server.post("/v1/completions", {"prompt": [100 + Sessions.pressed] * 1000, "max_tokens": 1})

    def test_a_pinned_prefix_survives_and_another_does_not(self):
        kept, lost = "Kept: " + STORY, "Lost: " + STORY
        session = self.server.post("/v1/kv/pin", {"prompt": kept, "label": "the river"})
        self.assertEqual((session["object"], session["label"], session["parent"]), ("kv.session", "the river", None))
        self.assertTrue(session["text"].startswith("Kept: The elephant"))
        self.cached(lost)
        self.press()
        self.assertGreaterEqual(self.cached(kept), session["tokens"] - 1)
        self.assertLess(self.cached(lost), 8)
        listed = self.server.get("/v1/kv/sessions")
        self.assertEqual([one["id"] for one in listed["data"]], [session["id"]])
        self.assertTrue(any(one["pinned"] and one["text"].startswith("Kept: ") for one in listed["conversations"]))
        self.assertEqual(self.server.metric("quipu_kv_pins"), 1)
        self.assertGreater(self.server.metric("quipu_kv_pinned_blocks"), 1)
        self.assertEqual(self.server.post("/v1/kv/unpin", {"session": session["id"]})["unpinned"], True)
        self.press()
        self.assertLess(self.cached(kept), 8)
        self.refused(404, "POST", "/v1/kv/unpin", {"session": session["id"]}, code="session_not_found")

    def test_a_conversation_is_pinned_and_found_by_its_next_turn(self):
        messages = [{"role": "system", "content": "You tell stories of goats, slowly and with care."}]
        session = self.server.post("/v1/kv/pin", {"messages": messages})
        turn = self.server.post("/v1/chat/completions", {"messages": [*messages, {"role": "user", "content": "Begin."}],
                                                         "max_tokens": 4, "seed": 1})
        self.assertGreaterEqual(turn["usage"]["prompt_tokens_details"]["cached_tokens"], session["tokens"] - 1)

    def test_a_fork_shares_what_it_has_in_common(self):
        parent = self.server.post("/v1/kv/pin", {"prompt": STORY})
        held = self.server.metric("quipu_kv_pinned_blocks")
        cut = self.server.post("/v1/kv/fork", {"session": parent["id"], "at_tokens": 40})
        self.assertEqual((cut["parent"], cut["tokens"], cut["cached_tokens"]), (parent["id"], 40, 40))
        self.assertEqual(self.server.metric("quipu_kv_pinned_blocks"), held)  # the blocks are shared
        branch = self.server.post("/v1/kv/fork", {"session": parent["id"], "prompt": STORY + "Then came a goat."})
        self.assertGreaterEqual(branch["shared_tokens"], parent["tokens"] - 1)
        self.assertGreaterEqual(branch["cached_tokens"], branch["shared_tokens"] - 1)
        self.server.post("/v1/kv/unpin", {"session": parent["id"]})
        self.press()
        self.assertGreaterEqual(self.cached(STORY + "Then came a goat."), branch["tokens"] - 1)  # on its own
        self.refused(400, "POST", "/v1/kv/fork", {"session": cut["id"], "at_tokens": 41}, param="at_tokens")
        self.refused(404, "POST", "/v1/kv/fork", {"session": parent["id"]}, code="session_not_found")

    def test_a_time_to_live(self):
        session = self.server.post("/v1/kv/pin", {"prompt": STORY, "ttl_s": 0.3})
        self.assertLessEqual(session["expires_in_s"], 0.3)
        self.server.wait_until(lambda: not self.server.get("/v1/kv/sessions")["data"], "the pin ends")

    def test_pins_are_bounded_and_starve_nobody(self):
        listed = self.server.get("/v1/kv/sessions")
        budget, limit = listed["budget"][0]["blocks"], self.server.ready["token_limit"]
        self.assertGreater(budget, 0)
        error = self.refused(400, "POST", "/v1/kv/pin", {"prompt": [9] * (listed["tokens_max"] + 1)}, code="pin_too_large")
        self.assertIn(str(listed["tokens_max"]), error["message"])
        tokens = listed["tokens_max"] // 2
        statuses = []
        for seed in range(4):
            response = self.server.send("POST", "/v1/kv/pin", {"prompt": [200 + seed] * tokens})
            response.read()
            statuses.append(response.status)
        self.assertEqual(statuses, [200, 200, 409, 409])
        self.assertLessEqual(self.server.metric("quipu_kv_pinned_blocks"), budget)
        # The longest request there can be still runs, and several beside each other.
        longest = {"prompt": [7] * (limit - 2), "max_tokens": 2, "ignore_eos": True}
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            for reply in pool.map(lambda _: self.server.post("/v1/completions", longest), range(3)):
                self.assertEqual(reply["usage"]["completion_tokens"], 2)
        self.assertEqual(len(self.server.get("/v1/kv/sessions")["data"]), 2)

    def test_what_is_wrong_is_named(self):
        self.refused(400, "POST", "/v1/kv/pin", {}, code="missing_required_parameter")
        self.refused(400, "POST", "/v1/kv/pin", {"prompt": "a", "messages": []}, code="missing_required_parameter")
        self.refused(400, "POST", "/v1/kv/pin", {"prompt": ["a", "b"]}, param="prompt")
        self.refused(400, "POST", "/v1/kv/pin", {"prompt": "a", "ttl_s": 0}, param="ttl_s")
        self.refused(400, "POST", "/v1/kv/pin", {"session": "kvs-1"}, code="missing_required_parameter")
        self.refused(400, "POST", "/v1/kv/fork", {"at_tokens": 3, "prompt": "a"}, code="missing_required_parameter")
        self.refused(400, "POST", "/v1/kv/unpin", {"session": 3}, param="session")
        self.refused(404, "POST", "/v1/kv/explain", {"request": "no-such"}, code="not_found")

    def test_explanations_before_and_after(self):
        prompt = "Explained: " + STORY
        before = self.server.post("/v1/kv/explain", {"prompt": prompt})
        self.assertEqual((before["cached_tokens"], before["reason"]), (0, "never_seen"))
        self.server.post("/v1/completions", {"prompt": prompt, "max_tokens": 1})
        lookups = self.server.metric("quipu_prefix_cache_queries_total")
        after = self.server.post("/v1/kv/explain", {"prompt": prompt + "A new end."})
        self.assertEqual(self.server.metric("quipu_prefix_cache_queries_total"), lookups)  # it only looked
        self.assertEqual(sum(after["found"][source] for source in ("shared", "tail", "copied")), after["cached_tokens"])
        self.assertEqual((after["reason"], after["differs"]), ("never_seen", " A"))
        self.server.post("/v1/completions", {"prompt": prompt + "A new end.", "max_tokens": 1},
                         headers={"X-Request-Id": "explain-me"})
        told = self.server.post("/v1/kv/explain", {"request": "explain-me"})
        for name in ("prompt_tokens", "cached_tokens", "reason", "differs", "found"):
            self.assertEqual(told[name], after[name], name)
        self.press()
        gone = self.server.post("/v1/kv/explain", {"prompt": prompt})
        self.assertEqual(gone["reason"], "evicted")
        self.assertGreater(gone["gone"], 32)


class TenantSessions(ServerTest):
    flags = ("--api-key", "alpha", "--api-key", "beta", "--operator-key", "boss", "--kv-memory", "16MiB")

    def test_sessions_and_explanations_are_the_tenants_own(self):
        session = self.server.post("/v1/kv/pin", {"prompt": STORY}, headers=bearer("alpha"))
        self.assertEqual(self.server.get("/v1/kv/sessions", headers=bearer("beta"))["data"], [])
        self.assertEqual(self.server.get("/v1/kv/sessions", headers=bearer("beta"))["conversations"], [])
        for path, body in (("unpin", {}), ("fork", {}), ("fork", {"prompt": STORY})):
            self.refused(404, "POST", f"/v1/kv/{path}", {"session": session["id"], **body}, bearer("beta"),
                         code="session_not_found")
        unknown = self.server.post("/v1/kv/explain", {"prompt": STORY}, headers=bearer("beta"))
        self.assertEqual((unknown["cached_tokens"], unknown["reason"]), (0, "never_seen"))
        own = self.server.post("/v1/kv/explain", {"prompt": STORY}, headers=bearer("alpha"))
        self.assertGreater(own["cached_tokens"], 32)
        self.server.post("/v1/completions", {"prompt": STORY, "max_tokens": 1},
                         headers={**bearer("alpha"), "X-Request-Id": "of-alpha"})
        self.refused(404, "POST", "/v1/kv/explain", {"request": "of-alpha"}, bearer("beta"), code="not_found")
        for key in ("alpha", "boss"):
            self.server.post("/v1/kv/explain", {"request": "of-alpha"}, headers=bearer(key))
        # Budgets do not depend on what others have pinned.
        before = self.server.get("/v1/kv/sessions", headers=bearer("beta"))["budget"]
        seen = self.server.get("/v1/kv/sessions", headers=bearer("boss"))["data"]
        self.assertEqual([one["id"] for one in seen], [session["id"]])
        self.assertTrue(seen[0]["tenant"].startswith("key "))
        self.server.post("/v1/kv/unpin", {"session": session["id"]}, headers=bearer("boss"))
        self.assertEqual(self.server.get("/v1/kv/sessions", headers=bearer("beta"))["budget"], before)


class Deadlines(ServerTest):
    flags = ("--parallel", "1")
    body = {"prompt": "Once upon a time", "max_tokens": 1500, "ignore_eos": True, "seed": 1}

    def late(self, stage):
        return self.server.metric(f'quipu_request_deadline_exceeded_total{{{NAME},stage="{stage}"}}')

    def test_a_running_request_ends_in_time(self):
        before = self.late("running")
        begin = time.monotonic()
        error = self.refused(504, "POST", "/v1/completions", {**self.body, "timeout_ms": 150}, code="deadline_exceeded")
        self.assertGreaterEqual(time.monotonic() - begin, 0.15)
        self.assertIn("output tokens were there", error["message"])
        events = self.server.events("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1500,
                                                             "ignore_eos": True}, {"X-Request-Timeout": "0.15"})
        self.assertEqual(events[-1]["error"]["code"], "deadline_exceeded")
        self.assertGreater(len(events), 2)  # what came in time was told
        self.assertEqual(self.late("running"), before + 2)
        self.server.wait_until(self.server.is_idle, "nothing goes on")

    def test_a_waiting_request_ends_in_time(self):
        before = self.late("waiting")
        stream = self.server.send("POST", "/v1/completions", {**self.body, "stream": True})
        stream.read(100)
        error = self.refused(504, "POST", "/v1/completions", {**self.body, "timeout_ms": 50}, code="deadline_exceeded")
        self.assertIn("had not begun", error["message"])
        stream.close()
        self.assertEqual(self.late("waiting"), before + 1)

    def test_anthropics_form_and_wrong_values(self):
        reply = self.server.json("POST", "/v1/messages", {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1500,
                                                          "ignore_eos": True, "timeout_ms": 100}, status=504)
        self.assertEqual((reply["type"], reply["error"]["type"]), ("error", "timeout_error"))
        self.refused(400, "POST", "/v1/completions", {**self.body, "timeout_ms": 0}, param="timeout_ms")
        for wrong in ("soon", "-1", "0", "1e99", "nan", "5s"):
            self.refused(400, "POST", "/v1/completions", self.body, {"X-Request-Timeout": wrong}, param="X-Request-Timeout")

    def test_in_time_nothing_changes(self):
        body = {**self.body, "max_tokens": 8}
        plain = self.server.post("/v1/completions", body)["choices"]
        self.assertEqual(self.server.post("/v1/completions", {**body, "timeout_ms": 60_000})["choices"], plain)

    def test_the_servers_own_limit_cannot_be_extended(self):
        server = Server("--request-timeout", "0.2")
        self.addCleanup(server.stop)
        for more in ({}, {"timeout_ms": 60_000}):
            reply = server.json("POST", "/v1/completions", {**self.body, **more}, status=504)
            self.assertEqual(reply["error"]["code"], "deadline_exceeded")


if __name__ == "__main__":
    unittest.main()
