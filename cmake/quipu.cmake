# quipu_library(base/or/deeper SOURCES ... LIBRARIES ... TESTS ... [TEST_LIBRARIES ...])
#
# One folder under src/ is one static library. `backend/cpu` becomes the target quipu_backend_cpu and
# its tests the program quipu_backend_cpu_test, registered with ctest under the folder's name.
function(quipu_library folder)
  cmake_parse_arguments(ARG "" "" "SOURCES;LIBRARIES;TESTS;TEST_LIBRARIES" ${ARGN})
  string(REPLACE "/" "_" name "${folder}")
  set(target quipu_${name})
  if(ARG_SOURCES)
    add_library(${target} STATIC ${ARG_SOURCES})
    target_link_libraries(${target} PUBLIC quipu_options ${ARG_LIBRARIES})
  else()
    add_library(${target} INTERFACE)
    target_link_libraries(${target} INTERFACE quipu_options ${ARG_LIBRARIES})
  endif()
  if(QUIPU_TESTS AND ARG_TESTS)
    add_executable(${target}_test ${ARG_TESTS})
    target_link_libraries(${target}_test PRIVATE ${target} ${ARG_TEST_LIBRARIES} GTest::gtest_main)
    target_compile_definitions(${target}_test PRIVATE
      QUIPU_SOURCE_DIR="${CMAKE_SOURCE_DIR}" QUIPU_SHARED_DIR="${CMAKE_SOURCE_DIR}/../shared")
    add_test(NAME ${folder} COMMAND ${target}_test)
    set_tests_properties(${folder} PROPERTIES TIMEOUT 600)
  endif()
endfunction()

# quipu_fuzz_target(name SOURCE file LIBRARIES ... [CORPUS folder])
#
# With clang and QUIPU_FUZZ: a libFuzzer program. Otherwise the same LLVMFuzzerTestOneInput is linked
# with tests/fuzz/standalone_driver.cc, which mutates a corpus with a seed for a fixed count.
function(quipu_fuzz_target name)
  cmake_parse_arguments(ARG "" "SOURCE" "LIBRARIES" ${ARGN})
  add_executable(${name} ${ARG_SOURCE})
  target_link_libraries(${name} PRIVATE ${ARG_LIBRARIES})
  if(QUIPU_FUZZ AND CMAKE_CXX_COMPILER_ID MATCHES Clang)
    target_link_options(${name} PRIVATE -fsanitize=fuzzer)
  else()
    target_sources(${name} PRIVATE ${CMAKE_SOURCE_DIR}/tests/fuzz/standalone_driver.cc)
  endif()
endfunction()

# quipu_program_test(name ENVIRONMENT...)
#
# The Python tests of the calling folder, all files *_test.py, over the built program. Not under
# sanitizers: what they do to the program's parts is tested there without it.
function(quipu_program_test name)
  if(QUIPU_SANITIZE OR NOT TARGET quipu)
    return()
  endif()
  find_package(Python3 3.9 REQUIRED COMPONENTS Interpreter)
  add_test(NAME ${name} COMMAND ${Python3_EXECUTABLE} -B -m unittest discover -s ${CMAKE_CURRENT_SOURCE_DIR} -p "*_test.py")
  set_tests_properties(${name} PROPERTIES TIMEOUT 600 ENVIRONMENT
    "QUIPU_SHARED_DIR=${CMAKE_SOURCE_DIR}/../shared;${ARGN}")
endfunction()
