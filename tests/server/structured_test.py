"""Outputs that must have a form: every API's way to ask for it, what comes out, and what is refused."""

import concurrent.futures
import json
import re
import unittest

from quipu_server import ServerTest

CHAT_PATH, TEXT_PATH = "/v1/chat/completions", "/v1/completions"
MESSAGES = [{"role": "user", "content": "Tell me about the goat."}]
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "legs": {"type": "integer", "minimum": 0, "maximum": 4},
        "friends": {"type": "array", "maxItems": 2, "items": {"enum": ["hen", "lion", "crocodile"]}},
    },
    "required": ["name", "legs", "friends"],
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "animal", "strict": True, "schema": SCHEMA}}
GRAMMAR = 'root ::= animal (" and " animal){0,3}\nanimal ::= "goat" | "hen" | "lion"\n'


def check_animal(text):
    value = json.loads(text)
    assert set(value) == {"name", "legs", "friends"}, text
    assert isinstance(value["name"], str) and len(value["name"]) <= 20, text
    assert type(value["legs"]) is int and 0 <= value["legs"] <= 4, text
    assert len(value["friends"]) <= 2 and set(value["friends"]) <= {"hen", "lion", "crocodile"}, text


class Structured(ServerTest):
    flags = ("--chunk", "64", "--draft-max", "6")

    def chat(self, **fields):
        return self.server.post(CHAT_PATH, {"messages": MESSAGES, "max_tokens": 300, "seed": 1, **fields})["choices"]

    def text(self, **fields):
        return self.server.post(TEXT_PATH, {"prompt": "Once upon a time", "max_tokens": 300, "seed": 1,
                                            **fields})["choices"][0]["text"]

    def test_json_by_a_schema_whatever_is_drawn(self):
        for seed, temperature in enumerate((0, 0.7, 1, 2, 5, 20)):
            choices = self.chat(response_format=FORMAT, seed=seed, temperature=temperature, n=2)
            self.assertEqual([choice["finish_reason"] for choice in choices], ["stop", "stop"])
            for choice in choices:
                check_animal(choice["message"]["content"])

    def test_a_stream_says_what_the_whole_reply_says(self):
        whole = self.chat(response_format=FORMAT, seed=3)[0]["message"]["content"]
        events = self.server.events(CHAT_PATH, {"messages": MESSAGES, "max_tokens": 300, "seed": 3,
                                                "response_format": FORMAT})
        text = "".join(event["choices"][0]["delta"].get("content", "") for event in events[:-1])
        self.assertEqual(text, whole)

    def test_every_way_to_ask(self):
        check_animal(self.text(response_format=FORMAT))
        check_animal(self.text(guided_json=SCHEMA))
        check_animal(self.text(guided_json=json.dumps(SCHEMA)))
        check_animal(self.text(structured_outputs={"json": SCHEMA}))
        check_animal(self.text(json_schema=SCHEMA))
        pattern = r"[A-Z][a-z]{2,5} has [0-9]{2} goats\."
        self.assertRegex(self.text(guided_regex=pattern), f"^{pattern}$")
        self.assertRegex(self.text(structured_outputs={"regex": pattern}), f"^{pattern}$")
        self.assertIn(self.text(guided_choice=["goat", "hen"]), ("goat", "hen"))
        self.assertIn(self.text(structured_outputs={"choice": ["goat", "hen"]}), ("goat", "hen"))
        self.assertRegex(self.text(guided_grammar=GRAMMAR), r"^(goat|hen|lion)( and (goat|hen|lion))*$")
        lark = 'start: ANIMAL\nANIMAL: "goat" | "hen"'
        self.assertIn(self.text(structured_outputs={"grammar": lark}), ("goat", "hen"))
        self.assertRegex(self.text(response_format={"type": "json_object"}, max_tokens=9), r'^\{\s*("|\}$)')
        llama = {"prompt": "Once", "n_predict": 300, "seed": 1}
        check_animal(self.server.post("/completion", {**llama, "json_schema": SCHEMA})["content"])
        reply = self.server.post("/completion", {**llama, "grammar": GRAMMAR})
        self.assertRegex(reply["content"], r"^(goat|hen|lion)( and (goat|hen|lion))*$")
        reply = self.server.post("/v1/responses", {"input": "Who?", "max_output_tokens": 300, "text": {
            "format": {"type": "json_schema", "name": "animal", "schema": SCHEMA, "strict": True}}})
        self.assertEqual(reply["status"], "completed")
        check_animal(reply["output"][0]["content"][0]["text"])
        for fields in ({"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
                       {"output_format": {"type": "json_schema", "schema": SCHEMA}}):
            reply = self.server.post("/v1/messages", {"messages": MESSAGES, "max_tokens": 300, **fields})
            self.assertEqual(reply["stop_reason"], "end_turn")
            check_animal(reply["content"][0]["text"])

    def test_text_is_any_text(self):
        free = self.chat()[0]["message"]["content"]
        self.assertEqual(self.chat(response_format={"type": "text"})[0]["message"]["content"], free)

    def test_the_same_alone_and_among_fifteen_others(self):
        def ask(i):
            fields = {"response_format": FORMAT} if i % 2 == 0 else {"max_tokens": 40}
            return self.chat(seed=i, **fields)[0]["message"]["content"]

        alone = [ask(i) for i in range(16)]
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            self.assertEqual(list(pool.map(ask, range(16))), alone)

    def test_what_was_compiled_is_kept(self):
        names = ("constraint_hits_total", "constraint_compiles_total", "constraints_kept")
        schema = {**SCHEMA, "title": "of this test alone"}
        fields = {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}

        def grown(**more):
            before = [self.server.metric(f"quipu_{name}") for name in names]
            text = self.chat(**fields, **more)[0]["message"]["content"]
            return text, [self.server.metric(f"quipu_{name}") - was for name, was in zip(names, before)]

        first, numbers = grown()
        self.assertEqual(numbers, [0, 1, 1])
        again, numbers = grown()
        self.assertEqual((again, numbers), (first, [1, 0, 0]))
        _, numbers = grown(n=3, seed=9)
        self.assertEqual(numbers, [1, 0, 0])
        self.assertGreater(self.server.metric("quipu_constraints_kept_bytes"), 0)

    def test_log_probabilities_are_the_models_own(self):
        free = self.chat(max_tokens=1, logprobs=True, top_logprobs=5)[0]["logprobs"]["content"][0]
        bound = self.chat(response_format=FORMAT, max_tokens=1, logprobs=True, top_logprobs=5)[0]["logprobs"]["content"][0]
        self.assertEqual(bound["top_logprobs"], free["top_logprobs"])
        self.assertTrue(bound["token"].lstrip().startswith("{"))

    def test_what_cannot_be_enforced_is_refused_by_its_place(self):
        def refusal(path=CHAT_PATH, **fields):
            body = {"messages": MESSAGES, "prompt": "Once", "max_tokens": 20, **fields}
            return self.server.json("POST", path, body, status=400)["error"]

        def schema_refusal(schema):
            return refusal(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})

        error = schema_refusal({"properties": {"a": {"not": {"type": "string"}}}})
        self.assertEqual((error["param"], error["code"]), ("response_format.json_schema.schema", "not_supported"))
        self.assertIn("#/properties/a/not", error["message"])
        self.assertIn("#/items/format", schema_refusal({"items": {"type": "string", "format": "colour"}})["message"])
        self.assertIn("#/type: 'strin' is no type; expected string, number", schema_refusal({"type": "strin"})["message"])
        self.assertEqual(schema_refusal(3)["code"], "invalid_value")
        self.assertEqual(refusal(response_format={"type": "json_schema"})["code"], "missing_required_parameter")
        self.assertEqual(refusal(response_format={"type": "xml"})["param"], "response_format.type")
        self.assertIn("line 1", refusal(TEXT_PATH, grammar="root ::= [z-a]")["message"])
        self.assertEqual(refusal(TEXT_PATH, guided_regex="(a")["param"], "guided_regex")
        self.assertEqual(refusal(TEXT_PATH, guided_choice=[])["param"], "guided_choice")
        error = refusal(TEXT_PATH, guided_regex="a+", guided_choice=["b"])
        self.assertIn("both say", error["message"])
        self.assertEqual(refusal(TEXT_PATH, guided_regex="a" * 300_000)["code"], "too_complex")
        error = self.server.json("POST", "/v1/messages", {"messages": MESSAGES, "max_tokens": 9, "output_config": {
            "format": {"type": "json_schema", "schema": {"if": True}}}}, status=400)["error"]
        self.assertEqual(error["type"], "invalid_request_error")
        self.assertIn("#/if", error["message"])

    def test_hostile_sources_leave_the_server_well(self):
        sources = [{"guided_regex": "(a|aa|aaa)*b(.*x.*){50}"}, {"guided_regex": "(" * 5000 + "a" + ")" * 5000},
                   {"guided_regex": "((a{1,100}){1,100}){1,100}"}, {"guided_grammar": "root ::= root"},
                   {"guided_grammar": "root ::= " + '"a"? ' * 3000}, {"guided_json": {"$ref": "#"}},
                   {"guided_json": {"type": "array", "minItems": 10 ** 6, "items": {"enum": [1]}}},
                   {"guided_json": {"enum": [str(i) * 20 for i in range(3000)]}},
                   {"guided_json": {"type": "string", "maxLength": 10 ** 9}}]
        for fields in sources:
            response = self.server.send("POST", TEXT_PATH, {"prompt": "Once", "max_tokens": 20, **fields})
            response.read()
            self.assertIn(response.status, (200, 400), fields)
        self.assertTrue(self.server.is_idle())
        self.assertIsNotNone(re.match("^[ab]+$", self.text(guided_regex="[ab]{3,9}")))


class FirstGuesses(ServerTest):
    """On a server of its own: before it has looked for guesses once, it does not know what that costs, and looks."""

    def test_what_must_follow_is_guessed(self):
        name = "quipu_spec_decode_num_forced_accepted_tokens_total"
        self.assertEqual(self.server.metric(name), 0)
        self.server.post(CHAT_PATH, {"messages": MESSAGES, "max_tokens": 300, "seed": 1, "response_format": FORMAT})
        self.assertGreater(self.server.metric(name), 0)


if __name__ == "__main__":
    unittest.main()
