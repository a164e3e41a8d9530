"""OpenAI's and Anthropic's libraries for Python against a running server. `run` installs them."""

import json
import pathlib
import sys
import typing
import unittest

import anthropic
import openai
import pydantic

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "server"))
import scripted_test as scripted  # noqa: E402
from quipu_server import Server, ServerTest  # noqa: E402


class Animal(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=16)
    legs: int = pydantic.Field(ge=0, le=4)
    friends: list[typing.Literal["hen", "lion"]] = pydantic.Field(max_length=2)


MODEL = "quipu-stories-q8_0"
MESSAGES = [{"role": "user", "content": "Tell me about the goat."}]
KEY = "a-key"


class OpenAi(ServerTest):
    flags = ("--api-key", KEY)

    def setUp(self):
        self.client = openai.OpenAI(base_url=f"http://{self.server.host}:{self.server.port}/v1", api_key=KEY,
                                    max_retries=0, timeout=60)
        self.addCleanup(self.client.close)

    def test_chat_whole_and_streamed(self):
        asked = {"model": MODEL, "messages": MESSAGES, "seed": 5, "max_completion_tokens": 24,
                 "extra_body": {"ignore_eos": True}}
        whole = self.client.chat.completions.create(**asked, logprobs=True, top_logprobs=2)
        choice = whole.choices[0]
        self.assertGreater(len(choice.message.content), 20)
        self.assertEqual((choice.message.role, choice.finish_reason), ("assistant", "length"))
        self.assertEqual((whole.usage.completion_tokens, len(choice.logprobs.content)), (24, 24))
        self.assertEqual(len(choice.logprobs.content[0].top_logprobs), 2)

        text, usage, finish = "", None, None
        stream = self.client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
        for chunk in stream:
            if chunk.choices:
                text += chunk.choices[0].delta.content or ""
                finish = chunk.choices[0].finish_reason or finish
            usage = chunk.usage or usage
        self.assertEqual((text, finish), (choice.message.content, "length"))
        self.assertEqual(usage.prompt_tokens, whole.usage.prompt_tokens)
        self.assertEqual(usage.prompt_tokens_details.cached_tokens, usage.prompt_tokens - 1)

    def test_the_library_joins_a_stream_itself(self):
        asked = {"model": MODEL, "messages": MESSAGES, "seed": 3, "max_tokens": 500}
        whole = self.client.chat.completions.create(**asked).choices[0]
        self.assertEqual(whole.finish_reason, "stop")
        with self.client.chat.completions.stream(**asked) as stream:
            for _ in stream:
                pass
            self.assertEqual(stream.get_final_completion().choices[0].message.content, whole.message.content)

    def test_several_choices(self):
        reply = self.client.chat.completions.create(model=MODEL, messages=MESSAGES, seed=5, max_tokens=12, n=3)
        self.assertEqual(len({choice.message.content for choice in reply.choices}), 3)

    def test_text_completions(self):
        asked = {"model": MODEL, "prompt": "Once upon a time", "seed": 3, "max_tokens": 12}
        whole = self.client.completions.create(**asked, logprobs=1)
        self.assertEqual(len(whole.choices[0].logprobs.tokens), 12)
        streamed = self.client.completions.create(**asked, stream=True)
        self.assertEqual("".join(chunk.choices[0].text for chunk in streamed), whole.choices[0].text)

    def test_responses(self):
        asked = {"model": MODEL, "input": MESSAGES[0]["content"], "max_output_tokens": 24,
                 "extra_body": {"seed": 5, "ignore_eos": True}}
        whole = self.client.responses.create(**asked)
        self.assertEqual((whole.status, whole.incomplete_details.reason), ("incomplete", "max_output_tokens"))
        self.assertGreater(len(whole.output_text), 20)
        deltas, last = "", None
        for event in self.client.responses.create(**asked, stream=True):
            deltas += event.delta if event.type == "response.output_text.delta" else ""
            last = event
        self.assertEqual(deltas, whole.output_text)
        self.assertEqual(last.response.output_text, whole.output_text)

    def test_structured_output(self):
        asked = {"model": MODEL, "messages": MESSAGES, "seed": 5, "max_tokens": 300}
        reply = self.client.chat.completions.parse(**asked, response_format=Animal)
        animal = reply.choices[0].message.parsed
        self.assertIsInstance(animal, Animal)
        self.assertTrue(0 <= animal.legs <= 4)
        with self.client.chat.completions.stream(**asked, response_format=Animal) as stream:
            self.assertEqual(stream.get_final_completion().choices[0].message.parsed, animal)
        reply = self.client.responses.parse(model=MODEL, input="Who?", max_output_tokens=300, text_format=Animal,
                                            extra_body={"seed": 5})
        self.assertIsInstance(reply.output_parsed, Animal)

    def test_tools(self):
        asked = {"model": MODEL, "messages": MESSAGES, "seed": 5, "max_tokens": 300,
                 "tools": [openai.pydantic_function_tool(Animal, name="show_animal")], "tool_choice": "required",
                 "parallel_tool_calls": False}
        choice = self.client.chat.completions.parse(**asked).choices[0]
        self.assertEqual(choice.finish_reason, "tool_calls")
        call = choice.message.tool_calls[0]
        self.assertEqual(call.function.name, "show_animal")
        self.assertIsInstance(call.function.parsed_arguments, Animal)
        with self.client.chat.completions.stream(**asked) as stream:
            final = stream.get_final_completion().choices[0].message
        self.assertEqual(final.tool_calls[0].function.arguments, call.function.arguments)
        result = [{"role": "assistant", "tool_calls": [call.model_dump(include={"id": True, "type": True, "function": {"name", "arguments"}})]},
                  {"role": "tool", "tool_call_id": call.id, "content": "shown"}]
        after = self.client.chat.completions.create(model=MODEL, messages=MESSAGES + result, max_tokens=9)
        self.assertIsNotNone(after.choices[0].message.content)
        tool = {"type": "function", "name": "show_animal", "parameters": Animal.model_json_schema(), "strict": True}
        reply = self.client.responses.create(model=MODEL, input="Who?", tools=[tool], tool_choice="required",
                                             max_output_tokens=300, extra_body={"seed": 5}, parallel_tool_calls=False)
        self.assertEqual([item.type for item in reply.output], ["function_call"])
        Animal.model_validate_json(reply.output[0].arguments)

    def test_models(self):
        self.assertEqual([model.id for model in self.client.models.list()], [MODEL])
        self.assertEqual(self.client.models.retrieve(MODEL).id, MODEL)

    def test_errors_become_the_librarys_own(self):
        create = self.client.chat.completions.create
        with self.assertRaises(openai.BadRequestError) as caught:
            create(model=MODEL, messages=MESSAGES, temperature=-3)
        self.assertEqual((caught.exception.param, caught.exception.code), ("temperature", "invalid_value"))
        self.assertTrue(caught.exception.request_id)
        with self.assertRaises(openai.NotFoundError):
            create(model="no-such-model", messages=MESSAGES)
        with self.assertRaises(openai.BadRequestError) as caught:
            create(model=MODEL, messages=MESSAGES, tools=[
                {"type": "function", "function": {"name": "f", "parameters": {"not": {}}}}])
        self.assertEqual(caught.exception.param, "tools")
        self.assertIn("tools[0].function.parameters/not", caught.exception.message)
        with self.assertRaises(openai.AuthenticationError):
            self.client.with_options(api_key="wrong").models.list()
        with self.assertRaises(openai.APIStatusError) as caught:
            self.client.embeddings.create(model=MODEL, input="x")
        self.assertEqual(caught.exception.status_code, 501)

    def test_leaving_a_stream_frees_its_place(self):
        stream = self.client.completions.create(model=MODEL, prompt="Once", max_tokens=1500, stream=True,
                                                extra_body={"ignore_eos": True})
        next(iter(stream))
        stream.close()
        headers = {"Authorization": f"Bearer {KEY}"}

        def is_idle():
            return not any(slot["is_processing"] for slot in self.server.get("/slots", headers=headers))

        self.server.wait_until(is_idle, "a stream that was left frees its place")


class Queue(unittest.TestCase):
    def test_a_full_queue_is_tried_again_by_the_library(self):
        server = Server("--parallel", "1", "--queue", "0")
        self.addCleanup(server.stop)
        base = f"http://{server.host}:{server.port}/v1"
        with openai.OpenAI(base_url=base, api_key="none", max_retries=0) as client:
            stream = client.completions.create(model=MODEL, prompt="Once", max_tokens=1500, stream=True,
                                               extra_body={"ignore_eos": True})
            next(iter(stream))
            with self.assertRaises(openai.RateLimitError) as caught:
                client.completions.create(model=MODEL, prompt="Once", max_tokens=1)
            self.assertEqual(caught.exception.response.headers["retry-after"], "1")
            stream.close()
            patient = client.with_options(max_retries=8)
            reply = patient.completions.create(model=MODEL, prompt="Once", max_tokens=1)
            self.assertEqual(reply.usage.completion_tokens, 1)


class Anthropic(ServerTest):
    flags = ("--api-key", KEY)

    def setUp(self):
        self.client = anthropic.Anthropic(base_url=f"http://{self.server.host}:{self.server.port}", api_key=KEY,
                                          max_retries=0, timeout=60)
        self.addCleanup(self.client.close)
        self.asked = {"model": MODEL, "max_tokens": 24, "system": "Be kind.", "messages": MESSAGES,
                      "extra_body": {"seed": 5, "ignore_eos": True}}

    def test_tools(self):
        tool = {"name": "show_animal", "description": "Shows it.", "input_schema": Animal.model_json_schema()}
        asked = {"model": MODEL, "max_tokens": 300, "messages": MESSAGES, "tools": [tool],
                 "tool_choice": {"type": "any", "disable_parallel_tool_use": True}, "extra_body": {"seed": 5}}
        whole = self.client.messages.create(**asked)
        self.assertEqual((whole.stop_reason, whole.content[0].type), ("tool_use", "tool_use"))
        Animal.model_validate(whole.content[0].input)
        with self.client.messages.stream(**asked) as stream:
            final = stream.get_final_message()
        self.assertEqual(final.content[0].input, whole.content[0].input)
        result = {"type": "tool_result", "tool_use_id": whole.content[0].id, "content": "shown"}
        after = self.client.messages.create(model=MODEL, max_tokens=9, messages=MESSAGES + [
            {"role": "assistant", "content": whole.content}, {"role": "user", "content": [result]}])
        self.assertEqual(after.content[0].type, "text")

    def test_messages_whole_and_streamed(self):
        whole = self.client.messages.create(**self.asked)
        self.assertEqual((whole.type, whole.stop_reason, whole.usage.output_tokens), ("message", "max_tokens", 24))
        text = whole.content[0].text
        self.assertGreater(len(text), 20)
        with self.client.messages.stream(**self.asked) as stream:
            self.assertEqual("".join(stream.text_stream), text)
            final = stream.get_final_message()
        self.assertEqual((final.content[0].text, final.stop_reason), (text, "max_tokens"))
        self.assertGreater(final.usage.cache_read_input_tokens, 0)
        self.assertEqual(final.usage.output_tokens, 24)

    def test_count_tokens(self):
        count = self.client.messages.count_tokens(model=MODEL, messages=MESSAGES, system="Be kind.")
        usage = self.client.messages.create(**self.asked).usage
        self.assertEqual(count.input_tokens, usage.input_tokens + (usage.cache_read_input_tokens or 0))

    def test_errors_become_the_librarys_own(self):
        with self.assertRaises(anthropic.BadRequestError):
            self.client.messages.create(**{**self.asked, "max_tokens": -1})
        with self.assertRaises(anthropic.NotFoundError):
            self.client.messages.create(**{**self.asked, "model": "claude"})
        with self.assertRaises(anthropic.AuthenticationError):
            self.client.with_options(api_key="wrong").messages.create(**self.asked)


class Calls(scripted.ScriptedTest):
    """A model that thinks and calls two tools, as the libraries tell it."""

    thought, said, called = scripted.SCRIPTS["all_two"][1:]
    messages = scripted.asked("all_two")
    answer = scripted.SCRIPTS["think"][2]
    news = "Rain. play think next"  # what the tools say; the model goes on with the script "think"

    def setUp(self):
        base = f"http://{self.server.host}:{self.server.port}"
        self.openai = openai.OpenAI(base_url=base + "/v1", api_key="none", max_retries=0, timeout=60)
        self.anthropic = anthropic.Anthropic(base_url=base, api_key="none", max_retries=0, timeout=60)
        self.addCleanup(self.openai.close)
        self.addCleanup(self.anthropic.close)

    def test_chat(self):
        asked = {"model": "scripted", "messages": self.messages, "tools": scripted.Chat.tools}
        with self.openai.chat.completions.stream(**asked) as stream:
            streamed = stream.get_final_completion().choices[0]
        for choice in (self.openai.chat.completions.create(**asked).choices[0], streamed):
            message = choice.message
            self.assertEqual((message.reasoning_content, message.content, choice.finish_reason), (self.thought, self.said, "tool_calls"))
            self.assertEqual([(c.function.name, c.function.arguments) for c in message.tool_calls], self.called)
        results = [{"role": "tool", "tool_call_id": call.id, "content": self.news} for call in message.tool_calls]
        turn = {"role": "assistant", "content": message.content, "tool_calls": [c.model_dump(include={"id", "type", "function"}) for c in message.tool_calls]}
        after = self.openai.chat.completions.create(**{**asked, "messages": [*self.messages, turn, *results]}).choices[0]
        self.assertEqual((after.message.content, after.finish_reason), (self.answer, "stop"))

    def test_responses(self):
        asked = {"model": "scripted", "input": self.messages, "tools": scripted.Responses.tools}
        with self.openai.responses.stream(**asked) as stream:
            streamed = stream.get_final_response()
        for reply in (self.openai.responses.create(**asked), streamed):
            self.assertEqual([item.type for item in reply.output], ["reasoning", "message", "function_call", "function_call"])
            self.assertEqual((reply.output[0].content[0].text, reply.output_text), (self.thought, self.said))
            self.assertEqual([(item.name, item.arguments) for item in reply.output[2:]], self.called)
        results = [{"type": "function_call_output", "call_id": item.call_id, "output": self.news} for item in reply.output[2:]]
        turn = [item.model_dump(exclude_none=True) for item in reply.output]
        after = self.openai.responses.create(**{**asked, "input": [*self.messages, *turn, *results]})
        self.assertEqual(after.output_text, self.answer)

    def test_messages(self):
        asked = {"model": "scripted", "max_tokens": 500, "messages": self.messages, "tools": scripted.Messages.tools}
        with self.anthropic.messages.stream(**asked) as stream:
            streamed = stream.get_final_message()
        for reply in (self.anthropic.messages.create(**asked), streamed):
            thinking, text, *calls = reply.content
            self.assertEqual((thinking.thinking, text.text, reply.stop_reason), (self.thought, self.said, "tool_use"))
            self.assertEqual([(c.name, c.input) for c in calls], [(name, json.loads(given)) for name, given in self.called])
        results = [{"type": "tool_result", "tool_use_id": c.id, "content": self.news} for c in calls]
        after = self.anthropic.messages.create(**{**asked, "messages": [
            *self.messages, {"role": "assistant", "content": reply.content}, {"role": "user", "content": results}]})
        self.assertEqual([block.type for block in after.content], ["thinking", "text"])
        self.assertEqual(after.content[1].text, self.answer)


if __name__ == "__main__":
    unittest.main()
