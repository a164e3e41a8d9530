// What stands behind the handles of the public headers. In this folder quipu::v1::X is the
// library's X, and quipu::X the engine's.
#pragma once

#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <utility>

#include <quipu/model.h>

#include "app/engine_thread.h"
#include "app/generation.h"

namespace quipu::v1::internal {

Error to_error(const quipu::Status& status);

// Where the engine's thread tells a reader that something is new. THREADS: thread-safe.
class Bell {
 public:
  void ring() {
    const std::lock_guard lock(mutex_);
    rung_ = true;
    heard_.notify_one();
  }
  void wait() {
    std::unique_lock lock(mutex_);
    heard_.wait(lock, [this] { return rung_; });
    rung_ = false;
  }

 private:
  std::mutex mutex_;
  std::condition_variable heard_;
  bool rung_ = false;
};

// THREADS: immutable but for `engine`, which is thread-safe; of `loaded` only what is immutable
// after loading is used outside of the engine's thread.
struct ModelState {
  ModelState(std::unique_ptr<quipu::LoadedModel> model, const quipu::EngineThreadConfig& config)
      : loaded(std::move(model)), engine(*loaded, config) {}

  std::unique_ptr<quipu::LoadedModel> loaded;
  ModelInfo info;
  std::optional<quipu::ChatTemplate> chat_template;
  quipu::EngineThread engine;  // last: it ends first
};

struct GenerationState {
  std::shared_ptr<ModelState> model;
  std::shared_ptr<Bell> bell;  // shared: with the outbox's wake
  std::shared_ptr<quipu::GenerationOutbox> outbox;
  quipu::RequestId id;
  GenerationResult result;
  std::optional<quipu::GenerationEnd> end;
};

// Runs a part of the library that may throw, and turns that into an error.
template <typename Call>
auto guarded(Call&& call) -> decltype(call()) {
  try {
    return call();
  } catch (const std::bad_alloc&) {
    return Error{ErrorCode::kResourceExhausted, "out of memory"};
  } catch (const std::exception& error) {
    return Error{ErrorCode::kInternal, error.what()};
  }
}

}  // namespace quipu::v1::internal
