#include <quipu/result.h>
#include <quipu/version.h>

#include "library/state.h"

namespace quipu::v1 {

static_assert(static_cast<int>(ErrorCode::kInvalidArgument) ==
                  static_cast<int>(quipu::ErrorCode::kInvalidArgument) &&
              static_cast<int>(ErrorCode::kResourceExhausted) ==
                  static_cast<int>(quipu::ErrorCode::kResourceExhausted) &&
              static_cast<int>(ErrorCode::kInternal) ==
                  static_cast<int>(quipu::ErrorCode::kInternal));

std::string_view error_code_name(ErrorCode code) {
  return quipu::error_code_name(static_cast<quipu::ErrorCode>(code));
}

std::string_view library_version() { return QUIPU_VERSION; }

namespace internal {

Error to_error(const quipu::Status& status) {
  return {static_cast<ErrorCode>(status.code()), status.message()};
}

}  // namespace internal
}  // namespace quipu::v1
