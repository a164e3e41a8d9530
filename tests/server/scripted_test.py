"""Models that think and call tools of their own will, over each API, whole and streamed: what was thought, what was said and what
was called comes out as the model wrote it. scripted_model.py makes the models."""

import json
import pathlib
import tempfile
import unittest

import scripted_model
from quipu_server import Server, ServerTest

CITY = {"type": "object", "required": ["city", "days"],
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
ANIMAL = {"type": "object", "required": ["animal"], "properties": {"animal": {"enum": ["goat", "hen"]}}}
TEXT = {"type": "object", "required": ["text"], "properties": {"text": {"type": "string"}}}
SCHEMAS = {"get_weather": CITY, "feed": ANIMAL, "tell": TEXT}


def call(name, **arguments):
    return name, json.dumps(arguments, ensure_ascii=False)


def written(name, arguments):
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


QUITO = call("get_weather", city="Quito", days=2)
LIMA = call("get_weather", city="Lima", days=3)
BOTH = [call("get_weather", city="Oruro", days=4), call("feed", animal="hen")]
GOAT = call("feed", animal="goat")
ODD = call("tell", text='}] "quoted" \\ <tool_call> </tool_call>\nñandú 🐐 {[')
LONG = call("tell", text=" ".join(f"{i * i} is {i} times {i}." for i in range(20, 80)))

# What a model writes, and what that is: its thought, its text, its calls.
SCRIPTS = {
    "hello": ("Hello, friend.", "", "Hello, friend.", []),
    "think": ("<think>\nIs she hungry?\n</think>\n\nShe is fine.", "Is she hungry?", "She is fine.", []),
    "think_call": ("<think>\nI look it up.\n</think>\n\n" + written(*QUITO), "I look it up.", "", [QUITO]),
    "say_call": ("Let me see.\n" + written(*LIMA), "", "Let me see.", [LIMA]),
    "all_two": ("<think>\nBoth!\n</think>\n\nAt once:\n\n" + written(*BOTH[0]) + "\n" + written(*BOTH[1]), "Both!", "At once:", BOTH),
    "odd": (written(*ODD), "", "", [ODD]),
    "long": (written(*LONG), "", "", [LONG]),
    # No calls: marks that end too early, or stand in a thought.
    "broken": ("I could <tool_cal or <think> so.", "", "I could <tool_cal or <think> so.", []),
    "cut_off": ("That is <tool_", "", "That is <tool_", []),
    "thought": ("<think>\nNot <tool_call>\n{\"name\": so.\n</think>\n\nNo call.", "Not <tool_call>\n{\"name\": so.", "No call.", []),
    # The prompt of this one ends with <think>.
    "inside_open": ("Now in here.\n</think>\n\n" + written(*GOAT), "Now in here.", "", [GOAT]),
}
MARKED = ("<think>\nNow.\n</think>\n\nSo:\n" + written(*QUITO), "Now.", "So:", [QUITO])


def asked(script):
    return [{"role": "user", "content": f"Please play {script} now."}]


class Chat:
    path = "/v1/chat/completions"
    finishes = {"text": "stop", "calls": "tool_calls", "limit": "length"}
    tools = [{"type": "function", "function": {"name": name, "parameters": schema}} for name, schema in SCHEMAS.items()]

    @staticmethod
    def body(messages, limit=None):
        return {"messages": messages, **({"max_tokens": limit} if limit else {})}

    @staticmethod
    def read(reply):
        (choice,) = reply["choices"]
        message = choice["message"]
        return (message.get("reasoning_content", ""), message["content"] or "",
                [(c["id"], c["function"]["name"], c["function"]["arguments"]) for c in message.get("tool_calls", [])],
                choice["finish_reason"])

    @staticmethod
    def read_stream(events, index=0):
        thinking, text, calls, finish, fragments = "", "", [], None, 0
        assert events[-1] == "[DONE]", events[-1]
        for event in events[:-1]:
            for choice in (c for c in event["choices"] if c["index"] == index):
                delta = choice["delta"]
                thinking += delta.get("reasoning_content", "")
                text += delta.get("content") or ""
                for part in delta.get("tool_calls", []):
                    if "id" in part:
                        assert part["index"] == len(calls), part
                        calls.append([part["id"], part["function"]["name"], ""])
                    calls[part["index"]][2] += part["function"]["arguments"]
                    fragments += part["function"]["arguments"] != ""
                assert finish is None or choice["finish_reason"] is None, "two ends"
                finish = finish or choice["finish_reason"]
        return thinking, text, [tuple(c) for c in calls], finish, fragments


class Responses:
    path = "/v1/responses"
    finishes = {"text": "completed", "calls": "completed", "limit": "incomplete"}
    tools = [{"type": "function", "name": name, "parameters": schema} for name, schema in SCHEMAS.items()]

    @staticmethod
    def body(messages, limit=None):
        return {"input": messages, **({"max_output_tokens": limit} if limit else {})}

    @staticmethod
    def read(reply):
        thinking, text, calls = "", "", []
        for item in reply["output"]:
            if item["type"] == "reasoning":
                thinking += "".join(part["text"] for part in item["content"])
            elif item["type"] == "message":
                text += "".join(part["text"] for part in item["content"])
            else:
                assert item["type"] == "function_call", item
                calls.append((item["call_id"], item["name"], item["arguments"]))
        return thinking, text, calls, reply["status"]

    @classmethod
    def read_stream(cls, events):
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        last = events[-1]["response"]
        told, fragments = {}, 0  # by the item's place: what deltas say of it
        for event in events:
            if event["type"] == "response.output_item.added":
                assert event["output_index"] == len(told), event
                told[event["output_index"]] = [event["item"]["id"], ""]
            if event["type"].endswith(".delta"):
                assert event["item_id"] == told[event["output_index"]][0], event
                told[event["output_index"]][1] += event["delta"]
                fragments += event["type"] == "response.function_call_arguments.delta"
        for place, item in enumerate(last["output"]):
            joined = item["arguments"] if item["type"] == "function_call" else item["content"][0]["text"]
            assert told[place] == [item["id"], joined], (told[place], item)
        assert len(told) == len(last["output"])
        done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
        assert done == last["output"], (done, last["output"])
        return (*cls.read(last), fragments)


class Messages:
    path = "/v1/messages"
    finishes = {"text": "end_turn", "calls": "tool_use", "limit": "max_tokens"}
    tools = [{"name": name, "input_schema": schema} for name, schema in SCHEMAS.items()]

    @staticmethod
    def body(messages, limit=None):
        return {"messages": messages, "max_tokens": limit or 2000}

    @staticmethod
    def read(reply):
        thinking, text, calls = "", "", []
        for block in reply["content"]:
            if block["type"] == "tool_use":
                calls.append((block["id"], block["name"], json.dumps(block["input"], ensure_ascii=False)))
            elif block["type"] == "thinking":
                thinking += block["thinking"]
            else:
                text += block["text"]
        return thinking, text, calls, reply["stop_reason"]

    @classmethod
    def read_stream(cls, events):
        blocks, finish, fragments, is_open = [], None, 0, False
        assert (events[0]["type"], events[-1]["type"]) == ("message_start", "message_stop")
        for event in events:
            if event["type"] == "content_block_start":
                assert not is_open and event["index"] == len(blocks), event
                blocks.append({**event["content_block"], "joined": ""})
                is_open = True
            elif event["type"] == "content_block_delta":
                assert is_open and event["index"] == len(blocks) - 1, event
                (text,) = (v for k, v in event["delta"].items() if k != "type")
                blocks[-1]["joined"] += text
                fragments += event["delta"]["type"] == "input_json_delta"
            elif event["type"] == "content_block_stop":
                assert is_open and event["index"] == len(blocks) - 1, event
                is_open = False
            elif event["type"] == "message_delta":
                assert finish is None and not is_open
                finish = event["delta"]["stop_reason"]
        for block in blocks:
            if block["type"] == "tool_use":
                block["input"] = json.loads(block["joined"])
            else:
                block[block["type"]] = block["joined"]
        return (*cls.read({"content": blocks, "stop_reason": finish}), fragments)


APIS = (Chat, Responses, Messages)


MARKS = {"<think>": "user"}  # a token of its own, for the prompt that ends with it


def start(scripts, marks):
    """A server with a model of these scripts. The file is not needed once it runs."""
    with tempfile.TemporaryDirectory(prefix="quipu-scripted-") as folder:
        path = pathlib.Path(folder, "scripted.gguf")
        scripted_model.write(path, {name: script[0] for name, script in scripts.items()}, marks)
        return Server(model=path)


def scripted_server(test):
    """One with the scripts of this file, for the time of a test."""
    server = start(SCRIPTS, MARKS)
    test.addCleanup(server.stop)
    return server


class ScriptedTest(ServerTest):
    """Tests that share one server with a scripted model."""

    scripts, marks = SCRIPTS, MARKS

    @classmethod
    def setUpClass(cls):
        cls.server = start(cls.scripts, cls.marks)

    def check_everywhere(self, name, with_tools=True):
        _, thinking, text, calls = self.scripts[name]
        for api in APIS:
            with self.subTest(script=name, api=api.__name__):
                body = {**api.body(asked(name)), **({"tools": api.tools} if with_tools else {})}
                finish = api.finishes["calls" if calls else "text"]
                whole = api.read(self.server.post(api.path, body))
                *streamed, fragments = api.read_stream(self.server.events(api.path, body))
                for told in (whole, streamed):
                    self.assertEqual((told[0], told[1], [c[1:] for c in told[2]], told[3]), (thinking, text, calls, finish))
                    self.assertEqual(len({c[0] for c in told[2]}), len(calls), "ids of calls are alike")
                self.assertGreaterEqual(fragments, len(calls))
                if name == "long":
                    self.assertGreater(fragments, 1)


class Scripted(ScriptedTest):
    def test_every_script_in_every_api(self):
        for name in SCRIPTS:
            self.check_everywhere(name)

    def test_without_tools_marks_of_calls_are_text(self):
        for extra in ({}, {"tools": Chat.tools, "tool_choice": "none"}):
            for name in ("say_call", "all_two", "odd", "broken"):
                text = SCRIPTS[name][0]
                plain = text[text.index("</think>") + len("</think>"):].strip() if "</think>" in text else text
                body = {**Chat.body(asked(name)), **extra}
                self.assertEqual(Chat.read(self.server.post(Chat.path, body)), (SCRIPTS[name][1], plain, [], "stop"))
                self.assertEqual(Chat.read_stream(self.server.events(Chat.path, body))[:4], (SCRIPTS[name][1], plain, [], "stop"))

    def test_reasoning_format_none_leaves_the_text_as_it_is(self):
        body = {**Chat.body(asked("think")), "reasoning_format": "none"}
        self.assertEqual(Chat.read(self.server.post(Chat.path, body)), ("", SCRIPTS["think"][0], [], "stop"))

    def test_usage_counts_what_was_thought(self):
        usage = self.server.post(Chat.path, Chat.body(asked("think")))["usage"]
        thought = usage["completion_tokens_details"]["reasoning_tokens"]
        self.assertTrue(0 < thought < usage["completion_tokens"], usage)
        usage = self.server.post(Responses.path, Responses.body(asked("think")))["usage"]
        self.assertEqual(usage["output_tokens_details"]["reasoning_tokens"], thought)
        usage = self.server.post(Chat.path, Chat.body(asked("hello")))["usage"]
        self.assertEqual(usage["completion_tokens_details"]["reasoning_tokens"], 0)

    def test_one_call_where_several_are_not_wanted(self):
        body = {**Chat.body(asked("all_two")), "tools": Chat.tools, "parallel_tool_calls": False}
        thinking, text, calls, finish = Chat.read(self.server.post(Chat.path, body))
        self.assertEqual((thinking, text, [c[1:] for c in calls], finish), ("Both!", "At once:", BOTH[:1], "tool_calls"))

    def test_the_limit_cuts_calls_and_thoughts(self):
        for name in ("think_call", "say_call"):
            _, thinking, text, (wanted,) = SCRIPTS[name]
            for api in APIS:
                for limit in (1, 4, 12, 20, 24):
                    with self.subTest(script=name, api=api.__name__, limit=limit):
                        body = {**api.body(asked(name), limit), "tools": api.tools}
                        told = api.read(self.server.post(api.path, body))
                        self.assertEqual(told[3], api.finishes["limit"])
                        # A mark that is cut off is text: nobody knows that it would have been one.
                        self.assertTrue(f"{thinking}\n</think>".startswith(told[0]), told)
                        rest = told[1].removeprefix(text).strip()
                        self.assertTrue(text.startswith(told[1]) or "<think>".startswith(rest) or "<tool_call>".startswith(rest), told)
                        streamed = self.server.events(api.path, body)
                        if api is Messages:  # half an object has no place in it
                            self.assertLessEqual(len(told[2]), 1)
                            self.assertTrue(all(called == [wanted[0], "{}"] for _, *called in told[2]), told)
                            continue
                        self.assertTrue(all(called == wanted[0] and wanted[1].startswith(given) for _, called, given in told[2]), told)
                        again = api.read_stream(streamed)
                        self.assertEqual([c[1:] for c in again[2]], [c[1:] for c in told[2]])
                        self.assertEqual((*again[:2], again[3]), (*told[:2], told[3]))

    def test_choices_have_calls_of_their_own(self):
        body = {**Chat.body(asked("all_two")), "tools": Chat.tools, "n": 3}
        replies = self.server.post(Chat.path, body)["choices"]
        ids = [c["id"] for choice in replies for c in choice["message"]["tool_calls"]]
        self.assertEqual(len(set(ids)), 6)
        events = self.server.events(Chat.path, body)
        ids = set()
        for index in range(3):
            thinking, text, calls, finish, _ = Chat.read_stream(events, index)
            self.assertEqual((thinking, text, [c[1:] for c in calls], finish), ("Both!", "At once:", BOTH, "tool_calls"))
            ids.update(c[0] for c in calls)
        self.assertEqual(len(ids), 6)

    def test_log_probabilities_come_for_every_token(self):
        body = {**Chat.body(asked("all_two")), "tools": Chat.tools, "logprobs": True}
        whole = self.server.post(Chat.path, body)
        tokens = [entry["token"] for entry in whole["choices"][0]["logprobs"]["content"]]
        self.assertEqual(len(tokens), whole["usage"]["completion_tokens"])
        self.assertTrue("".join(tokens).startswith(SCRIPTS["all_two"][0]), tokens)
        streamed = [entry["token"] for event in self.server.events(Chat.path, body)[:-1] for choice in event["choices"]
                    for entry in (choice["logprobs"] or {"content": []})["content"]]
        self.assertEqual(streamed, tokens)

    def test_a_second_turn_with_the_results(self):
        messages = asked("think_call")
        reply = self.server.post(Chat.path, {**Chat.body(messages), "tools": Chat.tools})
        message = reply["choices"][0]["message"]
        result = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "Rain. play think next"}
        messages = messages + [message, result]
        prompt = self.server.post("/apply-template", {"messages": messages, "tools": Chat.tools})["prompt"]
        self.assertIn("<think>I look it up.</think>", prompt)
        self.assertIn(written(*QUITO), prompt)
        after = self.server.post(Chat.path, {**Chat.body(messages), "tools": Chat.tools})
        self.assertEqual(Chat.read(after), (*SCRIPTS["think"][1:3], [], "stop"))
        self.assertGreater(after["usage"]["prompt_tokens_details"]["cached_tokens"], reply["usage"]["prompt_tokens"] // 2)

        first = self.server.post(Responses.path, {**Responses.body(asked("think_call")), "tools": Responses.tools})
        items = asked("think_call") + first["output"] + [
            {"type": "function_call_output", "call_id": first["output"][-1]["call_id"], "output": "Rain. play think next"}]
        after = self.server.post(Responses.path, {**Responses.body(items), "tools": Responses.tools})
        self.assertEqual(Responses.read(after), (*SCRIPTS["think"][1:3], [], "completed"))

        first = self.server.post(Messages.path, {**Messages.body(asked("think_call")), "tools": Messages.tools})
        result = {"type": "tool_result", "tool_use_id": first["content"][-1]["id"], "content": "Rain. play think next"}
        turns = asked("think_call") + [{"role": "assistant", "content": first["content"]}, {"role": "user", "content": [result]}]
        after = self.server.post(Messages.path, {**Messages.body(turns), "tools": Messages.tools})
        self.assertEqual(Messages.read(after), (*SCRIPTS["think"][1:3], [], "end_turn"))

    def test_a_form_of_the_answer_begins_after_the_thought(self):
        form = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"enum": ["yes", "no"]}}}
        body = {**Chat.body(asked("think")), "response_format": form}
        thinking, text, _, finish = Chat.read(self.server.post(Chat.path, body))
        self.assertEqual((thinking, finish), ("Is she hungry?", "stop"))
        self.assertIn(json.loads(text), ("yes", "no"))


class MarksAreTokens(ScriptedTest):
    """Marks that are tokens of their own, as most published models have them."""

    scripts = {"hello": SCRIPTS["hello"], "marked": MARKED}
    marks = dict.fromkeys(("<think>", "</think>", "<tool_call>", "</tool_call>"), "user")

    def test_every_script_in_every_api(self):
        for name in self.scripts:
            self.check_everywhere(name)


class MarksAreControlTokens(MarksAreTokens):
    marks = dict.fromkeys(MarksAreTokens.marks, "control")


if __name__ == "__main__":
    unittest.main()
