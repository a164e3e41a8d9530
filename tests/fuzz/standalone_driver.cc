// A fuzzing main for compilers without libFuzzer: mutates a corpus with a seed for a fixed count.
//
//   prog --runs N --seed S [--only R] [files and folders]
//
// The same arguments give the same inputs on every machine. When the target crashes, the number of
// the run is printed first; `--only R` repeats that run alone, `--only R --write FILE` also keeps
// its input.
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "base/random.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace quipu {
namespace {

using Bytes = std::vector<uint8_t>;

volatile uint64_t current_run = 0;  // read by the signal handler

void say_where(int signal_number) {
  char text[64];
  const int length = std::snprintf(text, sizeof text, "\nfuzz: crashed in run %llu\n",
                                   static_cast<unsigned long long>(current_run));
  if (write(STDERR_FILENO, text, static_cast<size_t>(length)) < 0) _exit(2);
  signal(signal_number, SIG_DFL);
  raise(signal_number);
}

// The values at which readers of numbers go wrong.
constexpr uint64_t kInteresting[] = {0,
                                     1,
                                     2,
                                     3,
                                     4,
                                     7,
                                     8,
                                     12,
                                     13,
                                     31,
                                     32,
                                     33,
                                     63,
                                     64,
                                     127,
                                     128,
                                     255,
                                     256,
                                     511,
                                     4096,
                                     0x7FFF,
                                     0x8000,
                                     0xFFFF,
                                     0x10000,
                                     0x7FFFFFFF,
                                     0x80000000,
                                     0xFFFFFFFF,
                                     0x100000000,
                                     0x7FFFFFFFFFFFFFFF,
                                     0x8000000000000000,
                                     0xFFFFFFFFFFFFFFFF,
                                     0xFFFFFFFFFFFFFFE0};

void overwrite_number(Bytes& input, Random& random) {
  const size_t width = size_t{1} << random.next_below(4);
  if (input.size() < width) return;
  const size_t at = random.next_below(input.size() - width + 1);
  uint64_t value = kInteresting[random.next_below(std::size(kInteresting))];
  if (random.next_below(2) == 0) {  // near the value that is there
    uint64_t old = 0;
    std::memcpy(&old, input.data() + at, width);
    value = old + random.next_below(33) - 16;
  }
  std::memcpy(input.data() + at, &value, width);
}

void splice(Bytes& input, const Bytes& other, Random& random) {
  if (other.empty()) return;
  const size_t from = random.next_below(other.size());
  const size_t count = 1 + random.next_below(std::min<size_t>(64, other.size() - from));
  const size_t at = random.next_below(input.size() + 1);
  const auto begin = other.begin() + static_cast<ptrdiff_t>(from);
  if (random.next_below(2) == 0) {
    input.insert(input.begin() + static_cast<ptrdiff_t>(at), begin,
                 begin + static_cast<ptrdiff_t>(count));
  } else {
    const size_t fits = std::min(count, input.size() - at);
    std::copy(begin, begin + static_cast<ptrdiff_t>(fits),
              input.begin() + static_cast<ptrdiff_t>(at));
  }
}

void mutate(Bytes& input, const std::vector<Bytes>& corpus, Random& random) {
  for (uint64_t steps = 1 + random.next_below(4); steps > 0; --steps) {
    switch (random.next_below(6)) {
      case 0:
        if (!input.empty())
          input[random.next_below(input.size())] ^=
              static_cast<uint8_t>(1u << random.next_below(8));
        break;
      case 1:
        if (!input.empty())
          input[random.next_below(input.size())] = static_cast<uint8_t>(random.next_u64());
        break;
      case 2: input.resize(random.next_below(input.size() + 1)); break;
      case 3: splice(input, corpus[random.next_below(corpus.size())], random); break;
      case 4: overwrite_number(input, random); break;
      case 5: {
        if (input.empty()) break;
        const size_t at = random.next_below(input.size());
        const size_t count = std::min<size_t>(1 + random.next_below(16), input.size() - at);
        input.erase(input.begin() + static_cast<ptrdiff_t>(at),
                    input.begin() + static_cast<ptrdiff_t>(at + count));
        break;
      }
    }
  }
}

void load(const std::filesystem::path& path, std::vector<Bytes>& corpus) {
  if (std::filesystem::is_directory(path)) {
    std::vector<std::filesystem::path> inside;
    for (const auto& entry : std::filesystem::directory_iterator(path))
      inside.push_back(entry.path());
    std::sort(inside.begin(), inside.end());
    for (const auto& entry : inside) load(entry, corpus);
    return;
  }
  std::ifstream file(path, std::ios::binary);
  corpus.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
}

int run(int argc, char** argv) {
  uint64_t runs = 10000, seed = 1;
  std::string only, write_to;
  std::vector<Bytes> corpus;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    const char* value = i + 1 < argc ? argv[i + 1] : "";
    if (argument == "--runs") {
      runs = std::strtoull(value, nullptr, 10);
      ++i;
    } else if (argument == "--seed") {
      seed = std::strtoull(value, nullptr, 10);
      ++i;
    } else if (argument == "--only") {
      only = value;
      ++i;
    } else if (argument == "--write") {
      write_to = value;
      ++i;
    } else {
      load(argument, corpus);
    }
  }
  if (corpus.empty()) corpus.emplace_back();
  for (const int signal_number : {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL})
    signal(signal_number, say_where);
  const uint64_t first = only.empty() ? 0 : std::strtoull(only.c_str(), nullptr, 10);
  const uint64_t last = only.empty() ? runs : first + 1;
  for (uint64_t number = first; number < last; ++number) {
    current_run = number;
    // A run's input depends on (seed, number) alone. The first ones are the corpus as it is.
    Random random(philox4x32(seed, number, 0)[0] | uint64_t{philox4x32(seed, number, 0)[1]} << 32);
    Bytes input = corpus[number % corpus.size()];
    if (number >= corpus.size()) mutate(input, corpus, random);
    if (!write_to.empty()) {
      std::ofstream(write_to, std::ios::binary)
          .write(reinterpret_cast<const char*>(input.data()),
                 static_cast<std::streamsize>(input.size()));
    }
    // An exact-size copy on the heap, so that address sanitizer sees a read past the end.
    const Bytes exact(input.begin(), input.end());
    LLVMFuzzerTestOneInput(exact.data(), exact.size());
  }
  std::printf("fuzz: %llu runs from seed %llu over %zu inputs: no failure\n",
              static_cast<unsigned long long>(last - first), static_cast<unsigned long long>(seed),
              corpus.size());
  return 0;
}

}  // namespace
}  // namespace quipu

int main(int argc, char** argv) { return quipu::run(argc, argv); }
