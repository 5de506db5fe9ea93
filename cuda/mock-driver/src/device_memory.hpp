// The device's memory: host memory with a limit, and a table of what is allocated, so that what a device would silently
// read or overwrite is seen.
#pragma once

#include <cstddef>
#include <deque>
#include <map>
#include <string>

#include "api.hpp"

namespace mock {

class DeviceMemory {
 public:
  explicit DeviceMemory(size_t bytes) : total_(bytes) {}

  // Memory filled with 0xff: a NaN as any float, and no valid index. OUT_OF_MEMORY beyond the limit.
  Result allocate(size_t bytes, DevicePointer& pointer);

  // Fills the memory with 0xdd and keeps it for a while, so that a late reader finds poison and not somebody's data.
  // INVALID_VALUE for a pointer that is not the start of a live allocation. Reports writes past the allocation's end.
  Result release(DevicePointer pointer);

  // What is wrong with touching `bytes` at `pointer`; empty if one live allocation holds them all.
  std::string fault(DevicePointer pointer, size_t bytes) const;

  // Whether the address lies in memory that has been freed lately.
  bool freed(DevicePointer pointer) const;

  size_t total() const { return total_; }
  size_t available() const { return total_ - used_; }

 private:
  struct Block {
    size_t bytes;
    size_t charged;
  };
  using Table = std::map<DevicePointer, Block>;
  static const Table::value_type* holder(const Table& table, DevicePointer pointer);

  const size_t total_;
  size_t used_ = 0;
  Table live_, freed_;
  std::deque<DevicePointer> freed_order_;  // oldest first
  size_t freed_bytes_ = 0;
};

}  // namespace mock
