// Small models with random weights, and runs of them whose logits can be compared bit for bit.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "base/clock.h"
#include "engine/engine.h"
#include "format/model_file.h"
#include "model/model.h"

namespace quipu::exactness {

// Whether the environment asks for the long form of the suite: QUIPU_EXACTNESS=full.
bool wants_long_form();

// The shapes of `quipu synth` that are made for tests: one per architecture.
std::vector<std::string> tiny_shapes();

// A file with random weights, written once per process and removed at its end.
// UNITS: tokens: context; 1,024 is more than a run of positions that attention merges (512).
std::filesystem::path tiny_model_path(const std::string& shape, DType weights,
                                      int64_t context = 1024);

struct TinyModel {
  std::unique_ptr<ModelFile> file;
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Model> model;
};

std::unique_ptr<TinyModel> open_tiny_model(const std::string& shape, DType weights, Isa isa,
                                           int threads, int64_t context = 1024);

struct EngineSettings {
  KvFormats kv_format = KvFormat::kF32;
  int chunk = 512;
  int block_tokens = 32;
  int blocks = 256;
  bool keep_kv = true;
  int draft_tokens_max = 0;
  StreamingConfig streaming;
};

struct TinyEngine {
  TinyEngine(TinyModel& model, const EngineSettings& settings);

  FakeClock clock;
  std::unique_ptr<Engine> engine;
};

// What came of a request. Equal bits, or not equal.
struct Outcome {
  std::map<int64_t, std::vector<float>> logits;  // by position
  std::vector<TokenId> tokens;
  RequestStats stats;
  int finishes = 0;          // terminal events; always exactly one
  bool shown_twice = false;  // a position's logits came twice
};

std::vector<TokenId> random_tokens(uint64_t seed, size_t count);

// A request that draws with temperature 1 and a seed, so that the tokens prove the sampler too.
Request make_request(std::vector<TokenId> prompt, int64_t max_tokens,
                     LogitsWanted wanted = LogitsWanted::kSampled);

// Gives a request to an encoder-decoder model an input that depends on the prompt's first token:
// the prompt is then what the decoder begins with, and prompts that begin alike have one input.
void add_input(const ModelConfig& config, Request& request);

// Runs all requests to their end. Request i joins before step i * stagger.
// The engine's invariants are checked after every step.
std::vector<Outcome> run(Engine& engine, std::vector<Request> requests, int stagger = 0);

// One request in an engine of its own.
Outcome run_alone(TinyModel& model, const EngineSettings& settings, Request request);

// What differs first, in words; empty when the tokens and all logits that both have are equal bits.
// At least `common_min` positions must be common.
std::string difference(const Outcome& actual, const Outcome& expected, size_t common_min);

}  // namespace quipu::exactness
