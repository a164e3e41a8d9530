// KvFormats: the format of keys and values for every layer of a model: one for all, and others for
// the layers that a user names.
//
//   int8                      all layers
//   int4,first=bf16,last=bf16 all but the first and the last
//   bf16,0-2=int8,7=f32       layers by number, counted from 0; a later rule wins over an earlier one
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "backend/kv_layout.h"
#include "base/status.h"

namespace quipu {

struct KvFormatRule {
  bool last = false;        // the model's last layer; from and to do not count then
  int from = 0, to = 0;     // layers, both included
  KvFormat format = KvFormat::kBF16;
  bool operator==(const KvFormatRule&) const = default;
};

struct KvFormats {
  KvFormats() = default;
  KvFormats(KvFormat all) : base(all) {}  // NOLINT: one format is a choice for all layers

  // ERRORS: kInvalidArgument, with the part that is not understood and what would be.
  static Result<KvFormats> parse(std::string_view text);

  // ERRORS: kInvalidArgument: a rule names a layer that a model of `layers` layers has not.
  Status check(int layers) const;
  // SHAPE: [layers]. REQUIRES: check(layers) is ok.
  std::vector<KvFormat> resolve(int layers) const;
  // As it is parsed: "int4,first=bf16,last=bf16".
  std::string to_string() const;
  bool operator==(const KvFormats&) const = default;

  KvFormat base = KvFormat::kBF16;
  std::vector<KvFormatRule> rules;
};

// The formats of all layers, runs of equal ones together: "int8", or "0=bf16,1-4=int8,5=bf16".
std::string kv_formats_by_layer(const std::vector<KvFormat>& formats);

}  // namespace quipu
