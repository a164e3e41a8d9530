#include "backend/cpu/cpu_backend.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "backend/cpu/attention.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/kv_write.h"
#include "backend/cpu/linear.h"
#include "backend/cpu/packed_weight.h"
#include "backend/cpu/scratch.h"
#include "backend/cpu/thread_pool.h"
#include "base/aligned_buffer.h"
#include "base/check.h"
#include "tensor/quantize.h"

namespace quipu {

namespace cpu {

KernelTable make_kernel_table(Isa isa, const CpuFeatures& features);

namespace {

const CodeKernels& code_kernels(Isa isa) {
  switch (isa) {
    case Isa::kScalar: return scalar_code_kernels();
    case Isa::kAvx2: return avx2_code_kernels();
    case Isa::kAvx512: return avx512_code_kernels();
  }
  QUIPU_CHECK(false, "instruction set {}", static_cast<int>(isa));
}

class HostBuffer final : public DeviceBuffer {
 public:
  explicit HostBuffer(AlignedBuffer buffer) : buffer_(std::move(buffer)) {}
  std::byte* data() override { return buffer_.data(); }
  size_t size() const override { return buffer_.size(); }

 private:
  AlignedBuffer buffer_;
};

// Rows are dequantised from the stored bytes when they are looked up.
class StoredTable final : public EmbeddingTable {
 public:
  explicit StoredTable(const TensorView& view) : view_(view) {}
  int64_t entries() const override { return view_.rows(); }
  int64_t dim() const override { return view_.columns(); }
  const TensorView& view() const { return view_; }

 private:
  TensorView view_;
};

// Below this many elements an elementwise operation runs on the caller alone.
constexpr size_t kAloneElements = 16 * 1024;

class CpuBackend final : public Backend {
 public:
  CpuBackend(Isa isa, const CpuFeatures& features, int threads, bool pin)
      : isa_(isa),
        features_(features),
        kernels_(make_kernel_table(isa, features)),
        codes_(code_kernels(isa)),
        pool_(threads, pin),
        scratch_(threads) {}

  std::string_view name() const override { return "cpu"; }
  std::string description() const override;

  Result<std::unique_ptr<DeviceBuffer>> allocate(size_t bytes) override {
    QUIPU_ASSIGN_OR_RETURN(AlignedBuffer buffer, AlignedBuffer::allocate(bytes));
    return std::unique_ptr<DeviceBuffer>(new HostBuffer(std::move(buffer)));
  }
  void copy_in(std::byte* device, std::span<const std::byte> host) override {
    if (!host.empty()) std::memcpy(device, host.data(), host.size());
  }
  void copy_out(std::span<std::byte> host, const std::byte* device) override {
    if (!host.empty()) std::memcpy(host.data(), device, host.size());
  }
  void copy_blocks(const PagedKvView& kv, std::span<const BlockCopy> copies) override;
  void synchronise() override {}  // every operation is complete when its call returns

  Result<std::unique_ptr<LinearWeight>> load_linear(const TensorView& weight) override {
    QUIPU_ASSIGN_OR_RETURN(auto packed, PackedWeight::create(weight, weights_, pool_, kernels_));
    return std::unique_ptr<LinearWeight>(std::move(packed));
  }
  Result<std::unique_ptr<EmbeddingTable>> load_embedding(const TensorView& table) override {
    if (table.shape.size() != 2) {
      return make_error(ErrorCode::kUnsupported,
                        "an embedding needs two dimensions, found shape {}",
                        shape_to_string(table.shape));
    }
    return std::unique_ptr<EmbeddingTable>(new StoredTable(table));
  }
  Result<std::unique_ptr<DeviceBuffer>> load_vector(const TensorView& vector) override;

  void embed(const EmbedArgs& args) override;
  void norm(const NormArgs& args) override;
  void linear(const LinearArgs& args) override { run_linear(args, kernels_, pool_, scratch_); }
  void rope(const RopeArgs& args) override;
  void kv_write(const KvWriteArgs& args) override;
  void attention(const AttentionArgs& args) override {
    run_attention(args, kernels_, codes_, pool_, scratch_, plan_);
  }
  void activation(const ActivationArgs& args) override;
  void add(const AddArgs& args) override;
  void soft_cap(const SoftCapArgs& args) override;
  void gather_rows(const GatherRowsArgs& args) override;
  void arg_max(const ArgMaxArgs& args) override;

 private:
  // work(first, last, thread) over [0, count), split over the threads when there is enough to do.
  // `elements`: how many values all of it touches.
  template <typename Work>
  void split(size_t count, size_t elements, const Work& work) {
    if (elements < kAloneElements || pool_.threads() == 1) return work(size_t{0}, count, 0);
    pool_.run([&](int thread, int threads) {
      const auto i = static_cast<size_t>(thread), n = static_cast<size_t>(threads);
      work(count * i / n, count * (i + 1) / n, thread);
    });
  }

  const Isa isa_;
  const CpuFeatures features_;
  const KernelTable kernels_;
  const CodeKernels& codes_;
  ThreadPool pool_;
  WeightMemory weights_;
  Scratch scratch_;
  AttentionPlan plan_;
};

std::string CpuBackend::description() const {
  std::string extras;
  if (isa_ == Isa::kAvx512) extras = features_.avx512_bf16 ? " (vnni, bf16)" : " (vnni)";
  return fmt::format("cpu {}{}, {} thread{}", isa_name(isa_), extras, pool_.threads(),
                     pool_.threads() == 1 ? "" : "s");
}

Result<std::unique_ptr<DeviceBuffer>> CpuBackend::load_vector(const TensorView& vector) {
  const auto rows = static_cast<size_t>(vector.rows()),
             columns = static_cast<size_t>(vector.columns());
  QUIPU_ASSIGN_OR_RETURN(auto buffer, allocate(rows * columns * sizeof(float)));
  for (size_t r = 0; r < rows; ++r) {
    dequantize_row(vector.dtype, vector.row(static_cast<int64_t>(r)),
                   {buffer->floats() + r * columns, columns});
  }
  return buffer;
}

void CpuBackend::copy_blocks(const PagedKvView& kv, std::span<const BlockCopy> copies) {
  for (const BlockCopy& copy : copies) {
    std::memcpy(kv.base + static_cast<size_t>(copy.to.value()) * kv.block_bytes,
                kv.base + static_cast<size_t>(copy.from.value()) * kv.block_bytes, kv.block_bytes);
  }
}

void CpuBackend::embed(const EmbedArgs& args) {
  const TensorView& table = static_cast<const StoredTable*>(args.table)->view();
  const auto dim = static_cast<size_t>(table.columns());
  scratch_.reserve_per_thread(dim * sizeof(float));
  split(args.tokens, args.tokens * dim, [&](size_t first, size_t last, int thread) {
    auto* row = reinterpret_cast<float*>(
        scratch_.per_thread[static_cast<size_t>(thread)].reserve(dim * sizeof(float)));
    for (size_t t = first; t < last; ++t) {
      QUIPU_CHECK(args.ids[t] >= 0 && args.ids[t] < table.rows(), "token id {} of {}", args.ids[t],
                  table.rows());
      float* out = args.out + t * dim;
      float* to = args.accumulate ? row : out;
      dequantize_row(table.dtype, table.row(args.ids[t]), {to, dim});
      if (args.scale != 1.0f) {
        for (size_t i = 0; i < dim; ++i) to[i] *= args.scale;
      }
      if (args.accumulate) kernels_.add(out, row, out, dim);
    }
  });
}

void CpuBackend::norm(const NormArgs& args) {
  const auto kernel = args.kind == NormKind::kRms ? kernels_.norm_rms : kernels_.norm_layer;
  split(args.tokens, args.tokens * args.groups * args.dim, [&](size_t first, size_t last, int) {
    for (size_t t = first; t < last; ++t) {
      for (size_t g = 0; g < args.groups; ++g) {
        kernel({args.x + t * args.x_stride + g * args.dim,
                args.y + t * args.y_stride + g * args.dim, args.weight, args.bias, args.dim,
                args.epsilon});
      }
    }
  });
}

void CpuBackend::rope(const RopeArgs& args) {
  QUIPU_CHECK(args.rot_dim % 2 == 0 && args.rot_dim <= args.head_dim, "rot_dim {}, head_dim {}",
              args.rot_dim, args.head_dim);
  const auto kernel =
      args.pairing == RopePairing::kHalves ? kernels_.rope_halves : kernels_.rope_interleaved;
  split(args.tokens, args.tokens * args.heads * args.rot_dim, [&](size_t first, size_t last, int) {
    for (size_t t = first; t < last; ++t) {
      float* row = args.x + t * args.stride;
      if (args.out != nullptr) {
        row = args.out + t * args.out_stride;
        std::copy_n(args.x + t * args.stride, args.heads * args.head_dim, row);
      }
      for (size_t h = 0; h < args.heads; ++h)
        kernel(row + h * args.head_dim, args.cos_sin + t * args.rot_dim, args.rot_dim);
    }
  });
}

void CpuBackend::kv_write(const KvWriteArgs& args) {
  QUIPU_CHECK(args.layer >= 0 && args.layer < args.kv.num_layers, "layer {}", args.layer);
  const KvLayerLayout& layout = args.kv.layers[args.layer].layout;
  const auto heads = static_cast<size_t>(layout.kv_heads);
  scratch_.reserve_per_thread(kv_write_scratch_bytes(layout));
  // Neighbouring tokens share cache lines of a key tile, so threads split the heads of all tokens.
  split(heads, args.tokens * heads * static_cast<size_t>(layout.key_dim + layout.value_dim),
        [&](size_t first, size_t last, int thread) {
          write_heads(args, kernels_, codes_, first, last,
                      scratch_.per_thread[static_cast<size_t>(thread)].reserve(0));
        });
}

void CpuBackend::activation(const ActivationArgs& args) {
  const auto kernel = kernels_.activation[static_cast<int>(args.activation)];
  const auto row = [&](size_t t, size_t first, size_t last) {
    kernel(args.gate + t * args.gate_stride + first,
           args.up == nullptr ? nullptr : args.up + t * args.up_stride + first,
           args.out + t * args.out_stride + first, last - first);
  };
  // Each element costs an exponential: as much as a dozen of the simple operations.
  split(args.tokens, args.tokens * args.dim * 4, [&](size_t first, size_t last, int) {
    for (size_t t = first; t < last; ++t) row(t, 0, args.dim);
  });
}

void CpuBackend::add(const AddArgs& args) {
  split(args.elements, args.elements, [&](size_t first, size_t last, int) {
    kernels_.add(args.a + first, args.b + first, args.out + first, last - first);
  });
}

void CpuBackend::soft_cap(const SoftCapArgs& args) {
  QUIPU_CHECK(args.cap > 0, "a soft cap of {}", args.cap);
  // As in activation(): an exponential and a division each. Lanes do not depend on each other.
  split(args.elements, args.elements * 4, [&](size_t first, size_t last, int) {
    kernels_.soft_cap(args.x + first, last - first, args.cap);
  });
}

void CpuBackend::gather_rows(const GatherRowsArgs& args) {
  for (size_t i = 0; i < args.count; ++i) {
    std::memcpy(args.out + i * args.dim, args.x + static_cast<size_t>(args.rows[i]) * args.dim,
                args.dim * sizeof(float));
  }
}

void CpuBackend::arg_max(const ArgMaxArgs& args) {
  split(args.rows, args.rows * args.dim, [&](size_t first, size_t last, int) {
    for (size_t r = first; r < last; ++r)
      args.out[r] = kernels_.arg_max(args.x + r * args.dim, args.dim);
  });
}

}  // namespace

KernelTable make_kernel_table(Isa isa, const CpuFeatures& features) {
  switch (isa) {
    case Isa::kScalar: return scalar_kernels();
    case Isa::kAvx2: return avx2_kernels();
    case Isa::kAvx512: {
      KernelTable table = avx512_kernels();
      if (features.avx512_bf16) use_avx512_bf16(table);
      return table;
    }
  }
  QUIPU_CHECK(false, "instruction set {}", static_cast<int>(isa));
}

}  // namespace cpu

Result<std::unique_ptr<Backend>> make_cpu_backend(const CpuBackendOptions& options) {
  const CpuFeatures features = detect_cpu_features();
  QUIPU_ASSIGN_OR_RETURN(const Isa isa, choose_isa(options.isa));
  if (options.threads < 0 || options.threads > cpu::ThreadPool::kThreadsMax) {
    return make_error(ErrorCode::kInvalidArgument,
                      "{} threads; from 1 to {} are possible, 0 for one per core", options.threads,
                      cpu::ThreadPool::kThreadsMax);
  }
  const int threads = options.threads > 0
                          ? options.threads
                          : std::min(features.logical_cpus, cpu::ThreadPool::kThreadsMax);
  return std::unique_ptr<Backend>(new cpu::CpuBackend(isa, features, threads, options.pin_threads));
}

}  // namespace quipu
