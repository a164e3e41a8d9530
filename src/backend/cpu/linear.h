// Linear layers: activations are put into blocks once, then tiles of weights stream past them.
//
// Work is split by output tiles (and by token blocks when there are few tiles), weighted by bytes;
// no sum is ever split. Each thread takes one contiguous range of tiles, the same in every step:
//
//   tokens  | block 0: 16 | block 1: 16 | .. | last: 1..16 |      blocks in super-blocks that stay
//   in L2 tiles   | thread 0 ........ | thread 1 ........ |            up to 4 tiles per kernel
//   call
//
// THREADS: the caller's thread; runs jobs on the pool.
#pragma once

#include "backend/backend.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/scratch.h"
#include "backend/cpu/thread_pool.h"

namespace quipu::cpu {

void run_linear(const LinearArgs& args, const KernelTable& kernels, ThreadPool& pool,
                Scratch& scratch);

}  // namespace quipu::cpu
