"""Every endpoint, its errors, and the shape of replies against OpenAI's own description."""

import email.utils
import http.client
import json
import pathlib
import tempfile
import time
import unittest

from quipu_server import MODEL, SHARED, Server, ServerTest

PROMPT = {"prompt": "Once upon a time", "seed": 1, "max_tokens": 12}
CHAT = {"messages": [{"role": "user", "content": "Tell me a story."}], "seed": 1, "max_tokens": 12}
RESPONSE = {"input": "Tell me a story.", "instructions": "Be brief.", "seed": 1, "max_output_tokens": 12}
OPENAPI = SHARED / "data" / "vectors" / "openai" / "openapi.json"


class Endpoints(ServerTest):
    def test_health_models_and_version(self):
        self.assertEqual(self.server.get("/health"), {"status": "ok"})
        models = self.server.get("/v1/models")
        self.assertEqual(models["object"], "list")
        name = models["data"][0]["id"]
        self.assertEqual(name, "quipu-stories-q8_0")
        self.assertEqual(self.server.get(f"/v1/models/{name}")["id"], name)
        self.refused(404, "GET", "/v1/models/gpt-x", code="model_not_found")
        self.assertIn("version", self.server.get("/version"))

    def test_props_slots_and_kv(self):
        props = self.server.get("/props")
        self.assertEqual(props["total_slots"], 16)
        self.assertEqual(props["default_generation_settings"]["n_ctx"], self.server.ready["token_limit"])
        self.assertNotIn(MODEL.name, json.dumps(props))  # nor its folder
        self.assertEqual([slot["id"] for slot in self.server.get("/slots")], list(range(16)))
        kv = self.server.get("/v1/kv")
        for group in kv["groups"]:
            blocks = dict(group["blocks"])
            self.assertEqual(blocks.pop("total"), sum(blocks.values()))
        self.assertEqual(kv["bytes"], self.server.ready["kv_bytes"])

    def test_tokenize_and_back(self):
        text = "Hello, wörld! 你好 <|im_end|>"
        tokens = self.server.post("/tokenize", {"content": text})["tokens"]
        self.assertEqual(self.server.post("/detokenize", {"tokens": tokens})["content"], text)
        plain = self.server.post("/tokenize", {"content": text, "parse_special": False})["tokens"]
        self.assertGreater(len(plain), len(tokens))
        pieces = self.server.post("/tokenize", {"content": text, "with_pieces": True})["tokens"]
        self.assertEqual([piece["id"] for piece in pieces], tokens)
        self.refused(400, "POST", "/tokenize", {"content": 3}, param="content")
        self.refused(400, "POST", "/detokenize", {"tokens": [-1]}, param="tokens")
        self.refused(400, "POST", "/detokenize", {}, param="tokens")

    def test_apply_template(self):
        prompt = self.server.post("/apply-template", {"messages": CHAT["messages"]})["prompt"]
        self.assertIn("Tell me a story.", prompt)
        longer = len(prompt)
        shorter = self.server.post("/apply-template", {"messages": CHAT["messages"], "add_generation_prompt": False})
        self.assertLess(len(shorter["prompt"]), longer)

    def test_metrics_are_prometheus_text(self):
        self.server.post("/v1/completions", PROMPT)
        response = self.server.send("GET", "/metrics")
        self.assertTrue(response.getheader("Content-Type").startswith("text/plain; version=0.0.4"))
        declared, seen = {}, set()
        for line in response.read().decode().splitlines():
            if line.startswith("# TYPE "):
                _, _, name, kind = line.split(" ")
                declared[name] = kind
            elif not line.startswith("#"):
                name, rest = line.split("{", 1)
                float(rest.rsplit(" ", 1)[1])
                base = name
                for suffix in ("_bucket", "_sum", "_count"):
                    if name.removesuffix(suffix) in declared:
                        base = name.removesuffix(suffix)
                self.assertIn(base, declared)
                seen.add(base)
        self.assertEqual(seen, set(declared))
        for name in ("quipu_time_to_first_token_seconds", "quipu_kv_blocks", "quipu_generation_tokens_total"):
            self.assertIn(name, declared)
        self.assertGreaterEqual(self.server.metric("quipu_time_to_first_token_seconds_count"), 1)

    def test_what_is_not_there_yet_says_so(self):
        for path in ("/v1/embeddings", "/embedding", "/infill", "/v1/rerank"):
            error = self.refused(501, "POST", path, {}, code="not_supported")
            self.assertIn(path, error["message"])
        self.refused(501, "POST", "/v1/chat/completions", {**CHAT, "functions": [{"name": "x"}]}, param="functions")

    def test_wrong_paths_methods_and_types(self):
        self.refused(404, "GET", "/no/such/path", code="not_found")
        self.refused(404, "POST", "/v1/chat", {}, code="not_found")
        response = self.server.send("GET", "/v1/chat/completions")
        self.assertEqual((response.status, response.getheader("Allow")), (405, "POST"))
        self.assertEqual(json.loads(response.read())["error"]["code"], "method_not_allowed")
        response = self.server.send("DELETE", "/health")
        self.assertEqual((response.status, response.getheader("Allow")), (405, "GET, HEAD"))
        response.read()
        self.refused(415, "POST", "/v1/completions", PROMPT, {"Content-Type": "text/plain"})
        self.refused(415, "POST", "/v1/completions", PROMPT, {"Content-Type": "application/jsonx"})
        self.server.post("/v1/completions", PROMPT, headers={"Content-Type": "Application/JSON; charset=utf-8"})

    def test_head_has_no_body(self):
        response = self.server.send("HEAD", "/health")
        self.assertEqual((response.status, response.read()), (200, b""))

    def test_cross_origin_requests_are_not_invited(self):
        response = self.server.send("GET", "/v1/models", headers={"Origin": "https://evil.example"})
        response.read()
        self.assertIsNone(response.getheader("Access-Control-Allow-Origin"))
        self.refused(405, "OPTIONS", "/v1/models")
        self.refused(403, "GET", "/v1/models", headers={"Host": "evil.example"}, code="host_not_allowed")
        self.server.get("/v1/models", headers={"Host": "localhost:1"})

    def test_a_reply_says_when_it_was_made(self):
        response = self.server.send("GET", "/health")
        response.read()
        made = email.utils.parsedate_to_datetime(response.getheader("Date"))
        self.assertLess(abs(made.timestamp() - time.time()), 60)

    def test_request_ids(self):
        response = self.server.send("GET", "/v1/models", headers={"X-Request-Id": "trace-7"})
        response.read()
        self.assertEqual(response.getheader("X-Request-Id"), "trace-7")
        response = self.server.send("GET", "/v1/models")
        response.read()
        self.assertTrue(response.getheader("X-Request-Id").startswith("req-"))
        self.server.post("/v1/completions", PROMPT, headers={"X-Request-Id": "trace-8"})
        entry = next(line for line in self.server.log() if line["id"] == "trace-8")
        self.assertEqual((entry["status"], entry["finish"], entry["completion_tokens"]), (200, "length", 12))
        self.server.post("/v1/completions", {"prompt": 3}, headers={"X-Request-Id": "trace-9"}, status=400)
        entry = next(line for line in self.server.log() if line["id"] == "trace-9")
        self.assertEqual((entry["status"], entry["code"]), (400, "missing_required_parameter"))

    def test_bodies_that_are_wrong(self):
        path = "/v1/chat/completions"
        self.refused(400, "POST", path, "{", code="invalid_json")
        self.refused(400, "POST", path, "[]", code="invalid_json")
        self.refused(400, "POST", path, b'{"messages": "\xff"}', code="invalid_json")
        self.refused(400, "POST", path, '{"a":' + "[" * 100_000, code="invalid_json")
        self.refused(400, "POST", path, {}, param="messages")
        self.refused(400, "POST", path, {**CHAT, "temperature": 1000}, param="temperature")
        self.refused(404, "POST", path, {**CHAT, "model": "gpt-x"}, param="model", code="model_not_found")
        self.refused(400, "POST", path, {**CHAT, "n": 1000}, param="n")
        error = self.refused(400, "POST", "/v1/completions", {"prompt": [5] * 50_000}, code="context_length_exceeded")
        self.assertIn("50000 tokens", error["message"])
        self.assertIn(str(self.server.ready["token_limit"]), error["message"])


class Schema(ServerTest):
    """Replies against the schemas of OpenAI's description."""

    def setUp(self):
        if not OPENAPI.exists():
            self.skipTest(f"OpenAI's description is not there: {OPENAPI}")
        self.schemas = json.loads(OPENAPI.read_text())["components"]["schemas"]

    def problems(self, value, schema, path):
        """What of `value` breaks `schema`: the parts of JSON schema that the description uses."""
        if "$ref" in schema:
            schema = self.schemas[schema["$ref"].rsplit("/", 1)[1]]
        if value is None and schema.get("nullable"):
            return []
        found = []
        for part in schema.get("allOf", []):
            found += self.problems(value, part, path)
        for key in ("anyOf", "oneOf"):
            if key in schema and all(self.problems(value, part, path) for part in schema[key]):
                found.append(f"{path}: {value!r} is none of {key}")
        if "enum" in schema and value not in schema["enum"]:
            found.append(f"{path}: {value!r} is not one of {schema['enum']}")
        kinds = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool,
                 "null": type(None)}
        kind = schema.get("type")
        if kind and not isinstance(value, kinds[kind]):
            return found + [f"{path}: {value!r} is not of type {kind}"]
        if isinstance(value, dict):
            found += [f"{path}.{name} is missing" for name in schema.get("required", []) if name not in value]
            for name, part in schema.get("properties", {}).items():
                if name in value:
                    found += self.problems(value[name], part, f"{path}.{name}")
        if isinstance(value, list) and "items" in schema:
            for index, item in enumerate(value):
                found += self.problems(item, schema["items"], f"{path}[{index}]")
        return found

    def conforms(self, value, name):
        self.assertEqual(self.problems(value, {"$ref": "#/" + name}, name), [])

    def test_the_check_can_fail(self):
        self.assertNotEqual(self.problems({"object": "list"}, {"$ref": "#/CreateChatCompletionResponse"}, ""), [])

    def test_whole_replies(self):
        chat = self.server.post("/v1/chat/completions", {**CHAT, "n": 2, "logprobs": True, "top_logprobs": 2})
        self.conforms(chat, "CreateChatCompletionResponse")
        self.conforms(self.server.post("/v1/completions", {**PROMPT, "logprobs": 2}), "CreateCompletionResponse")
        self.conforms(self.server.get("/v1/models"), "ListModelsResponse")
        self.conforms(self.server.post("/v1/responses", RESPONSE), "Response")

    def test_streams(self):
        for chunk in self.server.events("/v1/chat/completions", {**CHAT, "logprobs": True}):
            if chunk != "[DONE]":
                self.conforms(chunk, "CreateChatCompletionStreamResponse")
        for chunk in self.server.events("/v1/completions", PROMPT)[:-1]:
            if chunk["choices"][0]["finish_reason"] is None:  # OpenAI's server says null here, its description does not
                chunk["choices"][0]["finish_reason"] = "stop"
            self.conforms(chunk, "CreateCompletionResponse")
        for event in self.server.events("/v1/responses", RESPONSE):
            name = "".join(word.capitalize() for word in event["type"].removeprefix("response.").replace("output_text", "text")
                           .replace(".", "_").split("_"))
            self.conforms(event, f"Response{name}Event")

    def test_errors(self):
        self.conforms(self.server.json("POST", "/v1/completions", {}, status=400), "ErrorResponse")


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


class Keys(ServerTest):
    flags = ("--api-key", "alpha", "--api-key", "beta", "--operator-key", "boss")

    def test_a_key_is_needed_but_for_health(self):
        self.server.get("/health")
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "alpha"}, {"X-Api-Key": "alph"}):
            for method, path in (("GET", "/v1/models"), ("GET", "/metrics"), ("POST", "/v1/completions"),
                                 ("GET", "/no/such/path")):
                response = self.server.send(method, path, headers=headers)
                text = response.read().decode()
                self.assertEqual((response.status, response.getheader("WWW-Authenticate")), (401, "Bearer"), path)
                self.assertNotIn("alpha", text)
        for headers in ({"Authorization": "Bearer alpha"}, {"Authorization": "bearer beta"}, {"X-Api-Key": "beta"}):
            self.server.get("/v1/models", headers=headers)

    def test_a_wrong_key_is_refused_before_the_body(self):
        connection = http.client.HTTPConnection(self.server.host, self.server.port, timeout=20)
        connection.putrequest("POST", "/v1/completions")
        connection.putheader("Content-Length", "5000000")
        connection.endheaders()  # and no body: the answer must come all the same
        response = connection.getresponse()
        self.assertEqual(response.status, 401)
        connection.close()

    def test_tenants_share_nothing(self):
        story = {"prompt": "The elephant and the hare walked to the river. " * 8, "max_tokens": 1}

        def cached(key):
            reply = self.server.post("/v1/completions", story, headers={"Authorization": f"Bearer {key}"})
            return reply["usage"]["prompt_tokens_details"]["cached_tokens"]

        self.assertEqual(cached("alpha"), 0)
        self.assertGreater(cached("alpha"), 32)
        self.assertEqual(cached("beta"), 0)
        self.assertGreater(cached("beta"), 32)
        # Nor do they hear that another has the same: operators do.
        metrics = self.server.send("GET", "/metrics", headers=bearer("boss")).read().decode()
        misses = {line.split('reason="')[1].split('"')[0]: int(line.rsplit(" ", 1)[1])
                  for line in metrics.splitlines() if line.startswith("quipu_prefix_cache_misses_total{")}
        self.assertEqual((misses["never_seen"], misses["other_salt"]), (1, 1))


class Tenants(ServerTest):
    flags = Keys.flags

    def test_tenants_see_their_own_and_operators_all(self):
        story = "The badger and the otter built a small house by the sea. "
        for key in ("alpha", "beta"):
            for text in (story * 6, story * 5 + "Then came the rain."):
                self.server.post("/v1/completions", {"prompt": text, "max_tokens": 1}, headers=bearer(key))
        snapshots = {key: self.server.get("/v1/kv/snapshot", headers=bearer(key)) for key in ("alpha", "beta", "boss")}
        own = {key: sum(snapshot["groups"][0]["states"][1:]) for key, snapshot in snapshots.items()}
        self.assertGreater(min(own.values()), 0)
        self.assertEqual(own["alpha"] + own["beta"], own["boss"])
        self.assertEqual([len(snapshots[key]["owners"]) for key in own], [1, 1, 2])
        self.assertGreaterEqual(len(snapshots["boss"]["recent"]),
                                len(snapshots["alpha"]["recent"]) + len(snapshots["beta"]["recent"]))
        self.assertTrue(all("tenant" in request for request in snapshots["boss"]["recent"]))
        for key in ("alpha", "beta"):  # numbers that count others too would tell of them
            numbers = [request["number"] for request in snapshots[key]["recent"]]
            self.assertEqual(numbers, list(range(numbers[0], numbers[0] + len(numbers))))
            self.assertEqual(numbers[0], 1)
        for key in ("alpha", "beta"):
            self.assertEqual(snapshots[key]["scope"], "tenant")
            for total in ("counters", "latency", "tier", "index_bytes"):
                self.assertNotIn(total, snapshots[key])
            # Its blocks come first, wherever they lie.
            held = [sum(cell[1:5]) for cell in snapshots[key]["groups"][0]["cells"]]
            self.assertEqual(held, sorted(held, reverse=True))
            kv = self.server.get("/v1/kv", headers=bearer(key))
            self.assertEqual(kv["scope"], "tenant")
            self.assertNotIn("counters", kv)
            self.assertNotIn("free", kv["groups"][0]["blocks"])
            self.assertEqual(sum(kv["groups"][0]["blocks"][state] for state in ("open", "closed", "cached")), own[key])
            self.refused(403, "GET", "/metrics", headers=bearer(key), code="operator_only")
            self.assertEqual(self.server.get("/slots", headers=bearer(key)), [])
        self.assertEqual(len(self.server.get("/slots", headers=bearer("boss"))), 16)

    def test_a_running_request_shows_in_its_tenants_slots_only(self):
        body = {"prompt": "Once upon a time", "max_tokens": 1500, "ignore_eos": True, "stream": True}
        stream = self.server.send("POST", "/v1/completions", body, bearer("alpha"))
        stream.read(100)
        slots = self.server.get("/slots", headers=bearer("alpha"))
        self.assertEqual([slot["is_processing"] for slot in slots], [True])
        self.assertNotIn("id_task", slots[0])
        self.assertEqual(self.server.get("/slots", headers=bearer("beta")), [])
        self.assertEqual(self.server.get("/v1/kv", headers=bearer("beta"))["requests"], {"running": 0, "waiting": 0})
        self.assertEqual(self.server.get("/v1/kv", headers=bearer("boss"))["requests"]["running"], 1)
        stream.close()


class Roles(unittest.TestCase):
    def start(self, *lines, flags=()):
        with tempfile.TemporaryDirectory() as folder:
            keys = pathlib.Path(folder, "keys")
            keys.write_text("\n".join(lines) + "\n")
            server = Server("--api-key-file", keys, *flags)
        self.addCleanup(server.stop)
        return server

    def test_who_is_alone_sees_all(self):
        server = self.start("one tenant=team", "two tenant=team")
        self.assertEqual(server.send("GET", "/metrics", headers=bearer("two")).read()[:6], b"# HELP")
        story = {"prompt": "The elephant and the hare walked to the river. " * 8, "max_tokens": 1}
        server.post("/v1/completions", story, headers=bearer("one"))
        usage = server.post("/v1/completions", story, headers=bearer("two"))["usage"]
        self.assertGreater(usage["prompt_tokens_details"]["cached_tokens"], 32)

    def test_metrics_can_be_opened(self):
        server = self.start("one", "two", "three tenant=ops role=operator", flags=("--open-metrics",))
        self.assertEqual(server.send("GET", "/metrics").status, 200)
        self.assertEqual(server.send("GET", "/v1/kv").status, 401)
        server = self.start("one", "two", "three tenant=ops role=operator")
        for headers, status in (({}, 401), (bearer("one"), 403), (bearer("three"), 200)):
            response = server.send("GET", "/metrics", headers=headers)
            response.read()
            self.assertEqual(response.status, status)


if __name__ == "__main__":
    unittest.main()
