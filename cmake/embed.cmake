# cmake -DOUTPUT=file.cc -DFILES="a;b" -DFOLDER=folder -P embed.cmake
#
# Writes web_assets() (src/web/assets.h): index.html at "/", every other file at "/web/NAME".
set(arrays "")
set(entries "")
foreach(name ${FILES})
  file(READ ${FOLDER}/${name} hex HEX)
  file(SHA256 ${FOLDER}/${name} digest)
  string(SUBSTRING ${digest} 0 16 digest)
  string(LENGTH "${hex}" length)
  math(EXPR length "${length} / 2")
  string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${hex}")
  string(MAKE_C_IDENTIFIER ${name} identifier)
  if(name MATCHES "\\.html$")
    set(type "text/html; charset=utf-8")
  elseif(name MATCHES "\\.css$")
    set(type "text/css; charset=utf-8")
  elseif(name MATCHES "\\.js$")
    set(type "text/javascript; charset=utf-8")
  elseif(name MATCHES "\\.json$")
    set(type "application/json")
  elseif(name MATCHES "\\.svg$")
    set(type "image/svg+xml")
  else()
    message(FATAL_ERROR "embed.cmake: ${name}: no content type is known for this name")
  endif()
  set(path "/web/${name}")
  if(name STREQUAL index.html)
    set(path "/")
  endif()
  string(APPEND arrays "const unsigned char k_${identifier}[] = {${bytes}0};\n")
  string(APPEND entries "    {\"${path}\", \"${type}\", \"\\\"${digest}\\\"\",\n     text(k_${identifier}, ${length})},\n")
endforeach()
file(WRITE ${OUTPUT} "#include \"web/assets.h\"

namespace quipu {
namespace {

${arrays}
std::string_view text(const unsigned char* bytes, size_t size) {
  return {reinterpret_cast<const char*>(bytes), size};
}

}  // namespace

std::span<const WebAsset> web_assets() {
  static const WebAsset all[] = {
${entries}  };
  return all;
}

}  // namespace quipu
")
