// Runs the threads of one CUDA thread block as fibers, one at a time, in an order that the caller chooses.
//
// A thread runs until it waits: at the block's barrier, or in a warp operation for the other lanes of its mask. Orders: 0
// runs the lowest thread first, 1 the highest; even seeds shuffle all threads and hold some back now and then; odd seeds let
// one warp run as far as it gets before another runs. So threads get as far apart as the kernel's own synchronisation lets
// them, and a missing barrier shows as wrong values.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "fiber.hpp"

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};

namespace emulator {

constexpr unsigned WARP_LANES = 32;

// A line of a kernel.
struct Place {
  const char* file;
  int line;
};

struct Thread {
  enum class State { ready, at_barrier, in_warp_operation, done };
  Context context;
  dim3 index;
  unsigned linear;
  State state;
  Place place;       // where it waits
  unsigned mask;     // the lanes that it waits for
  uint32_t operations;  // warp operations so far: two exchanges use different slots
  uint32_t slots[2];
};

class Block {
 public:
  // Runs `body(arguments)` once for each thread of each block of the grid. False if the threads wait for each other in
  // vain: `error()` says where.
  bool run(dim3 grid, dim3 block, size_t shared_bytes, void (*body)(void**), void** arguments, int order);
  const std::string& error() const { return error_; }

  // What a kernel sees.
  const Thread& thread() const { return *current_; }
  dim3 block_index() const { return block_index_; }
  dim3 block_size() const { return block_size_; }
  dim3 grid_size() const { return grid_size_; }
  char* dynamic_shared() { return dynamic_shared_; }
  void barrier(Place place);
  void warp_barrier(unsigned mask, Place place);
  // The value that lane `source` gives to the same exchange.
  uint32_t exchange(unsigned mask, uint32_t value, unsigned source, Place place);

 private:
  static void enter();
  void start();
  bool run_block();
  void wait(Thread::State state, Place place);
  void arrange();
  size_t held_back_from();
  void release_barrier();
  void release_lanes(unsigned warp);
  void fail(const std::string& what);
  void report_deadlock();
  uint32_t random();

  std::vector<Thread> threads_;
  char* stacks_ = nullptr;
  size_t stacks_reserved_ = 0;
  char* dynamic_shared_ = nullptr;
  Context scheduler_;
  Thread* current_ = nullptr;
  std::vector<Thread*> running_;  // in this order, from next_ on
  size_t next_ = 0;
  std::vector<Thread*> released_;  // when those have run
  std::vector<unsigned> arrived_;  // for each warp, the lanes that wait in a warp operation
  size_t at_barrier_ = 0, done_ = 0;
  dim3 block_index_, block_size_, grid_size_;
  void (*body_)(void**) = nullptr;
  void** arguments_ = nullptr;
  int order_ = 0;
  uint32_t seed_ = 1;
  unsigned favourite_ = 0;  // the warp that runs ahead
  std::string error_;
};

extern Block machine;

// Memory that one declaration of a kernel gives to a block. All of it is poisoned when a block starts.
class SharedRegion {
 public:
  SharedRegion(void* memory, size_t bytes);
  static void poison_all();

 private:
  void* memory_;
  size_t bytes_;
  SharedRegion* next_;
  static SharedRegion* first_;
};

}  // namespace emulator
