#include "block.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace emulator {

namespace {

// Not a power of two: the tops of all stacks would fall into one set of the cache.
constexpr size_t STACK_BYTES = 64 * 1024 + 17 * 64;
// As a float a NaN, as an index far outside of everything.
constexpr int POISON = 0xff;

std::string at(const char* what, Place place) {
  const char* name = std::strrchr(place.file, '/');
  return std::string(what) + " at " + (name ? name + 1 : place.file) + ":" + std::to_string(place.line);
}

}  // namespace

Block machine;
SharedRegion* SharedRegion::first_ = nullptr;

SharedRegion::SharedRegion(void* memory, size_t bytes) : memory_(memory), bytes_(bytes), next_(first_) {
  first_ = this;
  std::memset(memory, POISON, bytes);
}

void SharedRegion::poison_all() {
  for (SharedRegion* region = first_; region; region = region->next_) std::memset(region->memory_, POISON, region->bytes_);
}

bool Block::run(dim3 grid, dim3 block, size_t shared_bytes, void (*body)(void**), void** arguments, int order) {
  const size_t count = size_t{block.x} * block.y * block.z;
  error_.clear();
  if (count == 0 || count > 1024 || size_t{grid.x} * grid.y * grid.z == 0) {
    error_ = "a block has 1 to 1,024 threads, and a grid at least one block";
    return false;
  }
  if (stacks_reserved_ < count) {
    std::free(stacks_);
    stacks_ = static_cast<char*>(std::aligned_alloc(64, count * STACK_BYTES));
    stacks_reserved_ = count;
  }
  threads_.resize(count);
  arrived_.resize((count + WARP_LANES - 1) / WARP_LANES);
  // Of its exact size, so that the address sanitizer sees its end.
  dynamic_shared_ = static_cast<char*>(std::aligned_alloc(16, (shared_bytes + 15) / 16 * 16));
  grid_size_ = grid;
  block_size_ = block;
  body_ = body;
  arguments_ = arguments;
  order_ = order;
  seed_ = static_cast<uint32_t>(order) * 2654435761u + 1;
  describe_own_stack(scheduler_);

  bool ran = true;
  for (unsigned z = 0; z < grid.z && ran; z++) {
    for (unsigned y = 0; y < grid.y && ran; y++) {
      for (unsigned x = 0; x < grid.x && ran; x++) {
        block_index_ = {x, y, z};
        SharedRegion::poison_all();
        if (shared_bytes != 0) std::memset(dynamic_shared_, POISON, shared_bytes);
        ran = run_block();
      }
    }
  }
  std::free(dynamic_shared_);
  dynamic_shared_ = nullptr;
  return ran;
}

void Block::start() {
  std::fill(arrived_.begin(), arrived_.end(), 0);
  running_.clear();
  released_.clear();
  next_ = at_barrier_ = done_ = 0;
  unsigned linear = 0;
  for (unsigned z = 0; z < block_size_.z; z++) {
    for (unsigned y = 0; y < block_size_.y; y++) {
      for (unsigned x = 0; x < block_size_.x; x++, linear++) {
        Thread& thread = threads_[linear];
        prepare(thread.context, stacks_ + linear * STACK_BYTES, STACK_BYTES, enter);
        thread.index = {x, y, z};
        thread.linear = linear;
        thread.state = Thread::State::ready;
        thread.operations = 0;
        released_.push_back(&thread);
      }
    }
  }
}

bool Block::run_block() {
  start();
  while (error_.empty()) {
    arrange();
    if (running_.empty()) {
      if (done_ == threads_.size()) return true;
      report_deadlock();
      break;
    }
    current_ = running_[0];
    next_ = 1;
    switch_context(scheduler_, current_->context);
  }
  return false;
}

void Block::enter() {
  entered();
  machine.body_(machine.arguments_);
  machine.done_++;
  machine.wait(Thread::State::done, {"", 0});
  std::abort();
}

// Who runs next, and in which order.
void Block::arrange() {
  running_.swap(released_);
  released_.clear();
  if (order_ == 1) std::reverse(running_.begin(), running_.end());
  if (order_ > 1 && !running_.empty()) {
    for (size_t i = running_.size() - 1; i > 0; i--) std::swap(running_[i], running_[random() % (i + 1)]);
    const size_t kept = held_back_from();
    released_.assign(running_.begin() + static_cast<std::ptrdiff_t>(kept), running_.end());
    running_.resize(kept);
  }
}

// The first of the shuffled threads that must wait for another turn.
size_t Block::held_back_from() {
  if (order_ % 2 == 0) return random() % 2 == 0 ? running_.size() : 1 + random() % running_.size();
  const auto in_favourite = [this](const Thread* thread) { return thread->linear / WARP_LANES == favourite_; };
  if (std::none_of(running_.begin(), running_.end(), in_favourite)) favourite_ = running_[0]->linear / WARP_LANES;
  return static_cast<size_t>(std::partition(running_.begin(), running_.end(), in_favourite) - running_.begin());
}

void Block::wait(Thread::State state, Place place) {
  Thread& self = *current_;
  self.state = state;
  self.place = place;
  if (next_ < running_.size() && error_.empty()) {
    current_ = running_[next_++];
    if (current_ != &self) switch_context(self.context, current_->context);
  } else {
    switch_context(self.context, scheduler_);
  }
}

void Block::barrier(Place place) {
  if (++at_barrier_ == threads_.size()) {
    current_->state = Thread::State::at_barrier;
    current_->place = place;
    release_barrier();
    wait(Thread::State::ready, place);
  } else {
    wait(Thread::State::at_barrier, place);
  }
}

void Block::release_barrier() {
  at_barrier_ = 0;
  for (Thread& thread : threads_) {
    if (thread.place.line != threads_[0].place.line || std::strcmp(thread.place.file, threads_[0].place.file) != 0) {
      fail("divergent barrier: threads wait" + at("", threads_[0].place) + " and" + at("", thread.place));
    }
    thread.state = Thread::State::ready;
    released_.push_back(&thread);
  }
}

void Block::warp_barrier(unsigned mask, Place place) {
  Thread& self = *current_;
  const unsigned warp = self.linear / WARP_LANES, lane = self.linear % WARP_LANES;
  if ((mask >> lane & 1) == 0) fail("a lane is not in the mask of its own warp operation" + at("", place));
  self.mask = mask;
  arrived_[warp] |= 1u << lane;
  self.state = Thread::State::in_warp_operation;
  self.place = place;
  if ((arrived_[warp] & mask) == mask) release_lanes(warp);
  wait(self.state, place);
}

// Releases the lanes of the current thread's mask if they agree on it.
void Block::release_lanes(unsigned warp) {
  const unsigned mask = current_->mask;
  Thread* lanes = &threads_[warp * WARP_LANES];
  for (unsigned lane = 0; lane < WARP_LANES; lane++) {
    if ((mask >> lane & 1) != 0 && lanes[lane].mask != mask) return;
  }
  for (unsigned lane = 0; lane < WARP_LANES; lane++) {
    if ((mask >> lane & 1) == 0) continue;
    lanes[lane].state = Thread::State::ready;
    released_.push_back(&lanes[lane]);
  }
  arrived_[warp] &= ~mask;
}

uint32_t Block::exchange(unsigned mask, uint32_t value, unsigned source, Place place) {
  Thread& self = *current_;
  const uint32_t slot = self.operations++ & 1;
  self.slots[slot] = value;
  warp_barrier(mask, place);
  const unsigned linear = self.linear / WARP_LANES * WARP_LANES + source;
  if (source >= WARP_LANES || (mask >> source & 1) == 0 || linear >= threads_.size()) {
    fail("a lane reads from a lane outside of the mask" + at("", place));
    return value;
  }
  return threads_[linear].slots[slot];
}

void Block::fail(const std::string& what) {
  if (!error_.empty()) return;
  const auto number = [](unsigned value) { return std::to_string(value); };
  error_ = what + ", block (" + number(block_index_.x) + ", " + number(block_index_.y) + ", " + number(block_index_.z) + ")";
}

void Block::report_deadlock() {
  const Thread* at_barrier = nullptr;
  const Thread* in_warp = nullptr;
  size_t waiting = 0;
  for (const Thread& thread : threads_) {
    if (thread.state == Thread::State::at_barrier) at_barrier = &thread;
    if (thread.state == Thread::State::in_warp_operation) in_warp = &thread, waiting++;
  }
  std::string what = "threads wait in vain: " + std::to_string(done_) + " have ended";
  if (at_barrier) what += ", " + std::to_string(at_barrier_) + at(" wait in a divergent barrier", at_barrier->place);
  if (in_warp) what += ", " + std::to_string(waiting) + at(" wait for lanes that never arrive", in_warp->place);
  fail(what);
}

uint32_t Block::random() {
  seed_ ^= seed_ << 13;
  seed_ ^= seed_ >> 17;
  seed_ ^= seed_ << 5;
  return seed_;
}

}  // namespace emulator
