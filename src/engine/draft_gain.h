// DraftGain: how many guessed tokens are worth a place in a step, for one sequence and one kind of
// guesses. It follows from how often they came true, from what a token more costs beside a step,
// and from what looking for guesses costs, whether or not it finds any. None, when none pays; now
// and then a look is tried all the same, so seldom that it costs next to nothing. SOURCE: Leviathan
// et al. 2023 for the expected gain. THREADS: engine thread only.
#pragma once

namespace quipu {

// UNITS: shares of a step without guesses.
struct DraftCosts {
  double look = 0;   // of looking for guesses once
  double token = 0;  // of checking one guess
};

class DraftGain {
 public:
  // chance: that a guess comes true if those before it did, before anything is known.
  explicit DraftGain(double chance) : chance_(chance), accepted_(chance) {}

  // How many to look for, of at most `tokens_max`. 0: a look is not worth it in this step. Called
  // once a step; after a look, found_none() or judged() says what came of it, unless its guesses
  // were not checked.
  int count(int tokens_max, const DraftCosts& costs);
  void found_none();
  void judged(int proposed, int accepted);

 private:
  int best_count(int tokens_max, const DraftCosts& costs) const;
  void note_look(int proposed, int accepted);

  double chance_;
  // Guesses of a look that came true, on average of the last ones; before anything is known, a look
  // is thought to find one guess. UNITS: tokens.
  double accepted_;
  bool last_found_ = true;
  int steps_waited_ = 0;  // since a look was worth a try
};

}  // namespace quipu
