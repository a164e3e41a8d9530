#include "format/hf_model.h"

#include <cmath>
#include <thread>

#include "format/hf_config.h"
#include "format/test_files.h"
#include "tensor/quantize.h"

namespace quipu {
namespace {

constexpr std::string_view kLlamaConfig =
    R"({"model_type":"llama","hidden_size":8,"intermediate_size":32,
  "num_hidden_layers":1,"num_attention_heads":2,"num_key_value_heads":1,"vocab_size":3,
  "tie_word_embeddings":true})";

// A safetensors file of f32 tensors whose elements count up from 0 through the whole file.
std::string counting_safetensors(const std::vector<std::pair<std::string, Shape>>& tensors) {
  std::string header = "{";
  size_t floats = 0;
  for (const auto& [name, shape] : tensors) {
    const size_t count = static_cast<size_t>(element_count(shape));
    header += fmt::format("{}\"{}\":{{\"dtype\":\"F32\",\"shape\":{},\"data_offsets\":[{},{}]}}",
                          floats == 0 ? "" : ",", name, shape_to_string(shape), 4 * floats,
                          4 * (floats + count));
    floats += count;
  }
  header += "}";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  std::string bytes = safetensors_bytes(header, 0);
  for (size_t i = 0; i < floats; ++i) {
    const float value = static_cast<float>(i);
    bytes.append(reinterpret_cast<const char*>(&value), 4);
  }
  return bytes;
}

std::vector<float> floats_of(const ModelFile& model, std::string_view name) {
  const auto data = model.read(name);
  EXPECT_TRUE(data.ok()) << data.status().message();
  std::vector<float> values(static_cast<size_t>(element_count(data->view.shape)));
  dequantize_row(data->view.dtype, data->view.data.data(), values);
  return values;
}

Result<HfConfig> config_of(std::string_view text, std::string_view generation = "") {
  return parse_hf_config(text, "config.json", generation, "generation_config.json", "name");
}

TEST(HfConfig, BecomesGgufKeys) {
  const auto config = config_of(
      kLlamaConfig, R"({"eos_token_id":[7,8],"do_sample":true,"temperature":0.6,"top_k":20})");
  ASSERT_TRUE(config.ok()) << config.status().message();
  const Metadata& metadata = config->metadata;
  EXPECT_EQ(metadata.get_string("general.architecture"), "llama");
  EXPECT_EQ(metadata.get_int("llama.embedding_length"), 8);
  EXPECT_EQ(metadata.get_int("llama.attention.head_count_kv"), 1);
  EXPECT_EQ(metadata.get_int("llama.rope.dimension_count"), 4);
  EXPECT_EQ(metadata.get_double("llama.attention.layer_norm_rms_epsilon"), 1e-6);
  EXPECT_EQ(metadata.get_double("llama.rope.freq_base"), 10000.0);
  EXPECT_EQ(metadata.get_int("tokenizer.ggml.eos_token_id"), 7);
  EXPECT_EQ(metadata.get_ints("tokenizer.ggml.eos_token_ids"), (std::vector<int64_t>{7, 8}));
  EXPECT_EQ(metadata.get_double("general.sampling.temp"), 0.6);
  EXPECT_EQ(metadata.get_int("general.sampling.top_k"), 20);
  EXPECT_TRUE(config->tied_embeddings);
}

// One member of kLlamaConfig replaced or added.
std::string llama_with(std::string_view member) {
  return std::string(kLlamaConfig.substr(0, kLlamaConfig.rfind('}'))) + "," + std::string(member) +
         "}";
}

constexpr std::string_view kT5Config =
    R"({"model_type":"t5","d_model":8,"d_kv":4,"d_ff":16,"num_layers":3,"num_heads":2,
        "vocab_size":9,"feed_forward_proj":"gated-gelu","tie_word_embeddings":false,
        "decoder_start_token_id":0,"relative_attention_max_distance":64})";

TEST(HfConfig, T5BecomesGgufKeys) {
  const auto config = config_of(kT5Config);
  ASSERT_TRUE(config.ok()) << config.status().message();
  const Metadata& metadata = config->metadata;
  EXPECT_EQ(metadata.get_string("general.architecture"), "t5");
  EXPECT_EQ(metadata.get_int("t5.context_length"), 512);
  EXPECT_EQ(metadata.get_int("t5.block_count"), 3);
  EXPECT_EQ(metadata.get_int("t5.decoder_block_count"), 3);
  EXPECT_EQ(metadata.get_int("t5.attention.key_length"), 4);
  EXPECT_EQ(metadata.get_int("t5.attention.relative_buckets_count"), 32);
  EXPECT_EQ(metadata.get_int("t5.attention.relative_max_distance"), 64);
  EXPECT_FALSE(config->tied_embeddings);
  std::string wrong(kT5Config);
  wrong.replace(wrong.find("gated-gelu"), 10, "gated-silu");
  EXPECT_EQ(config_of(wrong).status().code(), ErrorCode::kUnsupported);
}

TEST(HfArchitectures, T5NamesOfBothStacks) {
  const HfArchitecture& t5 = *find_hf_architecture("t5", "config.json").value();
  const std::pair<const char*, const char*> names[] = {
      {"shared.weight", "token_embd.weight"},
      {"encoder.block.1.layer.0.SelfAttention.q.weight", "enc.blk.1.attn_q.weight"},
      {"encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
       "enc.blk.0.attn_rel_b.weight"},
      {"decoder.block.2.layer.1.EncDecAttention.o.weight", "dec.blk.2.cross_attn_o.weight"},
      {"decoder.block.2.layer.2.DenseReluDense.wi_0.weight", "dec.blk.2.ffn_gate.weight"},
      {"decoder.final_layer_norm.weight", "dec.output_norm.weight"}};
  for (const auto& [from, to] : names) {
    const NameLookup lookup = map_tensor_name(t5, from);
    ASSERT_EQ(lookup.kind, NameKind::kMapped) << from;
    EXPECT_EQ(lookup.mapped.gguf_name, to);
  }
  EXPECT_EQ(map_tensor_name(t5, "decoder.embed_tokens.weight").kind, NameKind::kIgnored);
  EXPECT_EQ(map_tensor_name(t5, "encoder.block.1.layer.1.EncDecAttention.q.weight").kind,
            NameKind::kUnknown);
  EXPECT_EQ(map_tensor_name(t5, "encoder.block.x.layer.0.layer_norm.weight").kind,
            NameKind::kUnknown);
}

TEST(HfConfig, AnEncoderAloneSaysWhyThereIsNoKvCache) {
  for (const char* name : {"bert", "roberta", "distilbert"}) {
    const Status status =
        config_of(fmt::format(R"({{"model_type":"{}","hidden_size":8}})", name)).status();
    EXPECT_EQ(status.code(), ErrorCode::kUnsupported);
    for (const char* part : {name, "no KV cache", "config.json"})
      EXPECT_NE(status.message().find(part), std::string::npos) << status.message();
  }
}

TEST(HfConfig, SlidingWindowOnlyWhereItIsOn) {
  EXPECT_EQ(config_of(llama_with(R"("sliding_window":4096)"))
                ->metadata.get_int("llama.attention.sliding_window"),
            std::nullopt);
  std::string mistral = llama_with(R"("sliding_window":4096)");
  mistral.replace(mistral.find("\"llama\""), 7, "\"mistral\"");
  EXPECT_EQ(config_of(mistral)->metadata.get_int("llama.attention.sliding_window"), 4096);
  EXPECT_EQ(config_of(llama_with(R"("sliding_window":64,"use_sliding_window":true)"))
                ->metadata.get_int("llama.attention.sliding_window"),
            64);
}

TEST(HfConfig, QwenWindowsItsLaterLayersOnly) {
  const auto windows = [](const std::string& more) {
    std::string text = llama_with(more);
    text.replace(text.find("\"llama\""), 7, "\"qwen2\"");
    text.replace(text.find("\"num_hidden_layers\":1"), 21, "\"num_hidden_layers\":3");
    return config_of(text).value().metadata;
  };
  const std::string on = R"("use_sliding_window":true,"sliding_window":16)";
  EXPECT_FALSE(windows(on).contains("qwen2.attention.sliding_window"));  // the first 28 are full
  EXPECT_EQ(windows(on + R"(,"max_window_layers":0)").get_int("qwen2.attention.sliding_window"),
            16);
  const Metadata later = windows(on + R"(,"max_window_layers":2)");
  ASSERT_TRUE(later.contains("qwen2.attention.sliding_window_pattern"));
  EXPECT_EQ(std::get<std::vector<bool>>(*later.find("qwen2.attention.sliding_window_pattern")),
            (std::vector<bool>{false, false, true}));
}

TEST(HfConfig, RopeScaling) {
  const auto linear = config_of(llama_with(R"("rope_scaling":{"type":"linear","factor":4.0})"));
  EXPECT_EQ(linear->metadata.get_string("llama.rope.scaling.type"), "linear");
  EXPECT_EQ(linear->metadata.get_double("llama.rope.scaling.factor"), 4.0);
  const auto yarn = config_of(llama_with(
      R"("rope_parameters":{"rope_type":"yarn","rope_theta":5e5,"factor":4.0,
          "original_max_position_embeddings":64,"attention_factor":2.0})"));
  EXPECT_EQ(yarn->metadata.get_double("llama.rope.freq_base"), 5e5);
  EXPECT_EQ(yarn->metadata.get_int("llama.rope.scaling.original_context_length"), 64);
  EXPECT_NEAR(*yarn->metadata.get_double("llama.rope.scaling.attn_factor"),
              2.0 / (1 + 0.1 * std::log(4.0)), 1e-12);
  const auto llama3 = config_of(llama_with(
      R"("head_dim":64,"rope_theta":500000.0,"rope_scaling":{"rope_type":"llama3","factor":8.0,
          "low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":8192})"));
  EXPECT_EQ(llama3->metadata.find("llama.rope.scaling.type"), nullptr);
  ASSERT_EQ(llama3->rope_factors.size(), 1u);
  EXPECT_EQ(llama3->rope_factors[0].gguf_name, "rope_freqs.weight");
  const std::vector<float>& factors = llama3->rope_factors[0].values;
  ASSERT_EQ(factors.size(), 32u);
  EXPECT_EQ(factors[0], 1.0f);
  EXPECT_EQ(factors[31], 8.0f);
  for (size_t i = 1; i < 32; ++i) EXPECT_GE(factors[i], factors[i - 1]);
}

constexpr std::string_view kGemma3Config =
    R"({"model_type":"gemma3","eos_token_id":[1,106],"vision_config":{},"text_config":{
        "hidden_size":64,"intermediate_size":96,"num_hidden_layers":7,"head_dim":32,
        "rope_scaling":{"factor":8.0,"rope_type":"linear"},"sliding_window":16})";

TEST(HfConfig, GemmaTextOfAModelWithImages) {
  const Metadata metadata = config_of(std::string(kGemma3Config) + "}").value().metadata;
  EXPECT_EQ(metadata.get_string("general.architecture"), "gemma3");
  EXPECT_EQ(metadata.get_int("gemma3.attention.head_count"), 8);  // where nothing says so
  EXPECT_EQ(metadata.get_int("gemma3.attention.head_count_kv"), 4);
  EXPECT_EQ(metadata.get_int("gemma3.vocab_size"), 262208);
  EXPECT_EQ(metadata.get_double("gemma3.rope.freq_base"), 1e6);
  EXPECT_EQ(metadata.get_double("gemma3.rope.scaling.factor"), 8.0);
  EXPECT_EQ(metadata.get_double("gemma3.attention.scale"), 1.0 / 16);  // query_pre_attn_scalar 256
  EXPECT_FALSE(metadata.contains("gemma3.rope.freq_base_swa"));
  EXPECT_FALSE(metadata.contains("gemma3.attention.sliding_window_pattern"));
  EXPECT_EQ(metadata.get_int("tokenizer.ggml.eos_token_id"), 1);
}

TEST(HfConfig, GemmaLayersAndRopes) {
  const auto gemma = [](std::string_view more) {
    return config_of(std::string(kGemma3Config.substr(0, kGemma3Config.size() - 1)) + "," +
                     std::string(more) + "}}");
  };
  const auto listed = gemma(R"("layer_types":["full_attention","sliding_attention",
      "full_attention","full_attention","full_attention","full_attention","full_attention"])");
  EXPECT_EQ(std::get<std::vector<bool>>(
                *listed->metadata.find("gemma3.attention.sliding_window_pattern")),
            (std::vector<bool>{0, 1, 0, 0, 0, 0, 0}));
  const auto ropes = gemma(R"("rope_parameters":{"full_attention":{"rope_theta":2e6},
      "sliding_attention":{"rope_theta":3e4,"rope_type":"default"}})");
  EXPECT_EQ(ropes->metadata.get_double("gemma3.rope.freq_base"), 2e6);
  EXPECT_EQ(ropes->metadata.get_double("gemma3.rope.freq_base_swa"), 3e4);
  EXPECT_FALSE(ropes->metadata.contains("gemma3.rope.scaling.type"));
  expect_error(gemma(R"("layer_types":["full_attention"])").status(), ErrorCode::kCorruptData,
               {"'layer_types' has 1 entries for 7 layers"});
  std::string none = std::string(kGemma3Config) + "}";
  none.replace(none.find("\"sliding_window\":16"), 19, "\"sliding_window\":0");
  expect_error(config_of(none).status(), ErrorCode::kCorruptData,
               {"'text_config.sliding_window'"});
  expect_error(gemma(R"("use_bidirectional_attention":true)").status(), ErrorCode::kUnsupported,
               {"'use_bidirectional_attention'"});
  expect_error(gemma(R"("query_pre_attn_scalar":0)").status(), ErrorCode::kCorruptData,
               {"'query_pre_attn_scalar'"});
  expect_error(config_of(R"({"model_type":"gemma2","attn_logit_softcapping":null})").status(),
               ErrorCode::kUnsupported, {"'attn_logit_softcapping' is null"});
}

TEST(HfConfig, Phi3LongRope) {
  const auto phi = [](std::string_view rope) {
    std::string text = llama_with(R"("head_dim":16,"partial_rotary_factor":0.5,
        "original_max_position_embeddings":64,"max_position_embeddings":4096,"rope_scaling":)");
    text.pop_back();
    text += std::string(rope) + "}";
    return config_of(text.replace(text.find("\"llama\""), 7, "\"phi3\""));
  };
  const auto config = phi(R"({"type":"su","long_factor":[1,2,3,4],"short_factor":[1,1.5,1.5,1]})");
  ASSERT_TRUE(config.ok()) << config.status().message();
  EXPECT_EQ(config->metadata.get_int("phi3.rope.dimension_count"), 8);
  EXPECT_EQ(config->metadata.get_int("phi3.rope.scaling.original_context_length"), 64);
  EXPECT_NEAR(*config->metadata.get_double("phi3.rope.scaling.attn_factor"), std::sqrt(2.0), 1e-12);
  ASSERT_EQ(config->rope_factors.size(), 2u);
  EXPECT_EQ(config->rope_factors[0].gguf_name, "rope_factors_long.weight");
  EXPECT_EQ(config->rope_factors[0].values, (std::vector<float>{1, 2, 3, 4}));
  EXPECT_EQ(config->rope_factors[1].values, (std::vector<float>{1, 1.5, 1.5, 1}));
  expect_error(phi(R"({"type":"su","long_factor":[1,2,3],"short_factor":[1,1,1,1]})").status(),
               ErrorCode::kCorruptData, {"'long_factor' of 4 numbers", "found 3"});
  expect_error(phi(R"({"type":"su","long_factor":[1,2,3,0],"short_factor":[1,1,1,1]})").status(),
               ErrorCode::kCorruptData, {"'long_factor' has 0", "positive"});
  expect_error(phi(R"({"type":"longrope","long_factor":[1,2,3,4]})").status(),
               ErrorCode::kCorruptData, {"'short_factor' of 4 numbers", "found none"});
  expect_error(phi(R"({"type":"longrope","long_factor":["a"]})").status(), ErrorCode::kCorruptData,
               {"an array of numbers"});
  expect_error(phi(R"({"type":"linear","factor":2})").status(), ErrorCode::kUnsupported,
               {"'linear'", "default, longrope"});
}

TEST(HfConfig, RefusalsNameKeyExpectedAndFound) {
  const auto refuse = [](const std::string& text, ErrorCode code,
                         std::initializer_list<std::string_view> parts) {
    expect_error(config_of(text).status(), code, parts);
  };
  refuse("{}", ErrorCode::kCorruptData, {"config.json", "'model_type' is missing"});
  refuse(R"({"model_type":"mamba"})", ErrorCode::kUnsupported,
         {"'mamba'", "supported: llama, mistral, qwen2, qwen3, gpt2, gpt_bigcode"});
  refuse(R"({"model_type":"llama"})", ErrorCode::kCorruptData, {"'hidden_size' is missing"});
  refuse(R"({"model_type":"llama","hidden_size":-1})", ErrorCode::kCorruptData,
         {"'hidden_size'", "1 to", "-1"});
  refuse(R"({"model_type":"llama","hidden_size":"8"})", ErrorCode::kCorruptData,
         {"'hidden_size'", "the string '8'"});
  refuse(llama_with(R"("hidden_act":"relu")"), ErrorCode::kUnsupported,
         {"activation 'relu'", "silu"});
  refuse(llama_with(R"("rope_scaling":{"type":"dynamic","factor":2.0})"), ErrorCode::kUnsupported,
         {"'dynamic'", "linear, llama3, yarn"});
  refuse(llama_with(R"("rope_scaling":{"type":"linear"})"), ErrorCode::kCorruptData,
         {"'linear'", "'factor'", "none"});
  refuse(llama_with(R"("rope_scaling":{"type":"yarn","factor":2.0,"truncate":false})"),
         ErrorCode::kUnsupported, {"\"truncate\": false"});
  refuse(llama_with(R"("partial_rotary_factor":0.5)"), ErrorCode::kUnsupported,
         {"partial_rotary_factor"});
  refuse(llama_with(R"("quantization_config":{"quant_method":"gptq"})"), ErrorCode::kUnsupported,
         {"already quantised", "gptq"});
  refuse(
      R"({"model_type":"gpt_bigcode","n_embd":8,"n_layer":1,"n_head":2,"vocab_size":3,
          "multi_query":false})",
      ErrorCode::kUnsupported, {"'multi_query'"});
  refuse(R"({"model_type":"gpt2","n_embd":9,"n_layer":1,"n_head":2,"vocab_size":3})",
         ErrorCode::kCorruptData, {"'n_embd' 9"});
}

TEST(HfNames, MapToGguf) {
  const HfArchitecture& llama = **find_hf_architecture("llama", "");
  EXPECT_EQ(map_tensor_name(llama, "model.layers.12.self_attn.q_proj.weight").mapped.gguf_name,
            "blk.12.attn_q.weight");
  EXPECT_EQ(map_tensor_name(llama, "layers.0.mlp.down_proj.bias").mapped.gguf_name,
            "blk.0.ffn_down.bias");
  EXPECT_EQ(map_tensor_name(llama, "lm_head.weight").mapped.gguf_name, "output.weight");
  EXPECT_EQ(map_tensor_name(llama, "model.layers.0.self_attn.rotary_emb.inv_freq").kind,
            NameKind::kIgnored);
  for (const char* name : {"", ".weight", "model.layers..mlp.up_proj.weight",
                           "model.layers.-1.mlp.up_proj.weight", "model.layers.1mlp.up_proj.weight",
                           "model.layers.99999999999.mlp.up_proj.weight", "score.weight"}) {
    EXPECT_EQ(map_tensor_name(llama, name).kind, NameKind::kUnknown) << name;
  }
  const HfArchitecture& gpt2 = **find_hf_architecture("gpt2", "");
  EXPECT_EQ(map_tensor_name(gpt2, "h.3.attn.c_attn.bias").mapped.gguf_name, "blk.3.attn_qkv.bias");
  EXPECT_EQ(map_tensor_name(gpt2, "h.3.attn.c_attn.bias").mapped.order, RowOrder::kSame);
  EXPECT_EQ(map_tensor_name(gpt2, "transformer.h.3.attn.c_attn.weight").mapped.order,
            RowOrder::kTransposed);
  EXPECT_EQ(map_tensor_name(gpt2, "h.3.attn.bias").kind, NameKind::kIgnored);
}

class HfDirectory : public testing::Test {
 protected:
  void write_llama(const std::vector<std::pair<std::string, Shape>>& more = {}) {
    std::vector<std::pair<std::string, Shape>> tensors = {{"model.embed_tokens.weight", {3, 8}}};
    tensors.insert(tensors.end(), more.begin(), more.end());
    folder_.write("config.json", kLlamaConfig);
    folder_.write("model.safetensors", counting_safetensors(tensors));
  }
  Status open_status() { return open_model_file(folder_.path()).status(); }

  TemporaryFolder folder_;
};

TEST_F(HfDirectory, PermutesRotaryRowsOfLlama) {
  write_llama({{"model.layers.0.self_attn.q_proj.weight", {8, 8}},
               {"model.layers.0.self_attn.q_proj.bias", {8}}});
  const auto model = open_model_file(folder_.path());
  ASSERT_TRUE(model.ok()) << model.status().message();
  EXPECT_EQ((*model)->container(), "safetensors");
  EXPECT_EQ((*model)->tokenizer_directory(), std::nullopt);
  // Two heads of four rows: 0 1 2 3 becomes 0 2 1 3 in each.
  const std::vector<float> weight = floats_of(**model, "blk.0.attn_q.weight");
  const std::vector<float> bias = floats_of(**model, "blk.0.attn_q.bias");
  const int order[8] = {0, 2, 1, 3, 4, 6, 5, 7};
  for (int row = 0; row < 8; ++row) {
    EXPECT_EQ(weight[static_cast<size_t>(8 * row)], static_cast<float>(24 + 8 * order[row]));
    EXPECT_EQ(bias[static_cast<size_t>(row)], static_cast<float>(24 + 64 + order[row]));
  }
}

TEST_F(HfDirectory, TransposesConv1D) {
  folder_.write("config.json",
                R"({"model_type":"gpt2","n_embd":8,"n_layer":1,"n_head":2,"vocab_size":3})");
  folder_.write("model.safetensors", counting_safetensors({{"h.0.attn.c_attn.weight", {8, 24}},
                                                           {"h.0.attn.c_attn.bias", {24}}}));
  const auto model = open_model_file(folder_.path());
  ASSERT_TRUE(model.ok()) << model.status().message();
  EXPECT_EQ((*model)->find("blk.0.attn_qkv.weight")->shape, (Shape{24, 8}));
  const std::vector<float> weight = floats_of(**model, "blk.0.attn_qkv.weight");
  for (size_t out = 0; out < 24; ++out) {
    for (size_t in = 0; in < 8; ++in)
      EXPECT_EQ(weight[8 * out + in], static_cast<float>(24 * in + out));
  }
}

TEST_F(HfDirectory, QuantisesLinearWeightsOnlyAndFallsBack) {
  write_llama({{"model.layers.0.mlp.down_proj.weight", {8, 32}},
               {"model.layers.0.mlp.up_proj.weight", {32, 8}},
               {"model.norm.weight", {8}}});
  const auto model = open_model_file(folder_.path(), {.weights = DType::kQ4_K});
  ASSERT_TRUE(model.ok()) << model.status().message();
  EXPECT_EQ((*model)->find("blk.0.ffn_down.weight")->dtype, DType::kQ8_0);
  EXPECT_EQ((*model)->find("blk.0.ffn_up.weight")->dtype, DType::kBF16);
  EXPECT_EQ((*model)->find("token_embd.weight")->dtype, DType::kBF16);  // tied: the head too
  EXPECT_EQ((*model)->find("output_norm.weight")->dtype, DType::kF32);
  EXPECT_EQ((*model)->find("blk.0.ffn_down.weight")->bytes, 8u * 34u);
  // Any number of threads may read at once.
  const std::vector<float> expected = floats_of(**model, "blk.0.ffn_down.weight");
  std::vector<std::vector<float>> found(4);
  {
    std::vector<std::jthread> threads;
    for (auto& values : found)
      threads.emplace_back([&] { values = floats_of(**model, "blk.0.ffn_down.weight"); });
  }
  for (const auto& values : found) EXPECT_EQ(values, expected);
}

TEST_F(HfDirectory, ConvertsAnEmbeddingOnlyWhenItIsTheHeadToo) {
  write_llama();
  for (const DType type : {DType::kF16, DType::kF32}) {
    const auto tied = open_model_file(folder_.path(), {.weights = type});
    ASSERT_TRUE(tied.ok()) << tied.status().message();
    EXPECT_EQ((*tied)->find("token_embd.weight")->dtype, type);
  }
  write_llama({{"lm_head.weight", {3, 8}}});
  std::string config(kLlamaConfig);
  config.replace(config.find("true"), 4, "false");
  folder_.write("config.json", config);
  const auto untied = open_model_file(folder_.path(), {.weights = DType::kF16});
  ASSERT_TRUE(untied.ok()) << untied.status().message();
  EXPECT_EQ((*untied)->find("token_embd.weight")->dtype, DType::kF32);
  EXPECT_EQ((*untied)->find("output.weight")->dtype, DType::kF16);
}

TEST_F(HfDirectory, RefusesWhatDoesNotBelong) {
  write_llama({{"model.layers.0.experts.weight", {8}}});
  expect_error(open_status(), ErrorCode::kUnsupported,
               {"'model.layers.0.experts.weight'", "'llama'"});
  write_llama({{"model.layers.1.mlp.up_proj.weight", {32, 8}}});
  expect_error(open_status(), ErrorCode::kCorruptData, {"layer 1", "1 layers"});
  write_llama({{"model.layers.0.self_attn.q_proj.weight", {6, 8}}});
  expect_error(open_status(), ErrorCode::kCorruptData, {"[6, 8]", "2 heads"});
  write_llama({{"model.layers.0.mlp.up_proj.weight", {4, 8, 8}}});
  expect_error(open_status(), ErrorCode::kCorruptData, {"1 or 2 dimensions", "[4, 8, 8]"});
  write_llama({{"embed_tokens.weight", {3, 8}}});
  expect_error(open_status(), ErrorCode::kCorruptData, {"twice"});
  write_llama();
  std::string untied(kLlamaConfig);
  untied.replace(untied.find("true"), 4, "false");
  folder_.write("config.json", untied);
  expect_error(open_status(), ErrorCode::kCorruptData, {"'lm_head.weight'", "tie_word_embeddings"});
}

TEST_F(HfDirectory, SaysWhatIsMissing) {
  expect_error(open_status(), ErrorCode::kNotFound, {"no config.json"});
  folder_.write("small.gguf", "");
  expect_error(open_status(), ErrorCode::kNotFound, {"such as", "small.gguf"});
  folder_.write("config.json", kLlamaConfig);
  expect_error(open_status(), ErrorCode::kNotFound,
               {"neither model.safetensors nor model.safetensors.index.json"});
  folder_.write("pytorch_model.bin", "");
  expect_error(open_status(), ErrorCode::kNotFound, {"save the model as safetensors"});
}

TEST_F(HfDirectory, ReadsShardsAndDistrustsTheIndex) {
  folder_.write("config.json", kLlamaConfig);
  folder_.write("a.safetensors", counting_safetensors({{"model.embed_tokens.weight", {3, 8}}}));
  folder_.write("b.safetensors", counting_safetensors({{"model.norm.weight", {8}}}));
  const auto index = [&](std::string_view map) {
    folder_.write("model.safetensors.index.json", fmt::format("{{\"weight_map\":{{{}}}}}", map));
  };
  index(R"("model.embed_tokens.weight":"a.safetensors","model.norm.weight":"b.safetensors")");
  const auto model = open_model_file(folder_.path());
  ASSERT_TRUE(model.ok()) << model.status().message();
  EXPECT_EQ((*model)->container(), "safetensors, 2 files");
  EXPECT_EQ(floats_of(**model, "output_norm.weight")[7], 7.0f);

  index(R"("model.norm.weight":"c.safetensors")");
  expect_error(open_status(), ErrorCode::kNotFound, {"c.safetensors", "missing"});
  index(R"("model.norm.weight":"a.safetensors")");
  expect_error(open_status(), ErrorCode::kCorruptData,
               {"a.safetensors", "'model.norm.weight'", "does not"});
  for (const char* name : {"../a.safetensors", "/etc/a.safetensors", "model.safetensors.index.json",
                           ".safetensors", ""}) {
    index(fmt::format("\"model.norm.weight\":\"{}\"", name));
    expect_error(open_status(), ErrorCode::kCorruptData,
                 {"model.safetensors.index.json", "same directory"});
  }
  index("");
  expect_error(open_status(), ErrorCode::kCorruptData, {"'weight_map'"});
  folder_.write("b.safetensors", counting_safetensors({{"model.embed_tokens.weight", {3, 8}}}));
  index(R"("model.embed_tokens.weight":"b.safetensors","embed":"a.safetensors")");
  EXPECT_FALSE(open_status().ok());
}

TEST_F(HfDirectory, TruncatedWeightsAreRefused) {
  write_llama();
  const std::string whole = counting_safetensors({{"model.embed_tokens.weight", {3, 8}}});
  for (size_t length = 0; length < whole.size(); ++length) {
    folder_.write("model.safetensors", whole.substr(0, length));
    EXPECT_EQ(open_status().code(), ErrorCode::kCorruptData) << length;
  }
}

TEST(HfGolden, ReadsEveryArchitecture) {
  const std::filesystem::path folder =
      std::filesystem::path(QUIPU_SOURCE_DIR) / "tests/golden/models";
  for (const auto& [name, architecture, tensors] : {std::tuple{"llama-rope-llama3", "llama", 21},
                                                    {"mistral-f16-sharded", "llama", 21},
                                                    {"qwen2-tied", "qwen2", 14},
                                                    {"qwen3-d128-tied", "qwen3", 24},
                                                    {"gpt2", "gpt2", 28},
                                                    {"starcoder", "starcoder", 28}}) {
    const auto model = open_model_file(folder / name);
    ASSERT_TRUE(model.ok()) << model.status().message();
    EXPECT_EQ((*model)->metadata().get_string("general.architecture"), architecture);
    EXPECT_EQ((*model)->tensors().size(), static_cast<size_t>(tensors)) << name;
    for (const TensorInfo& tensor : (*model)->tensors()) {
      const TensorData data = (*model)->read(tensor.name).value();
      EXPECT_EQ(data.view.data.size(), tensor.bytes) << tensor.name;
      EXPECT_EQ(data.view.dtype, tensor.dtype);
      if (tensor.shape.size() == 1) {
        EXPECT_EQ(tensor.dtype, DType::kF32) << tensor.name;
      }
      (*model)->release(tensor.name);
    }
  }
}

}  // namespace
}  // namespace quipu
