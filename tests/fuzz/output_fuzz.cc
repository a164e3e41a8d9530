// Any bytes as an output of a model that thinks and calls tools in one of the forms that are known:
// the parts that a parser tells are the same however the text comes, and nothing else happens. The
// first byte chooses the form, the second what the output may be made of and how it is cut.
#include <cstdint>
#include <vector>

#include "base/check.h"
#include "text/test_util.h"

namespace quipu {
namespace {

constexpr const char* kTemplates[] = {
    "tools <tool_call> \"arguments\" </think>",
    "tools [TOOL_CALLS] </think>",
    "tools [TOOL_CALLS][ARGS]",
    "tools <|start_header_id|>\"name\": \"parameters\": ",
    "tools <|tool_call|> followed by a JSON list </think>",
    "tools <｜tool▁calls▁begin｜><｜tool▁call▁begin｜><｜tool▁sep｜>",
    "tools <｜tool▁calls▁begin｜><｜tool▁call▁begin｜><｜tool▁sep｜>```json",
    "tools <tool_call>\\n<function= <parameter= \\n</parameter>\\n </think>",
    "tools <tool_call> <arg_key> </arg_key>\n<arg_value> </arg_value>\n </think>",
    "tools <minimax:tool_call> <invoke name=\" <parameter name=\" </think>",
};

std::vector<OutputLayout> layouts() {
  std::vector<OutputLayout> all;
  for (const char* chat_template : kTemplates) {
    TokenizerSpec spec;
    spec.model = "characters";
    spec.tokens = {"<s>", "</s>", "a", "[TOOL_CALLS]", "</think>"};
    spec.token_types = {3, 3, 1, 3, 3};
    spec.bos = 0;
    spec.eos = 1;
    spec.chat_template = chat_template;
    const auto tokenizer = Tokenizer::from_spec(std::move(spec)).value();
    OutputLayout layout;
    layout.calls = tool_format_of(*tokenizer);
    QUIPU_CHECK(layout.calls->family != ToolFamily::kUnknown, "a form that is not known: {}",
                chat_template);
    layout.thinking = thinking_format_of(*tokenizer);
    layout.text_arguments = {{"a", {"x", "y"}}, {"b", {}}};
    all.push_back(std::move(layout));
  }
  return all;
}

}  // namespace
}  // namespace quipu

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace quipu;
  static const std::vector<OutputLayout> all = layouts();
  if (size < 2) return 0;
  OutputLayout layout = all[data[0] % all.size()];
  layout.thinking_open = layout.thinking.has_value() && (data[1] & 1) != 0;
  layout.calls_alone = (data[1] & 2) != 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 2, size - 2);
  const std::vector<OutputPiece> whole = parse_cut(layout, text, 0, 0);
  const std::vector<OutputPiece> cut = parse_cut(layout, text, 7, 1 + data[1] / 4);
  QUIPU_CHECK(whole.size() == cut.size(), "{} parts, and {} when it is cut", whole.size(),
              cut.size());
  for (size_t i = 0; i < whole.size(); ++i) {
    QUIPU_CHECK(whole[i].kind == cut[i].kind && whole[i].text == cut[i].text,
                "part {} is '{}', and '{}' when the text is cut", i, whole[i].text, cut[i].text);
  }
  return 0;
}
