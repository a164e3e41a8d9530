#include "text/constraint.h"

#include "text/shim_call.h"

namespace quipu {

using text_internal::bytes_of;
using text_internal::ShimBuffer;
using text_internal::status_of;

namespace {

int32_t number_of(ConstraintKind kind) {
  switch (kind) {
    case ConstraintKind::kJsonSchema: return QUIPU_CONSTRAINT_JSON_SCHEMA;
    case ConstraintKind::kRegex: return QUIPU_CONSTRAINT_REGEX;
    case ConstraintKind::kLark: return QUIPU_CONSTRAINT_LARK;
    case ConstraintKind::kGbnf: return QUIPU_CONSTRAINT_GBNF;
    case ConstraintKind::kChoice: return QUIPU_CONSTRAINT_CHOICE;
    case ConstraintKind::kStructure: return QUIPU_CONSTRAINT_STRUCTURE;
  }
  QUIPU_CHECK(false, "a kind of constraint that does not exist");
  return -1;
}

}  // namespace

void Constraint::Free::operator()(QuipuConstraint* handle) const { quipu_constraint_free(handle); }

Result<Constraint> Constraint::duplicate() const {
  QuipuConstraint* handle = nullptr;
  ShimBuffer message;
  const int32_t code = quipu_constraint_duplicate(handle_.get(), &handle, message.out());
  QUIPU_RETURN_IF_ERROR(status_of(code, message, ErrorCode::kInternal));
  Constraint copy(handle);
  copy.complete_ = complete_;
  return copy;
}

Status Constraint::allowed(std::span<uint32_t> words) {
  ShimBuffer message;
  const int32_t code =
      quipu_constraint_mask(handle_.get(), words.data(), words.size(), message.out());
  return status_of(code, message, ErrorCode::kInternal);
}

Status Constraint::accept(TokenId token) {
  int32_t complete = 0;
  ShimBuffer message;
  const int32_t code = quipu_constraint_accept(handle_.get(), static_cast<uint32_t>(token),
                                               &complete, message.out());
  QUIPU_RETURN_IF_ERROR(status_of(code, message, ErrorCode::kInternal));
  complete_ = complete != 0;
  return Status::ok_status();
}

Result<bool> Constraint::may_end() {
  int32_t may = 0;
  ShimBuffer message;
  const int32_t code = quipu_constraint_may_end(handle_.get(), &may, message.out());
  QUIPU_RETURN_IF_ERROR(status_of(code, message, ErrorCode::kInternal));
  return may != 0;
}

Status Constraint::forced(std::string& bytes) const {
  ShimBuffer forced, message;
  const int32_t code = quipu_constraint_forced(handle_.get(), forced.out(), message.out());
  bytes += forced.view();
  return status_of(code, message, ErrorCode::kInternal);
}

uint64_t Constraint::memory_bytes() const { return quipu_constraint_bytes(handle_.get()); }

ConstraintCompiler::~ConstraintCompiler() { quipu_vocabulary_free(vocabulary_); }

Status ConstraintCompiler::prepare() {
  const std::lock_guard lock(mutex_);
  if (vocabulary_ != nullptr) return Status::ok_status();
  std::vector<uint32_t> ends;
  for (const TokenId id : tokenizer_.eos_ids()) ends.push_back(static_cast<uint32_t>(id));
  ShimBuffer message;
  const int32_t code = quipu_vocabulary_create(tokenizer_.handle(), ends.data(), ends.size(),
                                               &vocabulary_, message.out());
  return status_of(code, message, ErrorCode::kInternal);
}

Result<Constraint> ConstraintCompiler::compile(const ConstraintSource& source) {
  QUIPU_RETURN_IF_ERROR(prepare());
  QuipuConstraint* handle = nullptr;
  ShimBuffer message;
  const int32_t code = quipu_constraint_compile(vocabulary_, number_of(source.kind),
                                                bytes_of(source.text), &handle, message.out());
  QUIPU_RETURN_IF_ERROR(status_of(code, message, ErrorCode::kInvalidArgument));
  return Constraint(handle);
}

}  // namespace quipu
