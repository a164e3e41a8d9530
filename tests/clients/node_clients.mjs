// OpenAI's and Anthropic's libraries for JavaScript and Vercel's AI SDK against a running server.
// node_clients_test.py starts it and names it in QUIPU_URL, and one with a scripted model in QUIPU_SCRIPTED_URL.
import assert from "node:assert/strict";
import { test } from "node:test";

import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import Anthropic from "@anthropic-ai/sdk";
import { generateObject, generateText, jsonSchema, streamText, tool } from "ai";
import OpenAI from "openai";

const url = process.env.QUIPU_URL;
const apiKey = process.env.QUIPU_KEY;
const model = "quipu-stories-q8_0";
const messages = [{ role: "user", content: "Tell me about the goat." }];

const openai = new OpenAI({ baseURL: `${url}/v1`, apiKey, maxRetries: 0 });
const anthropic = new Anthropic({ baseURL: url, apiKey, maxRetries: 0 });
const structured = createOpenAICompatible(
  { name: "quipu", baseURL: `${url}/v1`, apiKey, supportsStructuredOutputs: true });
const vercel = createOpenAICompatible({ name: "quipu", baseURL: `${url}/v1`, apiKey, includeUsage: true });

test("openai: a chat, whole and streamed", async () => {
  const asked = { model, messages, seed: 5, max_completion_tokens: 24, ignore_eos: true };
  const whole = await openai.chat.completions.create(asked);
  const text = whole.choices[0].message.content;
  assert.ok(text.length > 20);
  let streamed = "";
  let usage;
  const stream = await openai.chat.completions.create(
    { ...asked, stream: true, stream_options: { include_usage: true } });
  for await (const chunk of stream) {
    streamed += chunk.choices[0]?.delta.content ?? "";
    usage = chunk.usage ?? usage;
  }
  assert.equal(streamed, text);
  assert.equal(usage.prompt_tokens_details.cached_tokens, whole.usage.prompt_tokens - 1);
  const runner = openai.chat.completions.stream(asked);
  assert.equal((await runner.finalChatCompletion()).choices[0].message.content, text);
});

test("openai: responses", async () => {
  const asked = { model, input: messages[0].content, max_output_tokens: 24, seed: 5, ignore_eos: true };
  const whole = await openai.responses.create(asked);
  assert.ok(whole.output_text.length > 20);
  const final = await openai.responses.stream(asked).finalResponse();
  assert.equal(final.output_text, whole.output_text);
});

const animal = {
  type: "object",
  properties: { name: { type: "string", maxLength: 16 }, friend: { enum: ["hen", "lion"] } },
  required: ["name", "friend"],
  additionalProperties: false,
};

test("openai: structured output and tools", async () => {
  const reply = await openai.chat.completions.create({ model, messages, seed: 5, max_tokens: 300,
    response_format: { type: "json_schema", json_schema: { name: "animal", schema: animal, strict: true } } });
  assert.deepEqual(Object.keys(JSON.parse(reply.choices[0].message.content)), ["name", "friend"]);
  const asked = { model, messages, seed: 5, max_tokens: 300, tool_choice: "required", parallel_tool_calls: false,
    tools: [{ type: "function", function: { name: "show", parameters: animal } }] };
  const whole = await openai.chat.completions.create(asked);
  assert.equal(whole.choices[0].finish_reason, "tool_calls");
  const [call] = whole.choices[0].message.tool_calls;
  assert.deepEqual(Object.keys(JSON.parse(call.function.arguments)), ["name", "friend"]);
  const streamed = await openai.chat.completions.stream(asked).finalChatCompletion();
  assert.equal(streamed.choices[0].message.tool_calls[0].function.arguments, call.function.arguments);
});

test("ai: generateObject and tools", async () => {
  const asked = { model: vercel(model), messages, seed: 5, maxOutputTokens: 300, maxRetries: 0 };
  const { object } = await generateObject({ ...asked, model: structured(model), schema: jsonSchema(animal) });
  assert.deepEqual(Object.keys(object), ["name", "friend"]);
  const reply = await generateText({ ...asked, toolChoice: "required",
    tools: { show: tool({ description: "Shows it.", inputSchema: jsonSchema(animal) }) } });
  assert.equal(reply.finishReason, "tool-calls");
  assert.equal(reply.toolCalls[0].toolName, "show");
  assert.deepEqual(Object.keys(reply.toolCalls[0].input), ["name", "friend"]);
});

// A model that thinks and calls two tools of its own will (tests/server/scripted_test.py, "all_two").
const city = { type: "object", properties: { city: { type: "string" }, days: { type: "integer" } }, required: ["city", "days"] };
const fed = { type: "object", properties: { animal: { enum: ["goat", "hen"] } }, required: ["animal"] };
const play = [{ role: "user", content: "Please play all_two now." }];
const calls = [["get_weather", { city: "Oruro", days: 4 }], ["feed", { animal: "hen" }]];

test("ai: a model that thinks and calls", async () => {
  const scripted = createOpenAICompatible({ name: "quipu", baseURL: `${process.env.QUIPU_SCRIPTED_URL}/v1` });
  const asked = { model: scripted("scripted"), messages: play, maxRetries: 0, tools: {
    get_weather: tool({ inputSchema: jsonSchema(city) }), feed: tool({ inputSchema: jsonSchema(fed) }) } };
  const stream = streamText(asked);
  for (const reply of [await generateText(asked), stream]) {
    assert.equal(await reply.reasoningText, "Both!");
    assert.equal(await reply.text, "At once:");
    assert.deepEqual((await reply.toolCalls).map((call) => [call.toolName, call.input]), calls);
    assert.equal(await reply.finishReason, "tool-calls");
  }
});

test("openai, anthropic: a model that thinks and calls", async () => {
  const baseURL = process.env.QUIPU_SCRIPTED_URL;
  const chat = new OpenAI({ baseURL: `${baseURL}/v1`, apiKey, maxRetries: 0 }).chat.completions;
  const tools = [["get_weather", city], ["feed", fed]];
  const asked = { model: "scripted", messages: play,
    tools: tools.map(([name, parameters]) => ({ type: "function", function: { name, parameters } })) };
  for (const reply of [await chat.create(asked), await chat.stream(asked).finalChatCompletion()]) {
    const { message, finish_reason } = reply.choices[0];
    assert.equal(message.content, "At once:");
    assert.deepEqual(message.tool_calls.map((call) => [call.function.name, JSON.parse(call.function.arguments)]), calls);
    assert.equal(finish_reason, "tool_calls");
  }
  const messages = new Anthropic({ baseURL, apiKey, maxRetries: 0 }).messages;
  const wanted = { model: "scripted", max_tokens: 500, messages: play,
    tools: tools.map(([name, input_schema]) => ({ name, input_schema })) };
  for (const reply of [await messages.create(wanted), await messages.stream(wanted).finalMessage()]) {
    assert.equal(reply.content[0].thinking, "Both!");
    assert.equal(reply.content[1].text, "At once:");
    assert.deepEqual(reply.content.slice(2).map((block) => [block.name, block.input]), calls);
    assert.equal(reply.stop_reason, "tool_use");
  }
});

test("openai: errors have the library's classes", async () => {
  await assert.rejects(openai.chat.completions.create({ model, messages, temperature: -1 }), (error) =>
    error instanceof OpenAI.BadRequestError && error.param === "temperature" && error.code === "invalid_value");
  await assert.rejects(openai.chat.completions.create({ model: "gpt-x", messages }), OpenAI.NotFoundError);
  await assert.rejects(new OpenAI({ baseURL: `${url}/v1`, apiKey: "wrong", maxRetries: 0 }).models.list(),
    OpenAI.AuthenticationError);
});

test("openai: an aborted stream ends", async () => {
  const controller = new AbortController();
  const stream = await openai.chat.completions.create(
    { model, messages, stream: true, max_tokens: 1500, ignore_eos: true }, { signal: controller.signal });
  let chunks = 0;
  for await (const chunk of stream) {
    assert.equal(chunk.object, "chat.completion.chunk");
    if (++chunks === 3) controller.abort();
  }
  assert.ok(chunks >= 3);
});

test("anthropic: messages, whole and streamed", async () => {
  const asked = { model, messages, max_tokens: 24, system: "Be kind.", seed: 5, ignore_eos: true };
  const whole = await anthropic.messages.create(asked);
  const final = await anthropic.messages.stream(asked).finalMessage();
  assert.ok(whole.content[0].text.length > 20);
  assert.equal(final.content[0].text, whole.content[0].text);
  assert.equal(final.stop_reason, "max_tokens");
  assert.ok(final.usage.cache_read_input_tokens > 0);
  const { input_tokens } = await anthropic.messages.countTokens({ model, messages, system: "Be kind." });
  assert.equal(input_tokens, final.usage.input_tokens + final.usage.cache_read_input_tokens);
});

test("ai: generateText and streamText", async () => {
  const asked = { model: vercel(model), messages, seed: 5, maxOutputTokens: 24, maxRetries: 0 };
  const whole = await generateText(asked);
  assert.ok(whole.text.length > 5);
  assert.ok(["length", "stop"].includes(whole.finishReason));
  const stream = streamText(asked);
  let text = "";
  for await (const piece of stream.textStream) text += piece;
  assert.equal(text, whole.text);
  assert.equal((await stream.usage).outputTokens, whole.usage.outputTokens);
});
