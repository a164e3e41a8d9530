// Loads a model, streams a text, forks it, and says what the cache saved.
//   embed MODEL.gguf
#include <iostream>

#include <quipu/quipu.h>

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: embed MODEL\n";
    return 2;
  }
  const auto model = quipu::Model::load({.path = argv[1]});
  if (!model.ok()) {
    std::cerr << model.error().message << "\n";
    return 1;
  }
  auto story = model->make_session().value();
  if (!story.append("Once upon a time there was a goat").ok()) return 1;
  const auto print = [](std::string_view text) {
    return static_cast<bool>(std::cout << text << std::flush);
  };

  quipu::GenerationOptions options{.max_tokens = 40};
  options.sampling.seed = 1;
  for (auto session : {story, story.fork()}) {  // two endings of one beginning
    const auto result = session.generate(options, print);
    if (!result.ok()) {
      std::cerr << result.error().message << "\n";
      return 1;
    }
    std::cout << "\n[" << result->prompt_tokens << " tokens read, " << result->cached_tokens
              << " from the cache]\n";
    options.sampling.seed = 2;
  }
}
