"""The API's description against the server: every path, requests, whole replies, stream events and errors.

Debian's python3-jsonschema validates; without it this is skipped. src/server/server_test.cc compares the list of paths with
the server's own, so that none can be missing here.
"""

import json
import unittest

from quipu_server import ROOT, ServerTest, parse_events

try:
    import jsonschema
except ImportError:
    jsonschema = None

TEXT = "Once upon a time"
MESSAGES = [{"role": "user", "content": "Tell me a story about a goat."}]
LIMITS = {"max_tokens": 6, "seed": 1}
PARTS = [{"role": "system", "content": [{"type": "text", "text": "Be brief."}]}, *MESSAGES]

SCHEMA = {"type": "object", "properties": {"animal": {"enum": ["goat", "hen"]}}, "required": ["animal"]}
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
TOOL = {"type": "function", "function": {"name": "feed", "parameters": SCHEMA}}
FLAT_TOOL = {"type": "function", "name": "feed", "parameters": SCHEMA}
CALLED = {"tool_choice": "required", "parallel_tool_calls": False}

# Of each path: bodies that are answered, and bodies that are refused.
GOOD = {
    "/v1/chat/completions": [{"messages": MESSAGES, **LIMITS},
                             {"messages": PARTS, **LIMITS, "n": 2, "logprobs": True, "top_logprobs": 2, "stop": ["x"],
                              "logit_bias": {"5": -1}, "cache_salt": "s", "priority": 1, "timeout_ms": 60000, "model": None},
                             {"messages": MESSAGES, "max_tokens": 60, "response_format": FORMAT},
                             {"messages": MESSAGES, "max_tokens": 150, "tools": [TOOL], **CALLED}],
    "/v1/completions": [{"prompt": TEXT, **LIMITS}, {"prompt": TEXT, "max_tokens": 60, "guided_json": SCHEMA}, {"prompt": [[1, 2, 3], [4, 5]], **LIMITS, "logprobs": 2},
                        {"prompt": [TEXT, TEXT], **LIMITS, "echo": True, "n": 2}],
    "/v1/responses": [{"input": TEXT, "seed": 1, "max_output_tokens": 6}, {"input": PARTS, "instructions": "x", "max_output_tokens": 4},
                      {"input": TEXT, "max_output_tokens": 150, "tools": [FLAT_TOOL], **CALLED}],
    "/v1/messages": [{"messages": MESSAGES, **LIMITS}, {"messages": MESSAGES, "system": "x", "stop_sequences": ["goat"], **LIMITS},
                     {"messages": MESSAGES, "max_tokens": 150, "tools": [{"name": "feed", "input_schema": SCHEMA}],
                      "tool_choice": {"type": "any", "disable_parallel_tool_use": True}}],
    "/v1/messages/count_tokens": [{"messages": MESSAGES, "system": "x"}],
    "/completion": [{"prompt": TEXT, "n_predict": 6}, {"prompt": [1, 2, 3], "n_predict": 3, "n_probs": 2, "return_tokens": True,
                                                       "return_progress": True, "cache_prompt": False}],
    "/tokenize": [{"content": "goat"}, {"content": "wörld 你", "with_pieces": True}],
    "/detokenize": [{"tokens": [5, 6]}],
    "/apply-template": [{"messages": MESSAGES}],
    "/v1/kv/pin": [{"prompt": TEXT * 20, "label": "a"}, {"messages": PARTS, "ttl_s": 5}],
    "/v1/kv/explain": [{"prompt": TEXT * 20}, {"messages": MESSAGES}],
}
GOOD["/chat/completions"] = GOOD["/v1/chat/completions"][:1]
GOOD["/completions"] = GOOD["/completion"][:1]
BAD = {
    "/v1/chat/completions": [{}, {"messages": []}, {"messages": MESSAGES, "temperature": 7000}, {"messages": MESSAGES, "n": 0}],
    "/v1/completions": [{}, {"prompt": {}}, {"prompt": TEXT, "top_p": 2}, {"prompt": TEXT, "timeout_ms": 0}],
    "/v1/responses": [{}, {"input": []}, {"input": TEXT, "max_output_tokens": 0}],
    "/v1/messages": [{"messages": MESSAGES}, {"messages": [{"role": "tool", "content": "x"}], **LIMITS}],
    "/v1/messages/count_tokens": [{}],
    "/completion": [{}, {"prompt": TEXT, "n_probs": 99}],
    "/tokenize": [{}, {"content": 3}],
    "/detokenize": [{}, {"tokens": [-1]}],
    "/apply-template": [{}],
    "/v1/kv/pin": [{}, {"prompt": TEXT, "messages": MESSAGES}, {"prompt": TEXT, "ttl_s": 0}],
    "/v1/kv/unpin": [{}, {"session": 3}],
    "/v1/kv/fork": [{}, {"session": "x", "at_tokens": 0}],
    "/v1/kv/explain": [{}],
}
STREAMS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/completion")
UNSUPPORTED = ("/v1/embeddings", "/embedding", "/infill", "/v1/rerank")


@unittest.skipIf(jsonschema is None, "jsonschema is not installed (apt-get install python3-jsonschema): nothing is validated")
class OpenApi(ServerTest):
    flags = ("--kv-host-memory", "4MiB")

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.document = cls.server.get("/openapi.json")
        cls.driven = set()

    def validator(self, schema):
        jsonschema.Draft202012Validator.check_schema(schema)
        return jsonschema.Draft202012Validator({**schema, "components": self.document["components"]})

    def valid(self, value, schema, what):
        errors = sorted(self.validator(schema).iter_errors(value), key=lambda error: -len(error.absolute_path))
        if errors:
            causes = [f"{list(error.absolute_path)}: {error.message[:300]}" for error in [*errors, *(errors[0].context or [])][:6]]
            self.fail(f"{what}: {causes}\n{json.dumps(value)[:1500]}")

    def operation(self, method, path):
        self.driven.add((method, path))
        return self.document["paths"][path][method]

    def schema_of(self, operation, status, content="application/json"):
        responses = operation["responses"]
        return responses.get(str(status), responses["default"])["content"][content]["schema"]

    def exchange(self, method, path, body=None, status=200, url=None):
        operation = self.operation(method, path)
        response = self.server.send(method.upper(), url or path, body)
        text = response.read().decode()
        self.assertEqual(response.status, status, f"{path} {body}: {text[:500]}")
        content = response.getheader("Content-Type").split(";")[0]
        known = operation["responses"].get(str(status), operation["responses"]["default"])["content"]
        schema = (known.get(content) or known["*/*"])["schema"]
        value = json.loads(text) if content == "application/json" else text
        self.valid(value, schema, f"{method} {path}")
        return value

    def test_the_document_is_one(self):
        self.assertEqual(self.document["openapi"], "3.1.0")
        self.assertEqual(self.document["info"]["version"], self.server.get("/version")["version"])
        self.assertEqual(self.server.get("/v1/openapi.json"), self.document)
        self.assertEqual(json.loads((ROOT / "src" / "web" / "openapi.json").read_text()), self.document)
        for name, schema in self.document["components"]["schemas"].items():
            jsonschema.Draft202012Validator.check_schema(schema)
            self.assertIn(f'"#/components/schemas/{name}"', json.dumps(self.document), "a schema that nothing uses")
        for operations in self.document["paths"].values():
            for operation in operations.values():
                for tag in operation["tags"]:
                    self.assertIn({"name": tag}, self.document["tags"])

    def test_the_check_can_fail(self):
        schemas = self.document["components"]["schemas"]
        health = self.schema_of(self.document["paths"]["/health"]["get"], 200)
        for value, schema in (({"status": "bad"}, health), ({"status": "ok", "more": 1}, health), ({"error": {}}, schemas["Error"]),
                              ({"messages": []}, schemas["ChatRequest"]), ({"prompt": "a", "messages": []}, schemas["KvPinRequest"])):
            with self.assertRaises(AssertionError):
                self.valid(value, schema, "")

    def test_everything(self):
        self.drive_reads()
        self.drive_generation()
        self.drive_sessions()
        self.drive_errors()
        described = {(method, path) for path, operations in self.document["paths"].items() for method in operations}
        self.assertEqual(described - self.driven, set(), "described and not driven here")

    def drive_reads(self):
        for path in ("/health", "/v1/health", "/v1/models", "/models", "/props", "/slots", "/metrics", "/version", "/v1/kv",
                     "/v1/kv/snapshot", "/v1/kv/sessions", "/", "/openapi.json", "/v1/openapi.json"):
            self.exchange("get", path)
        self.exchange("get", "/v1/models/{model}", url="/v1/models/quipu-stories-q8_0")
        self.exchange("get", "/v1/models/{model}", url="/v1/models/none", status=404)
        self.exchange("get", "/web/{file}", url="/web/app.css")

    def drive_generation(self):
        watched = self.server.send("GET", "/v1/kv/events")
        for path, bodies in GOOD.items():
            operation = self.operation("post", path)
            asked = operation["requestBody"]["content"]["application/json"]["schema"]
            for body in bodies:
                self.valid(body, asked, f"the request of {path}")
                self.exchange("post", path, body)
                if path not in STREAMS:
                    continue
                more = {"stream_options": {"include_usage": True}} if path.startswith(("/v1/chat", "/v1/completions")) else {}
                response = self.server.send("POST", path, {**body, **more, "stream": True})
                events = parse_events(response.read().decode())
                schema = self.schema_of(operation, 200, "text/event-stream")
                self.assertGreater(len(events), 0)
                for event in events:
                    if event != "[DONE]":
                        self.valid(event, schema, f"an event of {path}")
                        self.assertNotIn("error", event)
        # A stream that breaks off ends with an error of the same form.
        for path in STREAMS:
            body = {**GOOD[path][0], "max_tokens": 1500, "max_output_tokens": 1500, "n_predict": 1500, "ignore_eos": True,
                    "timeout_ms": 150}
            last = parse_events(self.server.send("POST", path, {**body, "stream": True}).read().decode())[-1]
            self.valid(last, self.schema_of(self.operation("post", path), 200, "text/event-stream"), f"an error in {path}")
            self.assertIn("time was over", json.dumps(last))
        schema = self.schema_of(self.operation("get", "/v1/kv/events"), 200, "text/event-stream")
        seen = 0
        for line in watched:
            if not line.startswith(b"data: "):
                continue
            self.valid(json.loads(line[6:]), schema, "an event of /v1/kv/events")
            seen += 1
            if seen == 4:
                break
        watched.close()

    def drive_sessions(self):
        session = self.exchange("post", "/v1/kv/pin", GOOD["/v1/kv/pin"][0])
        self.exchange("post", "/v1/kv/fork", {"session": session["id"], "at_tokens": 5})
        self.exchange("post", "/v1/kv/fork", {"session": session["id"], "prompt": TEXT * 21, "label": "b"})
        self.exchange("get", "/v1/kv/sessions")
        self.exchange("get", "/v1/kv/snapshot")
        self.exchange("post", "/v1/kv/unpin", {"session": session["id"]})
        self.exchange("post", "/v1/kv/unpin", {"session": session["id"]}, status=404)
        self.server.post("/v1/completions", {"prompt": TEXT, **LIMITS}, headers={"X-Request-Id": "described"})
        self.exchange("post", "/v1/kv/explain", {"request": "described"})
        stream = self.server.send("POST", "/v1/completions", {"prompt": TEXT, "max_tokens": 1500, "ignore_eos": True, "stream": True})
        stream.read(50)
        self.exchange("get", "/slots")
        self.exchange("get", "/v1/kv")
        stream.close()

    def drive_errors(self):
        for path, bodies in BAD.items():
            asked = self.operation("post", path)["requestBody"]["content"]["application/json"]["schema"]
            for body in bodies:
                self.exchange("post", path, body, status=400)
                self.assertFalse(self.validator(asked).is_valid(body) and body == {}, f"{path} is described to take nothing")
            self.exchange("post", path, "{", status=400)
        for path in UNSUPPORTED:
            self.exchange("post", path, {}, status=501)
        refused = self.server.json("GET", "/no/such/path", status=404)
        self.valid(refused, {"$ref": "#/components/schemas/Error"}, "404")


@unittest.skipIf(jsonschema is None, "jsonschema is not installed (apt-get install python3-jsonschema): nothing is validated")
class OpenApiForTenants(ServerTest):
    """Who sees less is told less, in the same forms."""

    flags = ("--api-key", "a", "--api-key", "b", "--operator-key", "c")

    def test_scopes(self):
        for key, status in (("a", 403), ("c", 200), ("wrong", 401)):
            headers = {"Authorization": f"Bearer {key}"}
            document = self.server.get("/openapi.json")  # needs no key
            self.server.send("POST", "/v1/kv/pin", {"prompt": TEXT * 9}, headers).read()
            self.server.send("POST", "/v1/completions", {"prompt": TEXT * 9, **LIMITS}, headers).read()
            for path in ("/v1/kv", "/v1/kv/snapshot", "/v1/kv/sessions", "/slots", "/v1/models", "/metrics"):
                response = self.server.send("GET", path, headers=headers)
                text = response.read().decode()
                self.assertEqual(response.status, 401 if key == "wrong" else status if path == "/metrics" else 200)
                if path == "/metrics" and status == 200:
                    continue
                responses = document["paths"][path]["get"]["responses"]
                schema = responses["200" if response.status == 200 else "default"]["content"]["application/json"]["schema"]
                validator = jsonschema.Draft202012Validator({**schema, "components": document["components"]})
                self.assertEqual([error.message for error in validator.iter_errors(json.loads(text))], [], path)


if __name__ == "__main__":
    unittest.main()
