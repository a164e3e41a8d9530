#include <fmt/format.h>

#include "limits.h"

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  const auto& l = quipu::bench::limits();
  fmt::print("{} on {}\n", quipu::bench::backend().description(),
             quipu::detect_cpu_features().model_name);
  fmt::print(
      "limits: read {:.1f} GB/s, int8 {:.3f} TOP/s, bf16 {:.3f} TFLOP/s, f32 {:.3f} TFLOP/s\n",
      l.read_bytes * 1e-9, l.peaks.int8_ops * 1e-12, l.peaks.bf16_flops * 1e-12,
      l.peaks.f32_flops * 1e-12);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
