// Kernels for AVX-512 with VNNI. Compiled with these flags; see kernels.h for what that forbids.
#include "backend/cpu/vec_avx512.h"

#define QUIPU_TABLE_NAME "avx512"
// clang-format off: in the order of their dependence
#include "backend/cpu/kernels_dot.inc"
#include "backend/cpu/kernels_dot_tiles.inc"
#include "backend/cpu/kernels_pack.inc"
#include "backend/cpu/kernels_math.inc"
#include "backend/cpu/kernels_values.inc"
#include "backend/cpu/kernels_measure.inc"
#include "backend/cpu/kernels_table.inc"
// clang-format on

namespace quipu::cpu {

namespace {

constexpr KernelTable with_two_tiles(KernelTable table) {
  table.dot[static_cast<int>(Pack::kU8)] = dot_quantised_tiles<TileU8>;
  table.dot[static_cast<int>(Pack::kU8Min)] = dot_quantised_tiles<TileU8Min>;
  table.dot[static_cast<int>(Pack::kU4)] = dot_quantised_tiles<TileU4>;
  table.dot[static_cast<int>(Pack::kU4Min)] = dot_quantised_tiles<TileU4Min>;
  table.dot[static_cast<int>(Pack::kU4K)] = dot_quantised_tiles<TileU4K>;
  table.dot[static_cast<int>(Pack::kU8K)] = dot_quantised_tiles<TileU8K>;
  table.dot[static_cast<int>(Pack::kU6K)] = dot_quantised_tiles<TileU6K>;
  return table;
}

constexpr KernelTable kTableOfTiles = with_two_tiles(kTable);

}  // namespace

const KernelTable& avx512_kernels() { return kTableOfTiles; }

}  // namespace quipu::cpu
