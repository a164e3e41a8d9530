"""Tools: calls that a request forces or allows, in the words of each API, whole and streamed; and their results."""

import json
import unittest

from quipu_server import ServerTest

CHAT_PATH = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "What is the weather where the goat lives?"}]
WEATHER = {"type": "object", "required": ["city", "days"],
           "properties": {"city": {"type": "string", "maxLength": 12}, "days": {"type": "integer", "maximum": 9, "minimum": 1}}}
FEED = {"type": "object", "required": ["animal"], "properties": {"animal": {"enum": ["goat", "hen"]}}}


def function(name, schema):
    return {"type": "function", "function": {"name": name, "description": f"Does {name}.", "parameters": schema}}


TOOLS = [function("get_weather", WEATHER), function("feed", FEED)]
SCHEMAS = {"get_weather": {"city", "days"}, "feed": {"animal"}}


def check_call(name, arguments):
    value = json.loads(arguments) if isinstance(arguments, str) else arguments
    assert set(value) == SCHEMAS[name], (name, arguments)


def joined(events):
    """The message that a stream of chat chunks tells, and its finish reason."""
    message, finish = {"content": "", "calls": []}, None
    for event in events:
        if event == "[DONE]" or not event["choices"]:
            continue
        choice = event["choices"][0]
        message["content"] += choice["delta"].get("content") or ""
        for call in choice["delta"].get("tool_calls", []):
            if "id" in call:
                message["calls"].append({"id": call["id"], "name": call["function"]["name"], "arguments": ""})
            message["calls"][call["index"]]["arguments"] += call["function"]["arguments"]
        finish = choice["finish_reason"] or finish
    return message, finish


class Tools(ServerTest):
    def ask(self, **fields):
        return {"messages": MESSAGES, "max_tokens": 300, "seed": 1, "tools": TOOLS, **fields}

    def chat(self, **fields):
        return self.server.post(CHAT_PATH, self.ask(**fields))["choices"][0]

    def test_required_gives_a_call_whatever_is_drawn(self):
        for seed in range(6):
            choice = self.chat(tool_choice="required", seed=seed, temperature=seed, parallel_tool_calls=False)
            self.assertEqual(choice["finish_reason"], "tool_calls")
            self.assertIsNone(choice["message"]["content"])
            (call,) = choice["message"]["tool_calls"]
            self.assertEqual(call["type"], "function")
            check_call(call["function"]["name"], call["function"]["arguments"])

    def test_a_named_function_is_the_one_that_is_called(self):
        for name in SCHEMAS:
            choice = self.chat(tool_choice={"type": "function", "function": {"name": name}})
            self.assertEqual([call["function"]["name"] for call in choice["message"]["tool_calls"]], [name])
            check_call(name, choice["message"]["tool_calls"][0]["function"]["arguments"])

    def test_a_stream_tells_the_same_call(self):
        # Several calls, cut off by the limit, and one that is complete.
        for parallel in (True, False):
            self.check_stream({"tool_choice": "required", "seed": 4, "parallel_tool_calls": parallel})

    def check_stream(self, fields):
        whole = self.chat(**fields)
        message, finish = joined(self.server.events(CHAT_PATH, self.ask(**fields)))
        self.assertEqual(finish, whole["finish_reason"])
        self.assertEqual([(call["name"], call["arguments"]) for call in message["calls"]],
                         [(call["function"]["name"], call["function"]["arguments"])
                          for call in whole["message"]["tool_calls"]])
        self.assertEqual(message["content"], "")

    def test_auto_is_text_until_a_call(self):
        for seed in range(3):
            choice = self.chat(seed=seed, max_tokens=40)
            self.assertIn(choice["finish_reason"], ("stop", "length", "tool_calls"))
            for call in choice["message"].get("tool_calls", []):
                check_call(call["function"]["name"], call["function"]["arguments"])
        # A model that is made to begin a call ends it by the schema.
        bias = {str(token): 100 for token in self.server.post("/tokenize", {"content": "<"})["tokens"][-1:]}
        self.assertIn("<", self.chat(max_tokens=4, logit_bias=bias)["message"]["content"])

    def test_an_answer_with_a_form_or_a_call(self):
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {
            "type": "object", "required": ["goat"], "properties": {"goat": {"type": "boolean"}}}}}
        kinds = set()
        for seed in range(12):
            # Both begin with a character that the model seldom begins with: none is likelier by much.
            fields = {"response_format": form, "seed": seed, "temperature": 9, "parallel_tool_calls": False}
            choice = self.chat(**fields)
            message, calls = choice["message"], choice["message"].get("tool_calls", [])
            kinds.add(choice["finish_reason"])
            if choice["finish_reason"] == "stop":
                self.assertEqual(set(json.loads(message["content"])), {"goat"})
                self.assertEqual(calls, [])
            elif choice["finish_reason"] == "tool_calls":
                self.assertIsNone(message["content"])
                check_call(calls[0]["function"]["name"], calls[0]["function"]["arguments"])
            told, finish = joined(self.server.events(CHAT_PATH, self.ask(**fields)))
            self.assertEqual(finish, choice["finish_reason"])
            self.assertEqual(told["content"], message["content"] or "")
            self.assertEqual([call["arguments"] for call in told["calls"]], [call["function"]["arguments"] for call in calls])
        self.assertLessEqual({"stop", "tool_calls"}, kinds)
        # Where a call is required, there is no answer to have a form.
        choice = self.chat(response_format=form, tool_choice="required", parallel_tool_calls=False)
        self.assertEqual(choice["finish_reason"], "tool_calls")

    def test_none_is_text_alone(self):
        free = self.server.post(CHAT_PATH, {"messages": MESSAGES, "max_tokens": 30, "seed": 1})["choices"][0]
        choice = self.chat(tool_choice="none", max_tokens=30)
        self.assertEqual(choice["message"]["content"], free["message"]["content"])
        self.assertNotIn("tool_calls", choice["message"])

    def test_results_go_through_the_template(self):
        call = {"id": "call_1", "type": "function", "function": {"name": "feed", "arguments": "{\"animal\": \"hen\"}"}}
        messages = MESSAGES + [{"role": "assistant", "content": None, "tool_calls": [call]},
                               {"role": "tool", "tool_call_id": "call_1", "content": "The hen is full."}]
        prompt = self.server.post("/apply-template", {"messages": messages, "tools": TOOLS})["prompt"]
        self.assertIn("<tool_call>\n{\"name\": \"feed\", \"arguments\": {\"animal\": \"hen\"}}\n</tool_call>", prompt)
        self.assertIn("<tool_response>\nThe hen is full.\n</tool_response>", prompt)
        self.assertIn("\"get_weather\"", prompt)
        choice = self.server.post(CHAT_PATH, {"messages": messages, "tools": TOOLS, "max_tokens": 9})["choices"][0]
        self.assertIn(choice["finish_reason"], ("stop", "length", "tool_calls"))

    def test_anthropics_tool_use(self):
        tools = [{"name": name, "description": "", "input_schema": schema}
                 for name, schema in (("get_weather", WEATHER), ("feed", FEED))]
        body = {"messages": MESSAGES, "max_tokens": 300, "seed": 2, "tools": tools, "tool_choice": {"type": "any", "disable_parallel_tool_use": True}}
        whole = self.server.post("/v1/messages", body)
        self.assertEqual(whole["stop_reason"], "tool_use")
        block = whole["content"][0]
        self.assertEqual(block["type"], "tool_use")
        check_call(block["name"], block["input"])
        partial, starts = "", []
        for event in self.server.events("/v1/messages", body):
            if event["type"] == "content_block_start":
                starts.append(event["content_block"]["type"])
            if event["type"] == "content_block_delta":
                partial += event["delta"].get("partial_json", "") if event["index"] == 0 else ""
            if event["type"] == "message_delta":
                self.assertEqual(event["delta"]["stop_reason"], "tool_use")
        self.assertEqual(set(starts), {"tool_use"})
        self.assertEqual(json.loads(partial), block["input"])
        answer = [{"role": "assistant", "content": whole["content"]},
                  {"role": "user", "content": [{"type": "tool_result", "tool_use_id": block["id"], "content": "Sunny."},
                                               {"type": "text", "text": "And now?"}]}]
        reply = self.server.post("/v1/messages", {"messages": MESSAGES + answer, "max_tokens": 9, "tools": tools,
                                                  "tool_choice": {"type": "none"}})
        self.assertEqual(reply["content"][0]["type"], "text")
        one = self.server.post("/v1/messages", {**body, "tool_choice": {"type": "tool", "name": "feed"}})
        self.assertEqual([block["name"] for block in one["content"]], ["feed"])

    def test_the_responses_api(self):
        tools = [{"type": "function", "name": "feed", "parameters": FEED, "strict": True}]
        body = {"input": "Feed somebody.", "max_output_tokens": 300, "seed": 3, "tools": tools, "tool_choice": "required",
                "parallel_tool_calls": False}
        whole = self.server.post("/v1/responses", body)
        (item,) = whole["output"]
        self.assertEqual((item["type"], item["name"], whole["status"]), ("function_call", "feed", "completed"))
        check_call("feed", item["arguments"])
        events = self.server.events("/v1/responses", body)
        delta = "".join(event["delta"] for event in events if event["type"] == "response.function_call_arguments.delta")
        self.assertEqual(delta, item["arguments"])
        self.assertEqual(events[-1]["response"]["output"][0]["arguments"], item["arguments"])
        self.assertEqual([event["sequence_number"] for event in events], list(range(len(events))))
        items = [{"role": "user", "content": "Feed somebody."}, item,
                 {"type": "function_call_output", "call_id": item["call_id"], "output": "Done."}]
        self.assertEqual(self.server.post("/v1/responses", {"input": items, "max_output_tokens": 9})["object"], "response")

    def test_what_is_wrong_is_said(self):
        def refusal(status=400, **fields):
            return self.server.json("POST", CHAT_PATH, self.ask(max_tokens=9, **fields), status=status)["error"]

        bad = function("x", {"properties": {"a": {"not": {}}}})
        error = refusal(tools=[TOOLS[0], bad])
        self.assertEqual((error["param"], error["code"]), ("tools", "not_supported"))
        self.assertIn("tools[1].function.parameters/properties/a/not", error["message"])
        self.assertEqual(refusal(tool_choice={"type": "function", "function": {"name": "y"}})["param"], "tool_choice")
        self.assertEqual(refusal(tools=[], tool_choice="required")["param"], "tool_choice")
        self.assertEqual(refusal(tool_choice="sometimes")["param"], "tool_choice")
        self.assertEqual(refusal(tools=[function("a b", {})])["param"], "tools[0].function.name")
        self.assertEqual(refusal(tools=[TOOLS[0], TOOLS[0]])["param"], "tools[1].function.name")
        self.assertEqual(refusal(tools=[{"name": "x"}])["param"], "tools[0]")
        self.assertEqual(refusal(501, tools=[{"type": "web_search"}])["param"], "tools[0].type")
        self.assertEqual(refusal(501, guided_regex="a+")["param"], "guided_regex")  # begins like any text
        self.assertEqual(refusal(reasoning_format="loud")["param"], "reasoning_format")
        broken = [{"role": "assistant", "tool_calls": [{"id": "1"}]}]
        self.assertEqual(refusal(messages=MESSAGES + broken)["param"], "messages[1].tool_calls[0]")


if __name__ == "__main__":
    unittest.main()
