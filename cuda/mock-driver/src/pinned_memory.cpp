#include "pinned_memory.hpp"

#include <cstdlib>
#include <cstring>
#include <iterator>

#include "report.hpp"

namespace mock {
namespace {

constexpr size_t PAGE = 4096;

uintptr_t address(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer); }

}  // namespace

Result PinnedMemory::allocate(size_t bytes, void*& pointer) {
  if (bytes == 0 || bytes > SIZE_MAX - PAGE) return INVALID_VALUE;
  pointer = std::aligned_alloc(PAGE, (bytes + PAGE - 1) / PAGE * PAGE);
  if (!pointer) return OUT_OF_MEMORY;
  std::memset(pointer, 0xff, bytes);
  ranges_[address(pointer)] = {bytes, true, false};
  return SUCCESS;
}

Result PinnedMemory::release(void* pointer) {
  const auto found = ranges_.find(address(pointer));
  if (found == ranges_.end() || !found->second.allocated) {
    report("free of pinned memory at %p, which the driver did not allocate", pointer);
    return INVALID_VALUE;
  }
  ranges_.erase(found);
  std::free(pointer);
  return SUCCESS;
}

Result PinnedMemory::add(void* pointer, size_t bytes, bool read_only) {
  const uintptr_t start = address(pointer);
  if (!pointer || bytes == 0 || bytes > UINTPTR_MAX - start) return INVALID_VALUE;
  const auto next = ranges_.lower_bound(start + bytes);
  if (next != ranges_.begin()) {
    const auto& before = *std::prev(next);
    if (before.first + before.second.bytes > start) return HOST_MEMORY_ALREADY_REGISTERED;
  }
  ranges_[start] = {bytes, false, read_only};
  return SUCCESS;
}

Result PinnedMemory::remove(const void* pointer) {
  const auto found = ranges_.find(address(pointer));
  if (found == ranges_.end() || found->second.allocated) return HOST_MEMORY_NOT_REGISTERED;
  ranges_.erase(found);
  return SUCCESS;
}

const PinnedMemory::Range* PinnedMemory::find(const void* pointer) const {
  const auto next = ranges_.upper_bound(address(pointer));
  if (next == ranges_.begin()) return nullptr;
  const auto& candidate = *std::prev(next);
  return address(pointer) < candidate.first + candidate.second.bytes ? &candidate.second : nullptr;
}

const PinnedMemory::Range* PinnedMemory::starting_at(const void* pointer) const {
  const auto found = ranges_.find(address(pointer));
  return found == ranges_.end() ? nullptr : &found->second;
}

bool PinnedMemory::covers(const void* pointer, size_t bytes, bool written) const {
  const uintptr_t end = address(pointer) + bytes;
  auto next = ranges_.upper_bound(address(pointer));
  if (next == ranges_.begin()) return false;
  uintptr_t covered = address(pointer);
  for (--next; next != ranges_.end() && next->first <= covered && covered < end; ++next) {
    if (written && next->second.read_only) return false;
    const uintptr_t range_end = next->first + next->second.bytes;
    if (range_end <= covered) return false;
    covered = range_end;
  }
  return covered >= end;
}

bool PinnedMemory::holds(const void* pointer, size_t bytes) const {
  const auto next = ranges_.upper_bound(address(pointer));
  if (next == ranges_.begin()) return false;
  const auto& candidate = *std::prev(next);
  const uintptr_t end = candidate.first + candidate.second.bytes;
  return address(pointer) < end && bytes <= end - address(pointer);
}

}  // namespace mock
