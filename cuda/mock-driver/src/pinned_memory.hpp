// Host memory that the device may reach: allocated by the driver, or registered with it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>

#include "api.hpp"

namespace mock {

class PinnedMemory {
 public:
  struct Range {
    size_t bytes;
    bool allocated;  // by the driver, not registered
    bool read_only;
  };

  Result allocate(size_t bytes, void*& pointer);
  Result release(void* pointer);

  // HOST_MEMORY_ALREADY_REGISTERED where any byte is pinned already.
  Result add(void* pointer, size_t bytes, bool read_only);
  Result remove(const void* pointer);

  // The range that holds the address, or null.
  const Range* find(const void* pointer) const;
  // The range that starts at the address, or null.
  const Range* starting_at(const void* pointer) const;
  // Whether the bytes lie in ranges, one or several that follow each other, that may be written if they shall be: a kernel
  // does not see where one ends.
  bool covers(const void* pointer, size_t bytes, bool written) const;
  // Whether one range holds all the bytes, as copies need it.
  bool holds(const void* pointer, size_t bytes) const;

 private:
  std::map<uintptr_t, Range> ranges_;
};

}  // namespace mock
