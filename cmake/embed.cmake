# cmake -DOUTPUT=file.cc -DFILES="a;b" -DFOLDER=folder -P embed.cmake
#
# Writes web_assets() (src/web/assets.h): index.html at "/", every other file at "/web/NAME", each as it is and compressed.
find_program(GZIP_PROGRAM gzip REQUIRED)
function(write_array name file)
  file(READ ${file} hex HEX)
  string(LENGTH "${hex}" length)
  math(EXPR length "${length} / 2")
  string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${hex}")
  set(array "const unsigned char ${name}[] = {${bytes}0};\n" PARENT_SCOPE)
  set(length ${length} PARENT_SCOPE)
endfunction()
set(arrays "")
set(entries "")
foreach(name ${FILES})
  file(SHA256 ${FOLDER}/${name} digest)
  string(SUBSTRING ${digest} 0 16 digest)
  string(MAKE_C_IDENTIFIER ${name} identifier)
  write_array(k_${identifier} ${FOLDER}/${name})
  string(APPEND arrays "${array}")
  set(plain_length ${length})
  # Without a name and a time in it, so that the same file gives the same bytes.
  execute_process(COMMAND ${GZIP_PROGRAM} -9 -n -c ${FOLDER}/${name} OUTPUT_FILE ${OUTPUT}.gz COMMAND_ERROR_IS_FATAL ANY)
  write_array(k_${identifier}_gzip ${OUTPUT}.gz)
  string(APPEND arrays "${array}")
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
  string(APPEND entries "    {\"${path}\", \"${type}\", \"\\\"${digest}\\\"\",\n     text(k_${identifier}, ${plain_length}),\n     \"\\\"${digest}-gzip\\\"\", text(k_${identifier}_gzip, ${length})},\n")
endforeach()
file(REMOVE ${OUTPUT}.gz)
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
