"""LangChain's OpenAI integration against a running server: chats, streams, tools, structured output. `run` installs it."""

import pathlib
import sys
import typing
import unittest

import pydantic
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "server"))
from quipu_server import ServerTest  # noqa: E402

MODEL = "quipu-stories-q8_0"
QUESTION = "Tell me about the goat."


class Animal(pydantic.BaseModel):
    """An animal of a story."""

    name: str = pydantic.Field(max_length=16)
    legs: int = pydantic.Field(ge=0, le=4)
    friend: typing.Literal["hen", "lion"]


@tool
def feed(animal: typing.Literal["goat", "hen"]) -> str:
    """Feeds an animal."""
    return f"The {animal} is full."


class LangChain(ServerTest):
    def chat(self, **fields):
        return ChatOpenAI(base_url=f"http://{self.server.host}:{self.server.port}/v1", api_key="none", model=MODEL,
                          seed=5, max_retries=0, timeout=60, **{"max_tokens": 300, **fields})

    def test_a_chat_whole_and_streamed(self):
        chat = self.chat(max_tokens=24)
        whole = chat.invoke(QUESTION)
        self.assertGreater(len(whole.content), 10)
        self.assertEqual("".join(chunk.content for chunk in chat.stream(QUESTION)), whole.content)

    def test_tools(self):
        chat = self.chat().bind_tools([feed], tool_choice="feed")
        reply = chat.invoke(QUESTION)
        (call,) = reply.tool_calls
        self.assertEqual(call["name"], "feed")
        result = feed.invoke(call["args"])
        joined = None
        for chunk in chat.stream(QUESTION):
            joined = chunk if joined is None else joined + chunk
        self.assertEqual(joined.tool_calls[0]["args"], call["args"])
        messages = [HumanMessage(QUESTION), reply, ToolMessage(result, tool_call_id=call["id"])]
        self.assertIsInstance(self.chat(max_tokens=9).invoke(messages).content, str)

    def test_structured_output(self):
        for method in ("json_schema", "function_calling"):
            answer = self.chat().with_structured_output(Animal, method=method).invoke(QUESTION)
            self.assertIsInstance(answer, Animal, method)


if __name__ == "__main__":
    unittest.main()
