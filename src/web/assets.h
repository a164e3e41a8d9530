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
  // The same in gzip's form, which is another representation and so has another tag (RFC
  // 9110, 8.8.3).
  std::string_view gzip_etag;
  std::string_view gzip;
};

std::span<const WebAsset> web_assets();

}  // namespace quipu
