// The page's files, embedded in the program by cmake/embed.cmake. THREADS: immutable.
#pragma once

#include <span>
#include <string_view>

namespace quipu {

struct WebAsset {
  std::string_view path;  // of its URL, such as "/" or "/web/app.css"
  std::string_view content_type;
  std::string_view etag;  // quoted, from the content's SHA-256
  std::string_view content;
};

std::span<const WebAsset> web_assets();

}  // namespace quipu
