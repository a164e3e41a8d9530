#include "app/output_constraint.h"

namespace quipu {

Result<std::shared_ptr<TokenConstraint>> OutputConstraint::start(const Constraint& compiled,
                                                                 size_t vocabulary_size) {
  Result<Constraint> state = compiled.duplicate();
  if (!state.ok()) return state.status();
  return std::shared_ptr<TokenConstraint>(new OutputConstraint(std::move(*state), vocabulary_size));
}

}  // namespace quipu
