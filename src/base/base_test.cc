#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <set>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/file.h"
#include "base/huge_pages.h"
#include "base/random.h"
#include "base/suggest.h"
#include "base/units.h"
#include "base/utf8.h"

namespace quipu {
namespace {

TEST(Units, ReadsSizesAsPeopleWriteThem) {
  EXPECT_EQ(parse_bytes("4096").value(), 4096u);
  EXPECT_EQ(parse_bytes("8GiB").value(), 8 * kGiB);
  EXPECT_EQ(parse_bytes("8g").value(), 8 * kGiB);
  EXPECT_EQ(parse_bytes("1.5 MiB").value(), kMiB + kMiB / 2);
  EXPECT_EQ(parse_bytes("2kb").value(), 2000u);
  for (const char* bad : {"", "GiB", "8X", "-1", "nan", "inf", "8GiBs", "1e30"}) {
    EXPECT_FALSE(parse_bytes(bad).ok()) << bad;
  }
}

TEST(Units, PrintsThreeDigits) {
  EXPECT_EQ(format_bytes(512), "512 B");
  EXPECT_EQ(format_bytes(1536), "1.50 KiB");
  EXPECT_EQ(format_bytes(12 * kGiB), "12.0 GiB");
}

TEST(Utf8, AcceptsOnlyWellFormedText) {
  EXPECT_TRUE(is_valid_utf8("plain 中华人民共和国 🧶"));
  for (const char* bad : {"\xC0\x80", "\xE0\x80\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xFF",
                          "\x80", "a\xE4\xB8"}) {
    EXPECT_FALSE(is_valid_utf8(bad));
  }
}

TEST(Utf8, FindsTheUnfinishedCharacterAtTheEnd) {
  const std::string text = "x中🧶";
  for (size_t length = 0; length <= text.size(); ++length) {
    const std::string_view part(text.data(), length);
    EXPECT_EQ(incomplete_utf8_suffix(part), length - valid_utf8_prefix(part)) << length;
  }
  EXPECT_EQ(incomplete_utf8_suffix("a\xFF"), 0u);  // can never become a character
  EXPECT_EQ(incomplete_utf8_suffix("\xE4\xE4"), 1u);
}

TEST(Utf8, RepairGivesValidTextAndKeepsTheRest) {
  EXPECT_EQ(repair_utf8("a\xFF"
                        "b\xE4\xB8"),
            "a\xEF\xBF\xBD"
            "b\xEF\xBF\xBD");
  Random random(7);
  for (int i = 0; i < 2000; ++i) {
    std::string bytes;
    for (uint64_t n = random.next_below(12); n > 0; --n)
      bytes.push_back(static_cast<char>(random.next_u64()));
    EXPECT_TRUE(is_valid_utf8(repair_utf8(bytes)));
    if (is_valid_utf8(bytes)) {
      EXPECT_EQ(repair_utf8(bytes), bytes);
    }
  }
}

TEST(Random, PhiloxMatchesThePublishedVectors) {
  // SOURCE: Random123 distribution, kat_vectors, philox4x32 10.
  const std::array<uint32_t, 4> zeros = {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8};
  const std::array<uint32_t, 4> ones = {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd};
  EXPECT_EQ(philox4x32(0, 0, 0), zeros);
  EXPECT_EQ(philox4x32(~0ull, ~0ull, ~0ull), ones);
}

TEST(Random, DrawsDependOnSeedPositionAndDrawOnly) {
  EXPECT_EQ(uniform_at(1, 2, 3), uniform_at(1, 2, 3));
  const std::set<double> draws = {uniform_at(1, 2, 3), uniform_at(2, 2, 3), uniform_at(1, 3, 3),
                                  uniform_at(1, 2, 4)};
  EXPECT_EQ(draws.size(), 4u);
}

TEST(Suggest, FindsTheSlipAndNothingElse) {
  const std::vector<std::string> flags = {"--threads", "--temperature", "--top-k", "--seed"};
  EXPECT_EQ(nearest("--thread", flags), "--threads");
  EXPECT_EQ(nearest("--tempreature", flags), "--temperature");
  EXPECT_EQ(nearest("--nothing-like-it", flags), std::nullopt);
}

TEST(AlignedBuffer, IsZeroAndAligned) {
  for (const size_t bytes : {size_t{1}, size_t{100}, size_t{5} * kMiB}) {
    AlignedBuffer buffer = AlignedBuffer::allocate(bytes).value();
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % AlignedBuffer::kAlignment, 0u);
    EXPECT_EQ(buffer.data()[bytes - 1], std::byte{0});
    AlignedBuffer moved = std::move(buffer);
    EXPECT_EQ(moved.size(), bytes);
  }
  EXPECT_FALSE(AlignedBuffer::allocate(~size_t{0}).ok());
}

TEST(AlignedBuffer, LargeOnesBeginAtAHugePageAndSayWhatTheyGot) {
  AlignedBuffer buffer = AlignedBuffer::allocate(5 * kMiB).value();
  EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % (2 * kMiB), 0u);
  EXPECT_LE(huge_page_bytes(buffer.bytes()), 6 * kMiB);
  std::fill(buffer.bytes().begin(), buffer.bytes().end(), std::byte{1});
  if (huge_pages_work()) {
    EXPECT_GE(huge_page_bytes(buffer.bytes()), 2 * kMiB);
  } else {
    EXPECT_EQ(huge_page_bytes(buffer.bytes()), 0u);
  }
}

TEST(File, AppearsOnlyWhenComplete) {
  const std::filesystem::path folder =
      std::filesystem::temp_directory_path() / fmt::format("quipu-base-{}", getpid());
  std::filesystem::create_directory(folder);
  {
    AtomicFileWriter dropped = AtomicFileWriter::create(folder / "a").value();
    ASSERT_TRUE(dropped.write("half").ok());
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder));
  AtomicFileWriter writer = AtomicFileWriter::create(folder / "a").value();
  ASSERT_TRUE(writer.write("whole").ok());
  ASSERT_TRUE(writer.finish().ok());
  EXPECT_EQ(read_file(folder / "a", 100).value(), "whole");
  EXPECT_EQ(read_file(folder / "a", 4).status().code(), ErrorCode::kResourceExhausted);
  EXPECT_EQ(MappedFile::open(folder / "a").value().bytes().size(), 5u);
  EXPECT_EQ(MappedFile::open(folder / "b").status().code(), ErrorCode::kNotFound);
  EXPECT_EQ(MappedFile::open(folder).status().code(), ErrorCode::kIo);
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace quipu
