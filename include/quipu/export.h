// What makes a name part of the library: its visibility, and the namespace that carries the version
// of the interface. Names are used as quipu::Model; the linker knows them as quipu::v1::Model, so
// that a later interface can live beside this one in a process.
#pragma once

#if defined(__GNUC__)
#define QUIPU_API __attribute__((visibility("default")))
#else
#define QUIPU_API
#endif

// Inside the library the name quipu::Model is taken by something else.
#ifdef QUIPU_BUILDS_LIBRARY
namespace quipu::v1 {}
#else
namespace quipu {
inline namespace v1 {}
}  // namespace quipu
#endif
