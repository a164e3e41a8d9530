// DraftGain: how many guessed tokens are worth a place in a step, from how often guesses of one
// kind came true for a sequence and from what a token more costs beside a step. None, when none
// pays; now and then a few are tried again. SOURCE: Leviathan et al. 2023 for the expected gain.
// THREADS: engine thread only.
#pragma once

namespace quipu {

class DraftGain {
 public:
  // chance: that a guess comes true if those before it did, before anything is known.
  explicit DraftGain(double chance) : chance_(chance) {}

  // How many to check, of at most `tokens_max`. `token_cost`: of one more token, as a share of a
  // step without it.
  int count(int tokens_max, double token_cost);
  // Guesses will be checked.
  void proposed() { steps_waited_ = 0; }
  // What came of them.
  void judged(int proposed, int accepted);

 private:
  double chance_;
  int steps_waited_ = 0;  // since guesses were worth a try
};

}  // namespace quipu
