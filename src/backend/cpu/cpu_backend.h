// The CPU backend: its own thread pool, and one table of kernels chosen at run time.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "base/status.h"

namespace quipu {

enum class Isa { kScalar, kAvx2, kAvx512 };

std::string_view isa_name(Isa isa);

// What this machine has, as the kernels need it.
struct CpuFeatures {
  bool avx2 = false;    // with FMA and F16C
  bool avx512 = false;  // F, BW, DQ, VL
  bool avx512_vnni = false;
  bool avx512_bf16 = false;
  std::string model_name;
  int logical_cpus = 0;     // usable by this process
  std::vector<Isa> usable;  // slowest first
};

CpuFeatures detect_cpu_features();

struct CpuBackendOptions {
  int threads = 0;         // 0: one per usable core
  std::optional<Isa> isa;  // nothing: QUIPU_ISA if set, else the best usable one
  bool pin_threads = true;
};

// ERRORS: kInvalidArgument for an unknown or unusable instruction set (with the list of usable
// ones) or a thread count out of range.
Result<std::unique_ptr<Backend>> make_cpu_backend(const CpuBackendOptions& options);

// What the multipliers of these threads reach with operands in registers and the kernels' own
// instructions. UNITS: operations per second, two per multiply-add.
struct CpuPeaks {
  double int8_ops = 0;
  double bf16_flops = 0;
  double f32_flops = 0;
};

// REQUIRES: `isa` is usable. UNITS: `seconds` for each of the three.
CpuPeaks measure_cpu_peaks(Isa isa, int threads, double seconds);

// The kernel table's set that a backend with these options would use. ERRORS: as make_cpu_backend.
Result<Isa> choose_isa(const std::optional<Isa>& wanted);

// Bandwidth of reading a large buffer with as many threads as a backend. Where it moves from second
// to second, a measurement that memory bounds takes its limit from the same moment.
// OWNS: its threads and 512 MiB. THREADS: one caller at a time.
class ReadMeter {
 public:
  explicit ReadMeter(int threads);
  ~ReadMeter();

  // The best of as many reads as take so long, one at least. UNITS: seconds; bytes per second.
  double read(double seconds = 0);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace quipu
