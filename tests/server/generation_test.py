"""What comes out: whole and streamed, alone and in company, from the cache and without it."""

import concurrent.futures
import math
import unittest

from quipu_server import ServerTest, parse_events

CHAT_PATH, TEXT_PATH = "/v1/chat/completions", "/v1/completions"
CHAT = {"messages": [{"role": "user", "content": "Tell me about the goat."}], "max_tokens": 30, "seed": 5}
TEXT = {"prompt": "Once upon a time", "max_tokens": 30, "seed": 5}


def chat_text(events):
    return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in events
                   if chunk != "[DONE]" and chunk["choices"])


class Generation(ServerTest):
    flags = ("--chunk", "64")

    def test_a_stream_says_what_the_whole_reply_says(self):
        whole = self.server.post(CHAT_PATH, CHAT)
        events = self.server.events(CHAT_PATH, {**CHAT, "stream_options": {"include_usage": True}})
        self.assertEqual(events[-1], "[DONE]")
        self.assertEqual(chat_text(events), whole["choices"][0]["message"]["content"])
        self.assertEqual(events[0]["choices"][0]["delta"]["role"], "assistant")
        finishes = [chunk["choices"][0]["finish_reason"] for chunk in events[:-2]]
        self.assertEqual(finishes[:-1], [None] * (len(finishes) - 1))
        self.assertEqual(finishes[-1], whole["choices"][0]["finish_reason"])
        usage = events[-2]
        self.assertEqual(usage["choices"], [])
        self.assertEqual(usage["usage"]["completion_tokens"], whole["usage"]["completion_tokens"])
        self.assertEqual(usage["usage"]["prompt_tokens"], whole["usage"]["prompt_tokens"])
        self.assertTrue(all(chunk["usage"] is None for chunk in events[:-2]))

        whole = self.server.post(TEXT_PATH, TEXT)
        events = self.server.events(TEXT_PATH, TEXT)
        self.assertEqual("".join(chunk["choices"][0]["text"] for chunk in events[:-1]), whole["choices"][0]["text"])
        self.assertNotIn("usage", events[0])

    def test_the_same_seed_gives_the_same_text_and_another_another(self):
        texts = [self.server.post(TEXT_PATH, {**TEXT, "seed": seed})["choices"][0]["text"] for seed in (1, 1, 2)]
        self.assertEqual(texts[0], texts[1])
        self.assertNotEqual(texts[0], texts[2])

    def test_a_seeded_request_is_the_same_alone_and_among_fifteen_others(self):
        body = {**TEXT, "max_tokens": 60, "seed": 77, "cache_salt": "alone"}
        alone = self.server.post(TEXT_PATH, body)["choices"][0]["text"]
        prompts = ["The lion said", "Once upon a time", "In the forest there lived a", "Mama and I"]
        others = [{"prompt": prompts[i % 4], "max_tokens": 60, "seed": i, "stream": i % 2 == 0} for i in range(15)]
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            running = [pool.submit(lambda other: self.server.send("POST", TEXT_PATH, other).read(), other)
                       for other in others[:8]]
            mine = pool.submit(self.server.post, TEXT_PATH, {**body, "cache_salt": "among"})
            running += [pool.submit(lambda other: self.server.send("POST", TEXT_PATH, other).read(), other)
                        for other in others[8:]]
            self.assertEqual(mine.result()["choices"][0]["text"], alone)
            for other in running:
                self.assertGreater(len(other.result()), 0)

    def test_several_choices_and_several_prompts(self):
        reply = self.server.post(TEXT_PATH, {**TEXT, "prompt": ["The lion", "The hare"], "n": 2})
        self.assertEqual([choice["index"] for choice in reply["choices"]], [0, 1, 2, 3])
        texts = [choice["text"] for choice in reply["choices"]]
        self.assertEqual(len(set(texts)), 4)
        for i, prompt in enumerate(("The lion", "The hare")):  # choice i draws with seed + i
            for j in range(2):
                one = self.server.post(TEXT_PATH, {**TEXT, "prompt": prompt, "seed": TEXT["seed"] + j})
                self.assertEqual(one["choices"][0]["text"], texts[2 * i + j])
        events = self.server.events(CHAT_PATH, {**CHAT, "n": 3})
        self.assertEqual({chunk["choices"][0]["index"] for chunk in events[:-1]}, {0, 1, 2})
        finishes = [chunk for chunk in events[:-1] if chunk["choices"][0]["finish_reason"]]
        self.assertEqual(len(finishes), 3)

    def test_stop_strings(self):
        body = {**TEXT, "temperature": 0, "max_tokens": 40}
        whole = self.server.post(TEXT_PATH, body)["choices"][0]["text"]
        stop = whole[20:24]
        reply = self.server.post(TEXT_PATH, {**body, "stop": ["never said", stop]})["choices"][0]
        self.assertEqual(reply["text"], whole[:whole.index(stop)])
        self.assertEqual(reply["finish_reason"], "stop")
        events = self.server.events(TEXT_PATH, {**body, "stop": stop})
        self.assertEqual("".join(chunk["choices"][0]["text"] for chunk in events[:-1]), whole[:whole.index(stop)])
        self.server.wait_until(self.server.is_idle, "a stopped output gives its place back")

    def test_log_probabilities(self):
        reply = self.server.post(CHAT_PATH, {**CHAT, "temperature": 0, "logprobs": True, "top_logprobs": 4})
        choice = reply["choices"][0]
        content = choice["logprobs"]["content"]
        self.assertEqual(len(content), reply["usage"]["completion_tokens"])
        for token in content:
            self.assertEqual(token["token"], token["top_logprobs"][0]["token"])
            self.assertLessEqual(sum(math.exp(top["logprob"]) for top in token["top_logprobs"]), 1 + 1e-5)
        spelt = b"".join(bytes(token["bytes"]) for token in content).decode()
        self.assertTrue(spelt.startswith(choice["message"]["content"]), (spelt, choice))
        streamed = self.server.events(CHAT_PATH, {**CHAT, "temperature": 0, "logprobs": True, "top_logprobs": 4})
        pieces = [piece for chunk in streamed[:-1] for piece in (chunk["choices"][0]["logprobs"] or {}).get("content", [])]
        self.assertEqual(pieces, content)
        legacy = self.server.post(TEXT_PATH, {**TEXT, "temperature": 0, "logprobs": 2})["choices"][0]["logprobs"]
        self.assertEqual(len(legacy["tokens"]), len(legacy["token_logprobs"]))
        self.assertEqual(legacy["text_offset"][1], len(legacy["tokens"][0].encode()))

    def test_logit_bias_and_echo(self):
        body = {**TEXT, "temperature": 0, "max_tokens": 1, "logprobs": 0}
        token = self.server.post("/completion", {"prompt": TEXT["prompt"], "n_predict": 1, "temperature": 0,
                                                 "return_tokens": True})["tokens"][0]
        first = self.server.post(TEXT_PATH, body)["choices"][0]["text"]
        other = self.server.post(TEXT_PATH, {**body, "logit_bias": {str(token): -100}})["choices"][0]["text"]
        self.assertNotEqual(first, other)
        echoed = self.server.post(TEXT_PATH, {**TEXT, "temperature": 0, "max_tokens": 1, "echo": True})
        self.assertEqual(echoed["choices"][0]["text"], TEXT["prompt"] + first)

    def test_cached_tokens_are_counted_in_both_forms(self):
        body = {"prompt": "A long story about a crocodile and a monkey in a tree. " * 6, "max_tokens": 2, "seed": 1}
        cold = self.server.post(TEXT_PATH, body)["usage"]
        warm = self.server.post(TEXT_PATH, body)["usage"]
        self.assertEqual(cold["prompt_tokens_details"]["cached_tokens"], 0)
        self.assertEqual(warm["prompt_tokens_details"]["cached_tokens"], warm["prompt_tokens"] - 1)
        events = self.server.events(TEXT_PATH, {**body, "stream_options": {"include_usage": True}})
        self.assertEqual(events[-2]["usage"], warm)
        salted = self.server.post(TEXT_PATH, {**body, "cache_salt": "other"})["usage"]
        self.assertEqual(salted["prompt_tokens_details"]["cached_tokens"], 0)
        off = self.server.post("/completion", {"prompt": body["prompt"], "n_predict": 1, "cache_prompt": False})
        self.assertEqual(off["timings"]["cache_n"], 0)

    def test_choices_of_one_prompt_share_it(self):
        body = {"prompt": "A tortoise walked to the market with a drum and a basket. " * 6, "max_tokens": 4, "n": 4,
                "cache_salt": "choices"}
        before = self.server.get("/v1/kv")["counters"]["tokens_reused"]
        usage = self.server.post(TEXT_PATH, body)["usage"]
        reused = self.server.get("/v1/kv")["counters"]["tokens_reused"] - before
        self.assertGreaterEqual(reused, 3 * 32)
        self.assertEqual(usage["prompt_tokens_details"]["cached_tokens"], 0)  # the first computed it
        self.assertEqual(usage["completion_tokens"], 16)

    def test_llama_completion(self):
        body = {"prompt": "Once upon a time", "n_predict": 20, "seed": 3, "temperature": 0.7, "return_tokens": True,
                "n_probs": 2}
        whole = self.server.post("/completion", body)
        self.assertEqual((whole["stop"], whole["stop_type"], len(whole["tokens"])), (True, "limit", 20))
        self.assertEqual(whole["timings"]["predicted_n"], 20)
        self.assertEqual(whole["timings"]["prompt_n"] + whole["timings"]["cache_n"], whole["tokens_evaluated"])
        self.assertEqual(len(whole["completion_probabilities"]), 20)
        self.assertEqual(whole["generation_settings"]["seed"], 3)
        events = self.server.events("/completion", body)
        self.assertEqual("".join(chunk["content"] for chunk in events), whole["content"])
        self.assertEqual([chunk["stop"] for chunk in events], [False] * (len(events) - 1) + [True])
        word = self.server.post("/completion", {**body, "stop": whole["content"][8:12]})
        self.assertEqual((word["stop_type"], word["stopping_word"]), ("word", whole["content"][8:12]))

    def test_progress_of_a_long_prompt(self):
        prompt = "The children planted a tree beside the well and sang. " * 25
        events = self.server.events("/completion", {"prompt": prompt, "n_predict": 2, "return_progress": True})
        progress = [chunk["prompt_progress"] for chunk in events if "prompt_progress" in chunk]
        self.assertGreaterEqual(len(progress), 2)  # chunks of 64 tokens, though a slow reader sees them joined
        processed = [step["processed"] for step in progress]
        self.assertEqual(processed, sorted(processed))
        self.assertEqual({step["total"] for step in progress}, {events[-1]["tokens_evaluated"]})

    def test_only_computing_the_prompt(self):
        reply = self.server.post(TEXT_PATH, {**TEXT, "max_tokens": 0})
        self.assertEqual((reply["choices"][0]["text"], reply["choices"][0]["finish_reason"]), ("", "length"))
        self.assertEqual(reply["usage"]["completion_tokens"], 0)

    def test_the_context_ends_an_output_that_nothing_else_ends(self):
        limit = self.server.ready["token_limit"]
        reply = self.server.post("/completion", {"prompt": [5] * (limit - 20), "n_predict": -1, "ignore_eos": True})
        self.assertEqual((reply["stop_type"], reply["truncated"]), ("limit", True))
        self.assertLessEqual(reply["tokens_evaluated"] + reply["tokens_predicted"], limit)


class OtherApis(ServerTest):
    """OpenAI's responses and Anthropic's messages say what a chat says."""

    def setUp(self):
        self.chat = self.server.post(CHAT_PATH, CHAT)
        self.text = self.chat["choices"][0]["message"]["content"]
        self.assertGreater(len(self.text), 10)

    def test_anthropic_messages(self):
        body = {"messages": CHAT["messages"], "max_tokens": 30, "seed": 5}
        whole = self.server.post("/v1/messages", body, headers={"Anthropic-Version": "2023-06-01"})
        self.assertEqual(whole["content"], [{"type": "text", "text": self.text}])
        usage = whole["usage"]
        self.assertEqual(usage["input_tokens"] + usage["cache_read_input_tokens"], self.chat["usage"]["prompt_tokens"])
        self.assertGreater(usage["cache_read_input_tokens"], 0)
        self.assertEqual(whole["stop_reason"], {"length": "max_tokens", "stop": "end_turn"}[
            self.chat["choices"][0]["finish_reason"]])
        events = self.server.events("/v1/messages", body)
        kinds = [event["type"] for event in events]
        self.assertEqual(kinds[:2] + kinds[-3:], ["message_start", "content_block_start", "content_block_stop",
                                                  "message_delta", "message_stop"])
        self.assertEqual("".join(event["delta"]["text"] for event in events if event["type"] == "content_block_delta"),
                         self.text)
        word = self.text[4:8]
        stopped = self.server.post("/v1/messages", {**body, "stop_sequences": [word]})
        self.assertEqual((stopped["stop_reason"], stopped["stop_sequence"]), ("stop_sequence", word))
        count = self.server.post("/v1/messages/count_tokens", {"messages": CHAT["messages"]})
        self.assertEqual(count, {"input_tokens": self.chat["usage"]["prompt_tokens"]})
        system = self.server.post("/v1/messages/count_tokens", {"messages": CHAT["messages"], "system": [
            {"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}}]})
        self.assertGreater(system["input_tokens"], count["input_tokens"])

    def test_anthropic_errors(self):
        for body, kind, status in (({"messages": CHAT["messages"]}, "invalid_request_error", 400),
                                   ({"messages": [{"role": "system", "content": "x"}], "max_tokens": 1},
                                    "invalid_request_error", 400),
                                   ({"messages": CHAT["messages"], "max_tokens": 1, "model": "claude"}, "not_found_error", 404),
                                   ({"messages": CHAT["messages"], "max_tokens": 1, "mcp_servers": [{"name": "x"}]},
                                    "invalid_request_error", 501)):
            error = self.server.post("/v1/messages", body, status=status)
            self.assertEqual((error["type"], error["error"]["type"]), ("error", kind))

    def test_responses(self):
        body = {"input": CHAT["messages"][0]["content"], "max_output_tokens": 30, "seed": 5}
        whole = self.server.post("/v1/responses", body)
        self.assertEqual(whole["output"][0]["content"][0]["text"], self.text)
        self.assertEqual(whole["usage"]["input_tokens"], self.chat["usage"]["prompt_tokens"])
        self.assertGreater(whole["usage"]["input_tokens_details"]["cached_tokens"], 0)
        items = [{"role": "user", "content": [{"type": "input_text", "text": body["input"]}]}]
        self.assertEqual(self.server.post("/v1/responses", {**body, "input": items})["output"][0]["content"],
                         whole["output"][0]["content"])
        events = self.server.events("/v1/responses", body)
        self.assertEqual([event["sequence_number"] for event in events], list(range(len(events))))
        self.assertEqual("".join(event["delta"] for event in events if event["type"] == "response.output_text.delta"),
                         self.text)
        self.assertEqual(events[-1]["response"]["output"][0]["content"], whole["output"][0]["content"])
        self.assertEqual(events[-1]["type"], "response." + whole["status"])
        self.refused(501, "POST", "/v1/responses", {**body, "previous_response_id": "resp_1"}, param="previous_response_id")
        self.refused(501, "POST", "/v1/responses", {**body, "tools": [{"type": "web_search"}]}, param="tools[0].type")
        self.refused(400, "POST", "/v1/responses", {}, param="input")


class Pings(ServerTest):
    flags = ("--sse-ping-interval", "0.001", "--chunk", "16")

    def test_a_silent_stream_has_pings(self):
        body = {"prompt": "The hyena hid behind the rock and waited for the rain. " * 40, "max_tokens": 2, "stream": True}
        text = self.server.send("POST", TEXT_PATH, body).read().decode()
        self.assertIn(": ping\n\n", text)
        self.assertEqual(parse_events(text)[-1], "[DONE]")


if __name__ == "__main__":
    unittest.main()
