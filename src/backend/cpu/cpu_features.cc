// CPU feature detection (cpuid, and xgetbv for what the system saves), and the choice of a set.
#include <cpuid.h>

#include <cstdlib>
#include <cstring>
#include <string>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/thread_pool.h"

namespace quipu {

namespace {

struct CpuidLeaf {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

CpuidLeaf cpuid(unsigned leaf, unsigned subleaf) {
  CpuidLeaf r;
  if (__get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx) == 0) return {};
  return r;
}

bool bit(unsigned word, int index) { return ((word >> index) & 1u) != 0; }

// Which register states the operating system saves (XCR0). REQUIRES: OSXSAVE.
unsigned saved_states() {
  unsigned low = 0, high = 0;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

std::string read_model_name() {
  char name[49] = {};
  if (cpuid(0x80000000u, 0).eax < 0x80000004u) return "unknown CPU";
  for (unsigned i = 0; i < 3; ++i) {
    const CpuidLeaf part = cpuid(0x80000002u + i, 0);
    std::memcpy(name + 16 * i, &part, 16);
  }
  std::string text(name);
  const size_t first = text.find_first_not_of(' ');
  const size_t last = text.find_last_not_of(' ');
  return first == std::string::npos ? "unknown CPU" : text.substr(first, last - first + 1);
}

std::string usable_names(const CpuFeatures& features) {
  std::string names;
  for (const Isa isa : features.usable) {
    if (!names.empty()) names += ", ";
    names += isa_name(isa);
  }
  return names;
}

}  // namespace

std::string_view isa_name(Isa isa) {
  switch (isa) {
    case Isa::kScalar: return "scalar";
    case Isa::kAvx2: return "avx2";
    case Isa::kAvx512: return "avx512";
  }
  return "unknown";
}

CpuFeatures detect_cpu_features() {
  CpuFeatures features;
  features.model_name = read_model_name();
  features.logical_cpus = static_cast<int>(cpu::usable_cpus().size());
  features.usable = {Isa::kScalar};
  const CpuidLeaf basic = cpuid(1, 0), extended = cpuid(7, 0), extended1 = cpuid(7, 1);
  if (!bit(basic.ecx, 27)) return features;  // no OSXSAVE: the system saves no wide registers
  const unsigned states = saved_states();
  const bool ymm = (states & 0x06u) == 0x06u;  // XMM and YMM
  const bool zmm = (states & 0xE6u) == 0xE6u;  // also masks and both halves of ZMM
  features.avx2 =
      ymm && bit(basic.ecx, 28) && bit(basic.ecx, 12) && bit(basic.ecx, 29) && bit(extended.ebx, 5);
  features.avx512 = zmm && features.avx2 && bit(extended.ebx, 16) && bit(extended.ebx, 17) &&
                    bit(extended.ebx, 30) && bit(extended.ebx, 31);
  features.avx512_vnni = features.avx512 && bit(extended.ecx, 11);
  features.avx512_bf16 = features.avx512 && bit(extended1.eax, 5);
  if (features.avx2) features.usable.push_back(Isa::kAvx2);
  if (features.avx512_vnni) features.usable.push_back(Isa::kAvx512);
  return features;
}

Result<Isa> choose_isa(const std::optional<Isa>& wanted) {
  const CpuFeatures features = detect_cpu_features();
  const auto usable = [&](Isa isa) {
    for (const Isa other : features.usable) {
      if (other == isa) return true;
    }
    return false;
  };
  if (wanted.has_value()) {
    if (usable(*wanted)) return *wanted;
    return make_error(ErrorCode::kInvalidArgument,
                      "instruction set {} is not usable on this CPU; usable: {}", isa_name(*wanted),
                      usable_names(features));
  }
  const char* name = std::getenv("QUIPU_ISA");
  if (name == nullptr || *name == '\0') return features.usable.back();
  for (const Isa isa : features.usable) {
    if (isa_name(isa) == name) return isa;
  }
  return make_error(ErrorCode::kInvalidArgument,
                    "QUIPU_ISA={} is not an instruction set this CPU can use; usable: {}", name,
                    usable_names(features));
}

}  // namespace quipu
