#include "backend/cpu/read_ahead.h"

namespace quipu::cpu {

void ask_across_runs(ReadAhead& ahead, int lines) {
  for (; lines > 0; --lines, ahead.next += 64) {
    if (ahead.next >= ahead.end) {
      if (ahead.run_count == 0) return;
      ahead.next = *ahead.runs++;
      ahead.end = ahead.next + ahead.run_bytes;
      --ahead.run_count;
    }
    __builtin_prefetch(ahead.next, 0, 2);
  }
}

}  // namespace quipu::cpu
