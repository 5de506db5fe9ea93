// Fibers: one per CUDA thread. A switch costs a few nanoseconds on x86-64; elsewhere the C library's contexts serve.
#pragma once

#include <cstddef>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace emulator {

// Where a fiber, or the thread that runs the fibers, goes on.
struct Context {
#if defined(__x86_64__)
  void* stack_pointer = nullptr;
#else
  ucontext_t context;
#endif
  // The bounds of its stack, for the address sanitizer.
  char* stack = nullptr;
  size_t stack_bytes = 0;
};

// Makes `context` begin at `entry` with an empty stack. `entry` must never return.
void prepare(Context& context, char* stack, size_t stack_bytes, void (*entry)());

// Goes on at `to` until something switches back to `from`.
void switch_context(Context& from, Context& to);

// To be called first thing in `entry`, and by the thread that runs the fibers before the first switch.
void entered();
void describe_own_stack(Context& context);

}  // namespace emulator
