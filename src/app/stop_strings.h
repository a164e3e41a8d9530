// StopStrings: cuts streamed text at the first stop string, and holds back what could begin one.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace quipu {

class StopStrings {
 public:
  explicit StopStrings(std::vector<std::string> stops);

  // Takes more text; returns what can be shown now. After a stop string was met, nothing more.
  std::string push(std::string_view text);
  // The end of the output: what was held back.
  std::string finish();

  bool stopped() const { return stopped_; }
  // The stop string that was met (of several at one place, the one given first); else empty.
  const std::string& stopped_by() const { return stopped_by_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  std::string stopped_by_;
  bool stopped_ = false;
};

}  // namespace quipu
