// quipu as a library: include this, link quipu::quipu (CMake) or `pkg-config --libs quipu`.
// docs/LIBRARY.md is the guide.
#pragma once

// IWYU pragma: begin_exports
#include <quipu/export.h>
#include <quipu/generation.h>
#include <quipu/model.h>
#include <quipu/result.h>
#include <quipu/session.h>
#include <quipu/version.h>
// IWYU pragma: end_exports
