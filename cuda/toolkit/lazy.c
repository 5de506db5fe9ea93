// A library that is opened when it is first called, instead of when the program starts.
//
// Linked in place of, say, libcuda.so: the program then names no such library and starts without it. Each function of the
// library is an entry point that jumps to where its record says. At first that is code that looks the function up, so that
// a record leads straight to the function from the second call on. Without the library, calls return an error.
//
// ENTRIES names a file with one line `ENTRY(function, RESULT)` for each function; LIBRARY is what to open; NO_LIBRARY and
// NO_FUNCTION are what functions return that have nothing to call. x86-64 with the System V calling convention.

#include <dlfcn.h>
#include <pthread.h>

struct record {
  void *target;
  const char *name;
  long result;  // one of the kinds below
};

enum { STATUS, TEXT, ZERO };

static void *library;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void open_library(void) { library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL); }

static long no_library(void) { return NO_LIBRARY; }
static long no_function(void) { return NO_FUNCTION; }
static const char *no_text(void) { return LIBRARY " is not there, or too old"; }
static long zero(void) { return 0; }

// Where to go on. Only what was found is remembered.
__attribute__((used)) static void *resolve(struct record *record) {
  pthread_once(&once, open_library);
  void *function = library ? dlsym(library, record->name) : 0;
  if (function) {
    __atomic_store_n(&record->target, function, __ATOMIC_RELEASE);
    return function;
  }
  switch (record->result) {
    case TEXT: return no_text;
    case ZERO: return zero;
    default: return library ? no_function : no_library;
  }
}

// Reached with the record in r11, which calls may overwrite. All registers that hold arguments are kept, and the stack is
// aligned: eight registers and a return address, then eight vectors and eight bytes.
__asm__(
    ".text\n"
    "first_call:\n"
    "  push %rdi\n  push %rsi\n  push %rdx\n  push %rcx\n"
    "  push %r8\n  push %r9\n  push %rax\n  push %r10\n"
    "  sub $136, %rsp\n"
    "  movups %xmm0, (%rsp)\n  movups %xmm1, 16(%rsp)\n  movups %xmm2, 32(%rsp)\n  movups %xmm3, 48(%rsp)\n"
    "  movups %xmm4, 64(%rsp)\n  movups %xmm5, 80(%rsp)\n  movups %xmm6, 96(%rsp)\n  movups %xmm7, 112(%rsp)\n"
    "  mov %r11, %rdi\n"
    "  call resolve\n"
    "  mov %rax, %r11\n"
    "  movups (%rsp), %xmm0\n  movups 16(%rsp), %xmm1\n  movups 32(%rsp), %xmm2\n  movups 48(%rsp), %xmm3\n"
    "  movups 64(%rsp), %xmm4\n  movups 80(%rsp), %xmm5\n  movups 96(%rsp), %xmm6\n  movups 112(%rsp), %xmm7\n"
    "  add $136, %rsp\n"
    "  pop %r10\n  pop %rax\n  pop %r9\n  pop %r8\n"
    "  pop %rcx\n  pop %rdx\n  pop %rsi\n  pop %rdi\n"
    "  jmp *%r11\n");

#define NUMBER_(kind) NUMBER_##kind
#define NUMBER_STATUS "0"
#define NUMBER_TEXT "1"
#define NUMBER_ZERO "2"

#define ENTRY(function, kind)                                              \
  __asm__(                                                                 \
      ".section .rodata\n"                                                 \
      "name_" #function ": .string \"" #function "\"\n"                    \
      ".data\n.balign 8\n"                                                 \
      "record_" #function ": .quad first_" #function ", name_" #function   \
      ", " NUMBER_(kind) "\n"                                              \
      ".text\n.globl " #function "\n.type " #function ", @function\n"      \
      #function ": jmp *record_" #function "(%rip)\n"                      \
      "first_" #function ": lea record_" #function "(%rip), %r11\n"        \
      "  jmp first_call\n"                                                 \
      ".size " #function ", . - " #function "\n");
#include ENTRIES
