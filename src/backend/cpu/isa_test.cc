// Instruction sets: choice and its errors, agreement between sets, and what the objects may define.
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "backend/cpu/kernels.h"
#include "backend/cpu/test_util.h"

namespace quipu {
namespace {

using cpu_test::make_backend;
using cpu_test::random_floats;
using cpu_test::same_bits;
using cpu_test::StoredMatrix;

// Sets QUIPU_ISA for one scope.
class IsaVariable {
 public:
  explicit IsaVariable(const char* value) {
    const char* before = std::getenv("QUIPU_ISA");
    if (before != nullptr) before_ = before;
    value == nullptr ? unsetenv("QUIPU_ISA") : setenv("QUIPU_ISA", value, 1);
  }
  ~IsaVariable() {
    before_.empty() ? unsetenv("QUIPU_ISA") : setenv("QUIPU_ISA", before_.c_str(), 1);
  }

 private:
  std::string before_;
};

TEST(Isa, ScalarIsAlwaysUsable) {
  const CpuFeatures features = detect_cpu_features();
  ASSERT_FALSE(features.usable.empty());
  EXPECT_EQ(features.usable.front(), Isa::kScalar);
  EXPECT_GE(features.logical_cpus, 1);
  EXPECT_FALSE(features.model_name.empty());
}

TEST(Isa, VariableChooses) {
  for (const Isa isa : detect_cpu_features().usable) {
    const IsaVariable variable(std::string(isa_name(isa)).c_str());
    auto backend = make_cpu_backend({.threads = 1});
    ASSERT_TRUE(backend.ok());
    EXPECT_NE((*backend)->description().find(isa_name(isa)), std::string::npos);
  }
  const IsaVariable unset(nullptr);
  EXPECT_EQ(choose_isa(std::nullopt).value(), detect_cpu_features().usable.back());
}

TEST(Isa, UnknownNameIsAnErrorThatListsTheUsable) {
  const IsaVariable variable("sse9");
  const auto backend = make_cpu_backend({.threads = 1});
  ASSERT_FALSE(backend.ok());
  EXPECT_EQ(backend.status().code(), ErrorCode::kInvalidArgument);
  EXPECT_NE(backend.status().message().find("sse9"), std::string::npos);
  for (const Isa isa : detect_cpu_features().usable) {
    EXPECT_NE(backend.status().message().find(isa_name(isa)), std::string::npos);
  }
}

TEST(Isa, UnusableSetIsAnError) {
  for (const Isa isa : {Isa::kAvx2, Isa::kAvx512}) {
    const auto& usable = detect_cpu_features().usable;
    const bool has = std::find(usable.begin(), usable.end(), isa) != usable.end();
    EXPECT_EQ(choose_isa(isa).ok(), has);
  }
}

TEST(Isa, ThreadCountOutOfRangeIsAnError) {
  for (const int threads : {-1, 257}) {
    const auto backend = make_cpu_backend({.threads = threads});
    ASSERT_FALSE(backend.ok());
    EXPECT_EQ(backend.status().code(), ErrorCode::kInvalidArgument);
  }
}

// Quantised and f32 products do the same roundings in the same order on AVX2 and AVX-512.
TEST(Isa, WideSetsAgreeBitForBit) {
  const auto usable = detect_cpu_features().usable;
  if (usable.back() != Isa::kAvx512) GTEST_SKIP() << "needs both sets";
  auto avx2 = make_backend(Isa::kAvx2), avx512 = make_backend(Isa::kAvx512);
  Random random(3);
  for (const DTypeTraits& traits : all_dtypes()) {
    if (traits.dtype == DType::kBF16) continue;  // its instruction has its own roundings
    const StoredMatrix matrix(traits.dtype, 77, 512, random);
    const size_t tokens = 13;
    const auto x = random_floats(random, tokens * 512);
    std::array<std::vector<float>, 2> results;
    for (size_t i = 0; i < 2; ++i) {
      Backend& backend = i == 0 ? *avx2 : *avx512;
      auto weight = backend.load_linear(matrix.view).value();
      results[i].resize(tokens * 77);
      const LinearOutput output{weight.get(), nullptr, results[i].data(), 77, LinearStore::kSet};
      backend.linear({x.data(), 512, tokens, {&output, 1}});
    }
    EXPECT_TRUE(same_bits(results[0], results[1])) << traits.name;
  }
}

// A weak symbol of a kernel object could replace the same function elsewhere in the program, and
// with it bring wide instructions to a CPU without them.
TEST(Isa, KernelObjectsDefineOnlyTheirTable) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "sanitizers add their own symbols";
#endif
  FILE* nm = popen("nm -A -C --defined-only '" QUIPU_CPU_ARCHIVE "' 2>/dev/null", "r");
  ASSERT_NE(nm, nullptr);
  std::array<char, 4096> line;
  int tables = 0;
  bool any = false;
  while (std::fgets(line.data(), line.size(), nm) != nullptr) {
    const std::string text(line.data());
    any = true;
    if (text.find("kernels_") == std::string::npos) continue;
    // "archive:member:address type name": lower case letters are local, but for weak and unique.
    const size_t member = text.find(":kernels_");
    const size_t type = text.find(' ', member);
    if (member == std::string::npos || type == std::string::npos) continue;
    const char kind = text[type + 1];
    const bool getter = text.find("_kernels()") != std::string::npos ||
                        text.find("use_avx512_bf16(") != std::string::npos;
    if (kind == 'T' && getter) {
      ++tables;
      continue;
    }
    EXPECT_TRUE(kind == 't' || kind == 'r' || kind == 'd' || kind == 'b') << text;
  }
  pclose(nm);
  if (!any) GTEST_SKIP() << "no nm";
  EXPECT_EQ(tables, 7);  // and one for codes of each set
}

}  // namespace
}  // namespace quipu
