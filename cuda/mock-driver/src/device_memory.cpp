#include "device_memory.hpp"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>

#include "report.hpp"

namespace mock {
namespace {

constexpr size_t ALIGNMENT = 512;
constexpr size_t GUARD_BYTES = 512;  // after each allocation
constexpr size_t FREED_BYTES = size_t{64} << 20;
constexpr int FRESH = 0xff, FREED = 0xdd, GUARD = 0xfd;

unsigned char* bytes_at(DevicePointer pointer) { return reinterpret_cast<unsigned char*>(pointer); }

size_t rounded(size_t bytes) { return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

std::string text(const char* format, DevicePointer pointer, size_t first, size_t second) {
  char buffer[160];
  std::snprintf(buffer, sizeof buffer, format, pointer, first, second);
  return buffer;
}

}  // namespace

Result DeviceMemory::allocate(size_t bytes, DevicePointer& pointer) {
  if (bytes > total_) return OUT_OF_MEMORY;
  const size_t charged = rounded(bytes);
  if (charged > available()) return OUT_OF_MEMORY;
  void* memory = std::aligned_alloc(ALIGNMENT, rounded(bytes + GUARD_BYTES));
  if (!memory) return OUT_OF_MEMORY;
  std::memset(memory, FRESH, bytes);
  std::memset(static_cast<unsigned char*>(memory) + bytes, GUARD, GUARD_BYTES);
  pointer = reinterpret_cast<DevicePointer>(memory);
  // The allocator may hand out what the table of freed memory has let go of, never what it still holds.
  live_[pointer] = {bytes, charged};
  used_ += charged;
  return SUCCESS;
}

Result DeviceMemory::release(DevicePointer pointer) {
  const auto found = live_.find(pointer);
  if (found == live_.end()) {
    report("free of %#llx, which is %s", pointer,
           freed_.count(pointer) ? "freed already" : "not the start of a device allocation");
    return INVALID_VALUE;
  }
  const Block block = found->second;
  for (size_t i = 0; i < GUARD_BYTES; i++) {
    if (bytes_at(pointer)[block.bytes + i] == GUARD) continue;
    report("the %zu bytes at %#llx were written %zu bytes past their end", block.bytes, pointer, i);
    break;
  }
  std::memset(bytes_at(pointer), FREED, block.bytes);
  live_.erase(found);
  used_ -= block.charged;
  freed_[pointer] = block;
  freed_order_.push_back(pointer);
  freed_bytes_ += block.charged;
  while (freed_bytes_ > FREED_BYTES && freed_order_.size() > 1) {
    const DevicePointer oldest = freed_order_.front();
    freed_order_.pop_front();
    freed_bytes_ -= freed_[oldest].charged;
    freed_.erase(oldest);
    std::free(bytes_at(oldest));
  }
  return SUCCESS;
}

const DeviceMemory::Table::value_type* DeviceMemory::holder(const Table& table, DevicePointer pointer) {
  auto next = table.upper_bound(pointer);
  if (next == table.begin()) return nullptr;
  const auto& candidate = *std::prev(next);
  return pointer < candidate.first + candidate.second.bytes ? &candidate : nullptr;
}

std::string DeviceMemory::fault(DevicePointer pointer, size_t bytes) const {
  if (bytes == 0) return {};
  if (const auto* block = holder(live_, pointer)) {
    const size_t left = block->first + block->second.bytes - pointer;
    if (bytes <= left) return {};
    return text("%#llx: %zu bytes run %zu past the end of their allocation", pointer, bytes, bytes - left);
  }
  if (freed(pointer)) return text("%#llx: %zu bytes of memory that has been freed", pointer, bytes, 0);
  return text("%#llx: %zu bytes of no device allocation", pointer, bytes, 0);
}

bool DeviceMemory::freed(DevicePointer pointer) const { return !holder(live_, pointer) && holder(freed_, pointer); }

}  // namespace mock
