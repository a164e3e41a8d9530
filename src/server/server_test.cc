// The parts of the server that need no socket. tests/server meets the program over HTTP.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "base/random.h"
#include "server/access.h"
#include "server/api_server.h"
#include "server/generation_spec.h"
#include "server/http.h"
#include "server/http_server.h"
#include "server/metrics_text.h"
#include "server/request_id.h"
#include "web/assets.h"

namespace quipu {
namespace {

template <typename T>
std::string message_of(const ApiResult<T>& result) {
  const auto* error = std::get_if<ApiError>(&result);
  return error == nullptr ? "" : error->message;
}

TEST(JsonBody, TakesAnObjectAndNothingElse) {
  EXPECT_EQ(message_of(parse_json_object(R"({"a": [1, {"b": "x"}]})")), "");
  EXPECT_NE(message_of(parse_json_object("[1]")).find("an array; expected an object"),
            std::string::npos);
  EXPECT_NE(message_of(parse_json_object("")).find("not JSON"), std::string::npos);
  EXPECT_NE(message_of(parse_json_object("{\"a\": 1} x")).find("not JSON"), std::string::npos);
  EXPECT_NE(message_of(parse_json_object("{\"a\": \"\xff\"}")).find("not UTF-8 at byte 7"),
            std::string::npos);
  EXPECT_NE(message_of(parse_json_object("{\"a\": NaN}")).find("not JSON"), std::string::npos);
}

TEST(JsonBody, LimitsAreMetBeforeParsing) {
  const auto nested = [](int depth) {
    return "{\"a\": " + std::string(static_cast<size_t>(depth - 1), '[') +
           std::string(static_cast<size_t>(depth - 1), ']') + "}";
  };
  EXPECT_EQ(message_of(parse_json_object(nested(64))), "");
  EXPECT_NE(message_of(parse_json_object(nested(65))).find("deeper than 64"), std::string::npos);
  EXPECT_NE(message_of(parse_json_object(nested(4'000'000))).find("deeper"), std::string::npos);
  // Brackets and colons inside of strings do not count.
  EXPECT_EQ(message_of(parse_json_object("{\"a\": \"" + std::string(1000, '[') + "\\\"[[\"}")), "");
  std::string wide = "{";
  for (int i = 0; i < 1025; ++i) wide += fmt::format("{}\"k{}\": 1", i == 0 ? "" : ",", i);
  EXPECT_NE(message_of(parse_json_object(wide + "}")).find("more than 1024 members"),
            std::string::npos);
}

TEST(Fields, SayWhatWasExpectedAndFound) {
  const Json json = Json::parse(
      R"({"whole": 3, "as_float": 5.0, "half": 0.5, "text": "x", "flag": true, "none": null,
          "huge": 18446744073709551615, "list": ["a", "b"], "bad_list": ["a", 1]})");
  Fields good(json);
  EXPECT_EQ(good.integer("whole", 0, 10), 3);
  EXPECT_EQ(good.integer("as_float", 0, 10), 5);
  EXPECT_EQ(good.number("half", 0, 1), 0.5);
  EXPECT_EQ(good.text("text"), "x");
  EXPECT_EQ(good.boolean("flag"), true);
  EXPECT_EQ(good.integer("none", 0, 1), std::nullopt);
  EXPECT_EQ(good.text("absent"), std::nullopt);
  EXPECT_EQ(good.texts("text", 4), std::vector<std::string>{"x"});
  EXPECT_EQ(good.texts("list", 4), (std::vector<std::string>{"a", "b"}));
  EXPECT_FALSE(good.error().has_value());

  const auto error_of = [&](auto read) {
    Fields fields(json, "messages[2]");
    read(fields);
    return fields.error().value_or(ApiError{.message = "no error"});
  };
  const ApiError range = error_of([](Fields& f) { (void)f.integer("whole", 4, 9); });
  EXPECT_EQ(range.message, "'messages[2].whole' is 3; expected a whole number from 4 to 9");
  EXPECT_EQ(range.param, "messages[2].whole");
  EXPECT_EQ(error_of([](Fields& f) { (void)f.integer("half", 0, 9); }).code, "invalid_value");
  EXPECT_EQ(error_of([](Fields& f) { (void)f.integer("huge", 0, INT64_MAX); }).code,
            "invalid_value");
  EXPECT_EQ(error_of([](Fields& f) { (void)f.boolean("whole"); }).code, "invalid_value");
  EXPECT_EQ(error_of([](Fields& f) { (void)f.text("flag"); }).message,
            "'messages[2].flag' is a boolean; expected a string");
  EXPECT_NE(error_of([](Fields& f) { (void)f.texts("bad_list", 4); }).message, "no error");
  EXPECT_NE(error_of([](Fields& f) { (void)f.texts("list", 1); }).message, "no error");
}

TEST(ApiKeys, OpenTheServerAndKeepTenantsApart) {
  const auto head = [](const char* name, const char* value) {
    HttpHead result;
    result.headers.emplace_back(name, value);
    return result;
  };
  const ApiKeys none;
  ASSERT_TRUE(none.caller_of({}).has_value());
  EXPECT_EQ(none.caller_of({})->tenant, "");
  EXPECT_TRUE(none.caller_of({})->is_operator());
  ApiKeys keys;
  keys.add({.key = "alpha", .tenant = {}, .role = {}});
  keys.add({.key = "beta", .tenant = {}, .role = {}});
  const auto tenant_of = [&](const HttpHead& asks) {
    const std::optional<Caller> caller = keys.caller_of(asks);
    return caller.has_value() ? std::optional(caller->tenant) : std::nullopt;
  };
  const auto alpha = tenant_of(head("authorization", "Bearer alpha"));
  ASSERT_TRUE(alpha.has_value());
  EXPECT_EQ(tenant_of(head("authorization", "bearer alpha")), alpha);
  EXPECT_EQ(tenant_of(head("x-api-key", "alpha")), alpha);
  EXPECT_NE(tenant_of(head("x-api-key", "beta")), alpha);
  EXPECT_EQ(alpha->find("alpha"), std::string::npos);
  for (const char* wrong : {"", "alph", "alphaa", "Alpha", "Bearer alpha"})
    EXPECT_EQ(tenant_of(head("x-api-key", wrong)), std::nullopt) << wrong;
  EXPECT_EQ(tenant_of(head("authorization", "Basic alpha")), std::nullopt);
  EXPECT_EQ(tenant_of({}), std::nullopt);
}

TEST(ApiKeys, RolesAndTenants) {
  const auto caller = [](std::initializer_list<const char*> lines, const char* key) {
    ApiKeys keys;
    for (const char* line : lines) keys.add(ApiKey::parse(line).value());
    HttpHead head;
    head.headers.emplace_back("x-api-key", key);
    return keys.caller_of(head).value();
  };
  // Who is alone sees all; with others, who is said to.
  EXPECT_TRUE(caller({"a"}, "a").is_operator());
  EXPECT_TRUE(caller({"a tenant=x", "b  tenant=x"}, "b").is_operator());
  EXPECT_FALSE(caller({"a role=user"}, "a").is_operator());
  EXPECT_FALSE(caller({"a", "b"}, "a").is_operator());
  EXPECT_TRUE(caller({"a", "b\trole=operator tenant=ops\r"}, "b").is_operator());
  // Keys of one tenant share; a name is never another's beginning, nor what a key alone becomes.
  const std::initializer_list<const char*> lines = {"a tenant=x", "b tenant=x", "c tenant=xy", "d"};
  EXPECT_EQ(caller(lines, "a").tenant, caller(lines, "b").tenant);
  EXPECT_FALSE(caller(lines, "c").tenant.starts_with(caller(lines, "a").tenant));
  EXPECT_FALSE(caller(lines, "a").sees(caller(lines, "c").tenant));
  EXPECT_TRUE(caller(lines, "a").sees(caller(lines, "b").tenant));
  EXPECT_EQ(tenant_label(caller(lines, "c").tenant), "xy");
  EXPECT_EQ(tenant_label(caller(lines, "d").tenant).substr(0, 4), "key ");
  for (const char* wrong :
       {"secret role=boss", "secret tenant=", "secret tenant=a/b", "secret word",
        "secret role=user role=user", "secret tenant=a tenant=b"}) {
    const Result<ApiKey> parsed = ApiKey::parse(wrong);
    ASSERT_FALSE(parsed.ok()) << wrong;
    EXPECT_EQ(parsed.status().message().find("secret"), std::string::npos);
  }
}

TEST(Codings, AreTakenAsTheHeaderSays) {
  for (const char* takes : {"gzip", "GZIP", "deflate, gzip", "gzip;q=0.5", "gzip ; q=1.0", "*",
                            "br, *;q=0.1", "*;q=0, gzip", "identity;q=0,gzip", " gzip ,"})
    EXPECT_TRUE(accepts_coding(takes, "gzip")) << takes;
  for (const char* refuses : {"", "identity", "deflate, br", "gzip;q=0", "gzip;q=0.000",
                              "*, gzip;q=0", "*;q=0", "xgzip", "gzipx", ";", ","})
    EXPECT_FALSE(accepts_coding(refuses, "gzip")) << refuses;
}

TEST(Hosts, NamesAndLoopback) {
  EXPECT_EQ(host_name_of("LocalHost:8080"), "localhost");
  EXPECT_EQ(host_name_of("127.0.0.1"), "127.0.0.1");
  EXPECT_EQ(host_name_of("[::1]:80"), "::1");
  EXPECT_EQ(host_name_of("[::1"), "::1");
  EXPECT_EQ(host_name_of(""), "");
  EXPECT_EQ(host_name_of("["), "");
  EXPECT_TRUE(is_loopback_host("127.3.2.1"));
  EXPECT_TRUE(is_loopback_host("::1"));
  EXPECT_TRUE(is_loopback_host("localhost"));
  EXPECT_FALSE(is_loopback_host("0.0.0.0"));
  EXPECT_FALSE(is_loopback_host("localhost.evil.example"));
}

// A route that the API's description lacks, or one that is only there, is a defect.
TEST(ApiServer, EveryRouteIsDescribedAndNothingElse) {
  std::set<std::pair<std::string, std::string>> served, described;
  for (auto [method, path] : ApiServer::routes()) {
    if (path.ends_with("*")) path = path.substr(0, path.size() - 1) + "{}";
    served.emplace(method, path);
  }
  const auto asset = std::ranges::find(web_assets(), "/web/openapi.json", &WebAsset::path);
  ASSERT_NE(asset, web_assets().end());
  const Json document = Json::parse(asset->content);
  for (const auto& [path, operations] : document["paths"].items()) {
    const size_t begin = path.find('{');
    const std::string plain = begin == std::string::npos ? path : path.substr(0, begin) + "{}";
    for (const auto& [method, operation] : operations.items())
      described.emplace(method == "get" ? "GET" : "POST", plain);
  }
  EXPECT_EQ(served, described);
}

TEST(Paths, PercentCodesAreDecodedAndOtherTextStays) {
  EXPECT_EQ(percent_decoded("org%2Fmodel%3A7b"), "org/model:7b");
  EXPECT_EQ(percent_decoded("%e4%BD%a0"), "\xe4\xbd\xa0");
  for (const char* plain : {"", "%", "%2", "%zz", "a%", "100%-", "%+1"})
    EXPECT_EQ(percent_decoded(plain), plain);
}

TEST(RequestIds, KeepPlainNamesAndMakeTheRest) {
  RequestIds ids;
  EXPECT_EQ(ids.next("trace-1.a_B"), "trace-1.a_B");
  const std::string made = ids.next("");
  EXPECT_NE(made, ids.next(""));
  EXPECT_NE(ids.next("a\r\nSet-Cookie: x"), "a\r\nSet-Cookie: x");
  EXPECT_NE(ids.next(std::string(65, 'a')), std::string(65, 'a'));
}

TEST(HistogramTest, CountsByUpperBound) {
  static constexpr double kBounds[] = {1, 2, 4};
  Histogram histogram(kBounds);
  for (const double value : {0.5, 1.0, 1.5, 4.0, 9.0}) histogram.observe(value);
  EXPECT_EQ(std::vector<uint64_t>(histogram.counts().begin(), histogram.counts().end()),
            (std::vector<uint64_t>{2, 1, 1, 1}));
  EXPECT_EQ(histogram.total(), 5u);
  EXPECT_EQ(histogram.sum(), 16);
}

// ---- requests: with the tokenizer of the built-in model

class Requests : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    ModelOptions options;
    options.model = std::filesystem::path(QUIPU_SOURCE_DIR) / "models" / "quipu-stories-q8_0.gguf";
    if (!std::filesystem::exists(options.model)) return;
    options.threads = 1;
    options.kv_bytes = uint64_t{16} << 20;
    model_ = assemble(options).value();
    served_.emplace(ServedModel::create(*model_, {"stories", "other"}, 4).value());
  }
  static void TearDownTestSuite() {
    served_.reset();
    model_.reset();
  }
  void SetUp() override {
    if (!served_.has_value()) GTEST_SKIP() << "the built-in model is not there";
  }

  static ApiResult<GenerationSpec> chat(const std::string& members) {
    const std::string body = R"({"messages": [{"role": "user", "content": "Hello"}])" +
                             (members.empty() ? "" : ", " + members) + "}";
    return read_chat_request(Json::parse(body), *served_, "tenant:");
  }
  static ApiResult<GenerationSpec> completion(const std::string& body) {
    return read_completion_request(Json::parse(body), *served_, "");
  }
  static ApiResult<GenerationSpec> llama(const std::string& body) {
    return read_llama_request(Json::parse(body), *served_, "");
  }
  static ApiError error_of(const ApiResult<GenerationSpec>& result) {
    const auto* error = std::get_if<ApiError>(&result);
    return error == nullptr ? ApiError{.status = 0, .message = "no error"} : *error;
  }
  static GenerationSpec spec_of(ApiResult<GenerationSpec> result) {
    EXPECT_EQ(message_of(result), "");
    auto* spec = std::get_if<GenerationSpec>(&result);
    return spec == nullptr ? GenerationSpec{} : std::move(*spec);
  }

  static std::unique_ptr<LoadedModel> model_;
  static std::optional<ServedModel> served_;
};
std::unique_ptr<LoadedModel> Requests::model_;
std::optional<ServedModel> Requests::served_;

TEST_F(Requests, DefaultsAreThoseOfEachApi) {
  const GenerationSpec a = spec_of(chat(""));
  EXPECT_EQ(a.params.sampling.temperature, 1);
  EXPECT_EQ(a.params.sampling.top_k, 0);
  EXPECT_GT(a.params.max_tokens, 1'000'000);
  EXPECT_EQ(a.params.cache_salt, "tenant:");
  EXPECT_EQ(a.choices, 1);
  EXPECT_FALSE(a.params.top_logprobs.has_value());
  EXPECT_GT(a.prompts.front().tokens.size(), 2u);
  EXPECT_NE(a.params.sampling.seed, spec_of(chat("")).params.sampling.seed);
  EXPECT_EQ(spec_of(completion(R"({"prompt": "x"})")).params.max_tokens, 16);
  const GenerationSpec b = spec_of(llama(R"({"prompt": "x"})"));
  EXPECT_FLOAT_EQ(b.params.sampling.temperature, 0.8f);
  EXPECT_EQ(b.params.sampling.top_k, 40);
}

TEST_F(Requests, EveryFieldArrives) {
  const GenerationSpec spec = spec_of(chat(
      R"("model": "other", "temperature": 0.5, "top_p": 0.9, "top_k": 7, "min_p": 0.1,
         "repetition_penalty": 1.1, "presence_penalty": 0.2, "frequency_penalty": -0.3,
         "logit_bias": {"5": -100, "6": 1.5}, "seed": 9, "stop": ["a", "b"], "n": 3,
         "max_tokens": 5, "max_completion_tokens": 7, "logprobs": true, "top_logprobs": 2,
         "stream": true, "stream_options": {"include_usage": true}, "cache_salt": "s",
         "priority": -4, "user": "ignored", "response_format": {"type": "text"}, "tools": [],
         "tool_choice": "none")"));
  const SamplingParams& sampling = spec.params.sampling;
  EXPECT_FLOAT_EQ(sampling.temperature, 0.5f);
  EXPECT_FLOAT_EQ(sampling.top_p, 0.9f);
  EXPECT_EQ(sampling.top_k, 7);
  EXPECT_FLOAT_EQ(sampling.min_p, 0.1f);
  EXPECT_FLOAT_EQ(sampling.repetition_penalty, 1.1f);
  EXPECT_FLOAT_EQ(sampling.presence_penalty, 0.2f);
  EXPECT_FLOAT_EQ(sampling.frequency_penalty, -0.3f);
  EXPECT_EQ(sampling.logit_bias, (std::vector<std::pair<TokenId, float>>{{5, -100}, {6, 1.5f}}));
  EXPECT_EQ(sampling.seed, 9u);
  EXPECT_EQ(spec.params.stop, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(spec.params.max_tokens, 7);
  EXPECT_EQ(spec.params.top_logprobs, 2);
  EXPECT_EQ(spec.params.cache_salt, "tenant:s");
  EXPECT_EQ(spec.choices, 3);
  EXPECT_EQ(spec.priority, -4);
  EXPECT_TRUE(spec.stream && spec.include_usage);
  EXPECT_TRUE(sampling.validate().ok());
}

TEST_F(Requests, WhatIsNotThereIsRefusedByName) {
  const std::pair<const char*, const char*> cases[] = {
      {R"("tools": [{"type": "web_search"}])", "tools[0].type"},
      {R"("functions": [{"name": "f"}])", "functions"},
      {R"("modalities": ["audio"])", "modalities"},
      {R"("chat_template": "x")", "chat_template"},
      {R"("structured_outputs": {"structural_tag": "x"})", "structured_outputs.structural_tag"},
  };
  for (const auto& [members, param] : cases) {
    const ApiError error = error_of(chat(members));
    EXPECT_EQ(error.status, 501) << members;
    EXPECT_EQ(error.param, param) << members;
    EXPECT_EQ(error.code, "not_supported") << members;
  }
  EXPECT_EQ(error_of(llama(R"({"prompt": "x", "grammar": "root ::= \"a\""})")).status, 0);
  EXPECT_EQ(error_of(llama(R"({"prompt": "x", "grammar": "root ::= \"a"})")).param, "grammar");
  EXPECT_EQ(error_of(llama(R"({"prompt": "x", "mirostat": 2})")).param, "mirostat");
  EXPECT_EQ(error_of(llama(R"({"prompt": "x", "typical_p": 0.5})")).param, "typical_p");
  EXPECT_EQ(error_of(llama(R"({"prompt": "x", "mirostat": 0, "typical_p": 1})")).status, 0);
  EXPECT_EQ(error_of(completion(R"({"prompt": "x", "suffix": "y"})")).param, "suffix");
  EXPECT_EQ(error_of(completion(R"({"prompt": "x", "best_of": 4})")).param, "best_of");
}

TEST_F(Requests, WhatIsWrongIsNamed) {
  const auto check = [](const ApiResult<GenerationSpec>& result, int status, const char* param,
                        const char* code) {
    const ApiError error = error_of(result);
    EXPECT_EQ(error.status, status) << error.message;
    EXPECT_EQ(error.param.value_or(""), param) << error.message;
    EXPECT_EQ(error.code.value_or(""), code) << error.message;
  };
  check(chat(R"("temperature": -1)"), 400, "temperature", "invalid_value");
  check(chat(R"("temperature": "hot")"), 400, "temperature", "invalid_type");
  check(chat(R"("n": 0)"), 400, "n", "invalid_value");
  check(chat(R"("top_logprobs": 2)"), 400, "top_logprobs", "invalid_value");
  check(chat(R"("logit_bias": {"x": 1})"), 400, "logit_bias", "invalid_value");
  check(chat(R"("logit_bias": {"99999999": 1})"), 400, "logit_bias", "invalid_value");
  check(chat(R"("logit_bias": {"1": "x"})"), 400, "logit_bias", "invalid_value");
  check(chat(R"("stop": [""])"), 400, "stop", "invalid_value");
  check(chat(R"("stream_options": {"include_usage": 3})"), 400, "stream_options.include_usage",
        "invalid_value");
  check(chat(R"("model": "gpt-x")"), 404, "model", "model_not_found");
  const auto messages = [](const char* text) {
    return read_chat_request(Json::parse(fmt::format("{{\"messages\": {}}}", text)), *served_, "");
  };
  check(messages("[]"), 400, "messages", "missing_required_parameter");
  check(messages("[3]"), 400, "messages[0]", "invalid_type");
  check(messages(R"([{"content": "x"}])"), 400, "messages[0].role", "missing_required_parameter");
  check(messages(R"([{"role": "user", "content": 3}])"), 400, "messages[0].content",
        "invalid_type");
  check(messages(R"([{"role": "user", "content": [{"type": "image_url"}]}])"), 501,
        "messages[0].content[0]", "not_supported");
  check(messages(R"([{"role": "user", "content": [{"type": 7}]}])"), 501, "messages[0].content[0]",
        "not_supported");
  check(completion(R"({"prompt": []})"), 400, "prompt", "missing_required_parameter");
  check(completion(R"({"prompt": [1, -2]})"), 400, "prompt", "invalid_value");
  check(completion(R"({"prompt": [1, 99999999]})"), 400, "prompt", "invalid_value");
  check(completion(R"({"prompt": {"a": 1}})"), 400, "prompt", "missing_required_parameter");
  check(completion(R"({"prompt": ["a", 3]})"), 400, "prompt", "invalid_type");
}

TEST_F(Requests, APromptThatCanNeverFitIsRefusedWithTheNumbers) {
  const Json body = {{"prompt", std::vector<int>(100'000, 5)}};
  const ApiError error = error_of(read_completion_request(body, *served_, ""));
  EXPECT_EQ(error.status, 400);
  EXPECT_EQ(error.code, "context_length_exceeded");
  EXPECT_NE(error.message.find("100000"), std::string::npos);
  EXPECT_NE(error.message.find(std::to_string(served_->token_limit())), std::string::npos);
}

TEST_F(Requests, PromptsInAllForms) {
  EXPECT_EQ(spec_of(completion(R"({"prompt": [5, 6, 7]})")).prompts.front().tokens,
            (std::vector<TokenId>{5, 6, 7}));
  const GenerationSpec two = spec_of(completion(R"({"prompt": ["one", "two"], "n": 2})"));
  ASSERT_EQ(two.prompts.size(), 2u);
  EXPECT_EQ(two.prompts[1].text, "two");
  EXPECT_EQ(spec_of(completion(R"({"prompt": [[5], [6, 7]]})")).prompts[1].tokens.size(), 2u);
  // Parts of a message that are all text are one text.
  const auto tokens = [](const char* content) {
    const std::string body =
        fmt::format(R"({{"messages": [{{"role": "user", "content": {}}}]}})", content);
    return spec_of(read_chat_request(Json::parse(body), *served_, "")).prompts.front().tokens;
  };
  EXPECT_EQ(tokens(R"([{"type": "text", "text": "Hello "}, {"type": "text", "text": "you"}])"),
            tokens(R"("Hello you")"));
}

// Bodies with bytes and members changed at random: an answer or an error, never anything else.
TEST_F(Requests, MutatedBodiesAreAnsweredOrRefused) {
  const std::string seeds[] = {
      R"({"model":"stories","messages":[{"role":"system","content":"Be brief."},)"
      R"({"role":"user","content":[{"type":"text","text":"Hi \u00e9 \ud83d\ude00"}]}],)"
      R"("temperature":0.7,"n":2,"stop":["\n",". "],"logit_bias":{"12":-3.5},"seed":-5,)"
      R"("logprobs":true,"top_logprobs":3,"stream":true,"stream_options":{"include_usage":true}})",
      R"({"prompt":["Once upon",[1,2,3]],"max_tokens":4,"echo":true,"logprobs":2,"top_k":-1})",
      R"({"prompt":[5,6],"n_predict":-1,"logit_bias":[[3,1.5],[4,false]],"mirostat":0,"n_probs":2})",
      R"({"system":[{"type":"text","text":"Be brief."}],"messages":[{"role":"user","content":"Hi"}],)"
      R"("max_tokens":5,"stop_sequences":["x"],"thinking":{"type":"disabled"}})",
      R"({"input":[{"role":"user","content":[{"type":"input_text","text":"Hi"}]}],)"
      R"("instructions":"Be brief.","max_output_tokens":3,"text":{"format":{"type":"text"}}})",
      R"({"content":"a <|im_end|> b","tokens":[1,2,9],"with_pieces":true})"};
  const char* const pieces[] = {
      "null", "[",     "]",    "{",  "}",  "\"",    ",",       ":",
      "-1",   "1e999", "true", "[]", "{}", "\"x\"", "\\u0000", "99999999999999999999",
      "\\"};
  Random random(11);
  int parsed = 0, accepted = 0;
  for (int round = 0; round < 6000; ++round) {
    std::string body = seeds[random.next_below(std::size(seeds))];
    for (uint64_t edits = random.next_below(4); edits > 0; --edits) {
      const size_t at = random.next_below(body.size());
      switch (random.next_below(3)) {
        case 0: body[at] = static_cast<char>(random.next_below(256)); break;
        case 1: body.insert(at, pieces[random.next_below(std::size(pieces))]); break;
        default: body.erase(at, 1 + random.next_below(8)); break;
      }
      if (body.empty()) body = "{";
    }
    const ApiResult<Json> json = parse_json_object(body);
    if (std::holds_alternative<ApiError>(json)) continue;
    ++parsed;
    const Json& object = std::get<Json>(json);
    for (const auto read : {read_chat_request, read_completion_request, read_llama_request,
                            read_responses_request, read_anthropic_request}) {
      const ApiResult<GenerationSpec> result = read(object, *served_, "");
      if (const auto* spec = std::get_if<GenerationSpec>(&result)) {
        ++accepted;
        ASSERT_TRUE(spec->params.sampling.validate().ok()) << body;
        ASSERT_FALSE(spec->prompts.empty()) << body;
      } else {
        ASSERT_FALSE(std::get<ApiError>(result).message.empty()) << body;
      }
    }
  }
  EXPECT_GT(parsed, 1000);
  EXPECT_GT(accepted, 500);
}

}  // namespace
}  // namespace quipu
