#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "app/stop_strings.h"
#include "base/random.h"

namespace quipu {
namespace {

std::string run(StopStrings stops, const std::vector<std::string>& pieces) {
  std::string shown;
  for (const std::string& piece : pieces) shown += stops.push(piece);
  return shown + stops.finish();
}

TEST(StopStrings, CutsAtTheFirstAndShowsEverythingBefore) {
  EXPECT_EQ(run(StopStrings({"END"}), {"abc", "dE", "N", "Dxyz", "more"}), "abcd");
  EXPECT_EQ(run(StopStrings({"bc", "b"}), {"abc"}), "a");
  EXPECT_EQ(run(StopStrings({}), {"a", "b"}), "ab");
  EXPECT_EQ(run(StopStrings({"END"}), {"abE", "N"}), "abEN");  // only began
}

TEST(StopStrings, HoldsBackOnlyWhatCouldBegin) {
  StopStrings stops({"\n\nUser:"});
  EXPECT_EQ(stops.push("hello\n"), "hello");
  EXPECT_EQ(stops.push("there"), "\nthere");
}

TEST(StopStrings, ThePiecesDoNotMatter) {
  Random random(4);
  for (int round = 0; round < 3000; ++round) {
    std::string text;
    for (uint64_t n = random.next_below(30); n > 0; --n)
      text.push_back(static_cast<char>('a' + random.next_below(3)));
    const std::vector<std::string> stop_list = {"abca", "cc", "bab"};
    std::vector<std::string> pieces;
    for (size_t at = 0; at < text.size();) {
      const size_t length = 1 + random.next_below(4);
      pieces.push_back(text.substr(at, length));
      at += length;
    }
    size_t first = text.size();
    for (const std::string& stop : stop_list) first = std::min(first, text.find(stop));
    EXPECT_EQ(run(StopStrings(stop_list), pieces), text.substr(0, first)) << text;
  }
}

}  // namespace
}  // namespace quipu
