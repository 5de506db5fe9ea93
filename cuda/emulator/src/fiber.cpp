#include "fiber.hpp"

#include <cstdint>

#if defined(__SANITIZE_ADDRESS__)
#include <pthread.h>
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(__x86_64__)
// The registers that a call preserves go to the old stack; those of the new stack come back.
asm(R"(
    .text
    .local hindsight_emulator_switch
    .type hindsight_emulator_switch, @function
    .p2align 4
hindsight_emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size hindsight_emulator_switch, .-hindsight_emulator_switch
)");
extern "C" void hindsight_emulator_switch(void** save, void* load) __attribute__((visibility("hidden")));
#endif

namespace emulator {

void prepare(Context& context, char* stack, size_t stack_bytes, void (*entry)()) {
  context.stack = stack;
  context.stack_bytes = stack_bytes;
#if defined(__SANITIZE_ADDRESS__)
  // A fiber that was given up in the middle of a function leaves its frames' red zones behind.
  __asan_unpoison_memory_region(stack, stack_bytes);
#endif
#if defined(__x86_64__)
  // Six registers, the address to return to, and the alignment that a function finds when it is called.
  void** top = reinterpret_cast<void**>(reinterpret_cast<uintptr_t>(stack + stack_bytes) & ~uintptr_t{15});
  top[-1] = nullptr;
  top[-2] = reinterpret_cast<void*>(entry);
  for (int i = 3; i <= 8; i++) top[-i] = nullptr;
  context.stack_pointer = top - 8;
#else
  getcontext(&context.context);
  context.context.uc_stack.ss_sp = stack;
  context.context.uc_stack.ss_size = stack_bytes;
  context.context.uc_link = nullptr;
  makecontext(&context.context, entry, 0);
#endif
}

void switch_context(Context& from, Context& to) {
#if defined(__SANITIZE_ADDRESS__)
  void* fake_stack = nullptr;
  __sanitizer_start_switch_fiber(&fake_stack, to.stack, to.stack_bytes);
#endif
#if defined(__x86_64__)
  hindsight_emulator_switch(&from.stack_pointer, to.stack_pointer);
#else
  swapcontext(&from.context, &to.context);
#endif
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
}

void entered() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
}

void describe_own_stack([[maybe_unused]] Context& context) {
#if defined(__SANITIZE_ADDRESS__)
  pthread_attr_t attributes;
  void* stack = nullptr;
  pthread_getattr_np(pthread_self(), &attributes);
  pthread_attr_getstack(&attributes, &stack, &context.stack_bytes);
  pthread_attr_destroy(&attributes);
  context.stack = static_cast<char*>(stack);
#endif
}

}  // namespace emulator
