#include "text/chat_template.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

namespace quipu {
namespace {

using Json = nlohmann::ordered_json;

const std::string kTemplates = std::string(QUIPU_SHARED_DIR) + "/data/templates/";
const std::string kGolden = std::string(QUIPU_SOURCE_DIR) + "/tests/golden/templates/expected.json";

std::string read_all(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

std::string fnv1a(std::string_view text) {
  uint64_t value = 0xcbf29ce484222325;
  for (const char c : text) value = (value ^ static_cast<uint8_t>(c)) * 0x100000001b3;
  return fmt::format("{:016x}", value);
}

Result<std::string> render(std::string_view source, const Json& messages, const Json& tools = {},
                           const ChatRenderOptions& options = {}) {
  QUIPU_ASSIGN_OR_RETURN(const ChatTemplate chat,
                         ChatTemplate::compile(source, {"<s>", "</s>", "", ""}));
  return chat.render(messages, tools, options);
}

const Json kHello = Json::parse(R"([{"role": "user", "content": "Hello <&> 中"}])");

TEST(ChatTemplate, RendersVariablesAndTokens) {
  const auto text = render(
      "{{ bos_token }}{% for m in messages %}\n[{{ m.role | upper }}] {{ m['content'] }}\n"
      "{% endfor %}{% if add_generation_prompt %}>{% endif %}{{ eos_token }}{{ pad_token }}",
      kHello);
  ASSERT_TRUE(text.ok()) << text.status().message();
  EXPECT_EQ(*text, "<s>[USER] Hello <&> 中\n></s>");
}

TEST(ChatTemplate, AbsentToolsAreNone) {
  const char* source = "{{ tools is none }} {{ tools is defined }} {{ nothing is defined }}";
  EXPECT_EQ(*render(source, kHello), "True True False");
  EXPECT_EQ(*render(source, kHello, Json::array()), "True True False");
  EXPECT_EQ(*render(source, kHello, Json::array({Json::object()})), "False True False");
}

TEST(ChatTemplate, ExtraVariablesWin) {
  ChatRenderOptions options;
  options.extra = Json::parse(R"({"enable_thinking": false, "add_generation_prompt": false})");
  EXPECT_EQ(*render("{{ enable_thinking }} {{ add_generation_prompt }}", kHello, {}, options),
            "False False");
}

TEST(ChatTemplate, ClockIsAnArgument) {
  ChatRenderOptions options;
  options.clock = TemplateClock{1721997296, 3600};
  EXPECT_EQ(*render("{{ strftime_now('%d %b %Y %H:%M') }}", kHello, {}, options),
            "26 Jul 2024 13:34");
}

TEST(ChatTemplate, RefusalCarriesTheTemplatesMessage) {
  const auto text = render("{{ raise_exception('roles must alternate') }}", kHello);
  ASSERT_FALSE(text.ok());
  EXPECT_EQ(text.status().code(), ErrorCode::kInvalidArgument);
  EXPECT_NE(text.status().message().find("roles must alternate"), std::string::npos);
}

TEST(ChatTemplate, SyntaxErrorsNameTheLine) {
  const auto chat = ChatTemplate::compile("a\n{% if %}", {});
  ASSERT_FALSE(chat.ok());
  EXPECT_EQ(chat.status().code(), ErrorCode::kCorruptData);
  EXPECT_NE(chat.status().message().find("line 2"), std::string::npos) << chat.status().message();
}

TEST(ChatTemplate, LimitsEndHostileTemplates) {
  const std::pair<const char*, const char*> hostile[] = {
      {"loops", "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}"},
      {"recursion", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"},
      {"range", "{{ range(999999999999) | list }}"},
      {"repeat", "{{ 'x' * 99999999999999 }}"},
      {"append", "{{ messages.append(1) }}"},
      {"include", "{% include 'other' %}"},
      {"attributes", "{{ messages.__class__.__mro__[1].__subclasses__() }}"},
  };
  for (const auto& [name, source] : hostile) {
    const auto text = render(source, kHello);
    EXPECT_FALSE(text.ok()) << name << ": " << text.value().substr(0, 100);
  }
  const auto loops = render(hostile[0].second, kHello);
  EXPECT_EQ(loops.status().code(), ErrorCode::kResourceExhausted);
}

TEST(ChatTemplate, MessagesThatAreNotUtf8AreRepaired) {
  Json messages = Json::array({{{"role", "user"}, {"content", "a\xff"}}});
  EXPECT_EQ(*render("{{ messages[0].content }}", messages), "a\xef\xbf\xbd");
}

// The contexts of make_template_goldens.py.
std::map<std::string, Json> golden_contexts() {
  std::map<std::string, Json> contexts;
  for (const char* name : {"simple", "system", "tool_use"}) {
    contexts[name] = Json::parse(read_all(kTemplates + "contexts/" + name + ".json"));
  }
  Json objects = contexts["tool_use"];
  for (Json& message : objects["messages"]) {
    if (!message.contains("tool_calls")) continue;
    for (Json& call : message["tool_calls"]) {
      Json& arguments = call["function"]["arguments"];
      arguments = Json::parse(arguments.get<std::string>());
    }
  }
  contexts["tool_use_objects"] = objects;
  contexts["simple_closed"] = contexts["simple"];
  contexts["simple_closed"]["add_generation_prompt"] = false;
  return contexts;
}

struct Count {
  int equal = 0, refused = 0, different = 0;
};

// Renderings that differ from Python's on purpose, with the reason.
constexpr const char* kNoneLoop = "a loop over absent tools is empty here; Python raises TypeError";
constexpr const char* kGenerator = "tojson takes what map() returns; Python raises TypeError";
constexpr const char* kMarkup = "text added to a |safe string is not HTML-escaped here";
const std::map<std::string, std::string> kKnownDifferences = {
    {"CohereForAI-c4ai-command-r-plus-tool_use/simple", kNoneLoop},
    {"CohereForAI-c4ai-command-r-plus-tool_use/simple_closed", kNoneLoop},
    {"CohereForAI-c4ai-command-r-plus-tool_use/system", kNoneLoop},
    {"NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use/simple", kNoneLoop},
    {"NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use/simple_closed", kNoneLoop},
    {"NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use/system", kNoneLoop},
    {"NousResearch-Hermes-3-Llama-3.1-8B-tool_use/simple", kNoneLoop},
    {"NousResearch-Hermes-3-Llama-3.1-8B-tool_use/simple_closed", kNoneLoop},
    {"NousResearch-Hermes-3-Llama-3.1-8B-tool_use/system", kNoneLoop},
    {"llama-cpp-deepseek-r1/tool_use", kGenerator},
    {"llama-cpp-deepseek-r1/tool_use_objects", kGenerator},
    {"meetkai-functionary-medium-v3.1/tool_use", kMarkup},
    {"meetkai-functionary-medium-v3.1/tool_use_objects", kMarkup},
};

void compare(const std::string& name, const Json& cases, const std::map<std::string, Json>& contexts,
             int64_t clock_s, Count& count) {
  const std::string source = read_all(kTemplates + "models/" + name + ".jinja");
  for (const auto& [context_name, expected] : cases.items()) {
    Json context = contexts.at(context_name);
    const Json messages = context["messages"];
    const Json tools = context.contains("tools") ? context["tools"] : Json();
    ChatRenderOptions options;
    options.add_generation_prompt = context["add_generation_prompt"].get<bool>();
    for (const char* key : {"messages", "tools", "add_generation_prompt"}) context.erase(key);
    options.extra = context;
    options.clock = TemplateClock{clock_s, 0};
    const std::string label = name + "/" + context_name;
    const auto chat = ChatTemplate::compile(source, {});
    const auto text = chat.ok() ? chat->render(messages, tools, options) : chat.status();
    if (const char* folder = std::getenv("QUIPU_TEMPLATE_DUMP"); folder != nullptr && text.ok()) {
      std::ofstream(fmt::format("{}/{}.{}.txt", folder, name, context_name)) << *text;
    }
    bool equal = false;
    if (expected.contains("refused")) {
      equal = !text.ok();
      count.refused += equal;
    } else {
      equal = text.ok() && text.value().size() == expected["bytes"].get<size_t>() &&
              fnv1a(*text) == expected["hash"].get<std::string>();
      count.equal += equal;
    }
    if (equal) continue;
    ++count.different;
    EXPECT_TRUE(kKnownDifferences.contains(label))
        << label << ": Python: " << expected.dump() << "\n  here: "
        << (text.ok() ? fmt::format("{} bytes", text.value().size()) : text.status().message());
  }
}

TEST(ChatTemplate, RealTemplatesRenderAsInTransformers) {
  if (!std::filesystem::exists(kTemplates)) GTEST_SKIP() << "not there, skipped: " << kTemplates;
  const Json golden = Json::parse(read_all(kGolden));
  const auto contexts = golden_contexts();
  Count count;
  for (const auto& [name, cases] : golden["expected"].items()) {
    compare(name, cases, contexts, golden["clock_unix_s"].get<int64_t>(), count);
  }
  for (const auto& [label, whole] : golden["whole"].items()) {
    const size_t slash = label.find('/');
    const Json& expected = golden["expected"][label.substr(0, slash)][label.substr(slash + 1)];
    EXPECT_EQ(fnv1a(whole.get<std::string>()), expected["hash"].get<std::string>()) << label;
  }
  std::cout << golden["expected"].size() << " real templates: " << count.equal
            << " renderings equal to transformers', " << count.refused
            << " refused by both, " << count.different << " different on purpose\n";
  // A difference that has gone must leave the list.
  EXPECT_EQ(count.different, static_cast<int>(kKnownDifferences.size()));
}

}  // namespace
}  // namespace quipu
