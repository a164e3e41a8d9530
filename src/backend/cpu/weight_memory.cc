#include "backend/cpu/weight_memory.h"

#include <algorithm>

#include "base/units.h"

namespace quipu::cpu {

namespace {

// Address space only: pages come when they are written.
constexpr size_t kSlabBytes = 32 * kMiB;

}  // namespace

Result<WeightMemory::Run> WeightMemory::allocate(size_t bytes) {
  auto slab = slab_.lock();
  if (slab == nullptr || bytes > slab->size() - used_) {
    QUIPU_ASSIGN_OR_RETURN(auto buffer, AlignedBuffer::allocate(std::max(bytes, kSlabBytes)));
    slab = std::make_shared<AlignedBuffer>(std::move(buffer));
    slab_ = slab;
    used_ = 0;
  }
  Run run{slab, slab->data() + used_};
  used_ = std::min(slab->size(), used_ + round_up(bytes, AlignedBuffer::kAlignment));
  return run;
}

}  // namespace quipu::cpu
