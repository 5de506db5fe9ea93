#include "kernel_cost.hpp"

#include <algorithm>
#include <cstdio>

namespace mock {
namespace {

constexpr unsigned ELEMENT_BYTES = 2;
constexpr unsigned NO_SLOT = 0xffffffff;

std::string text(const char* what, size_t index, DevicePointer address, const std::string& why) {
  char buffer[320];
  std::snprintf(buffer, sizeof buffer, "%s %zu, at %#llx: %s", what, index, address, why.c_str());
  return buffer;
}

std::string too_long(unsigned blocks, unsigned stride) {
  return "a list of " + std::to_string(blocks) + " blocks does not fit a stride of " + std::to_string(stride);
}

// An array among the arguments, which the driver may read if `fault` is empty.
template <class T>
struct Array {
  const T* values;
  std::string fault;

  Array(const Driver& driver, const Launch& launch, size_t argument, size_t count)
      : values(launch.argument<const T*>(argument)) {
    const auto address = reinterpret_cast<DevicePointer>(values);
    if (driver.pinned.covers(values, count * sizeof(T), false)) return;
    fault = driver.device.fault(address, count * sizeof(T));
    if (!fault.empty()) fault = text("argument", argument, address, fault);
  }
};

// A block outside the pool: in pinned memory (over the link) or device memory. What is wrong, or nothing.
std::string outside_block(const Driver& driver, const char* what, size_t index, DevicePointer address, size_t bytes,
                          bool written, bool& over_link) {
  over_link = driver.pinned.covers(reinterpret_cast<const void*>(address), bytes, written);
  if (over_link) return {};
  const std::string fault = driver.device.fault(address, bytes);
  const char* why = written ? "neither pinned for writing nor allocated: " : "neither pinned nor allocated: ";
  return fault.empty() ? fault : text(what, index, address, why + fault);
}

std::string pool_block(const Driver& driver, DevicePointer pool, size_t index, unsigned slot, size_t block_bytes) {
  const DevicePointer address = pool + static_cast<DevicePointer>(slot) * block_bytes;
  const std::string fault = driver.device.fault(address, block_bytes);
  return fault.empty() ? fault : text("slot", index, address, fault);
}

std::string gather(const Driver& driver, const Launch& launch, Cost& cost) {
  const auto blocks = launch.argument<unsigned>(3);
  const size_t block_bytes = launch.argument<unsigned>(4);
  const Array<DevicePointer> sources(driver, launch, 0, blocks);
  const Array<unsigned> slots(driver, launch, 1, blocks);
  for (const auto* fault : {&sources.fault, &slots.fault})
    if (!fault->empty()) return *fault;
  for (unsigned i = 0; i < blocks; i++) {
    bool over_link = false;
    std::string fault = outside_block(driver, "source", i, sources.values[i], block_bytes, false, over_link);
    if (fault.empty()) fault = pool_block(driver, launch.argument<DevicePointer>(2), i, slots.values[i], block_bytes);
    if (!fault.empty()) return fault;
    cost.device_bytes += static_cast<double>(block_bytes) * (over_link ? 1 : 2);
    cost.link_bytes += over_link ? static_cast<double>(block_bytes) : 0;
  }
  if (cost.link_bytes > 0) cost.direction = Direction::host_to_device;
  return {};
}

std::string append(const Driver& driver, const Launch& launch, Cost& cost) {
  const auto tokens = launch.argument<unsigned>(2), kv_heads = launch.argument<unsigned>(3);
  const auto dim = launch.argument<unsigned>(4), block_tokens = launch.argument<unsigned>(5);
  const size_t entries = static_cast<size_t>(kv_heads) * launch.argument<unsigned>(7);
  const size_t block_bytes = size_t{2} * block_tokens * dim * ELEMENT_BYTES;
  const double elements = 2.0 * tokens * kv_heads * dim;
  cost.device_bytes += elements * sizeof(float);
  if (launch.argument<DevicePointer>(8)) {
    const Array<DevicePointer> host_blocks(driver, launch, 8, entries);
    if (!host_blocks.fault.empty()) return host_blocks.fault;
    bool over_link = false;
    for (size_t i = 0; i < entries; i++) {
      const std::string fault = outside_block(driver, "host block", i, host_blocks.values[i], block_bytes, true,
                                             over_link);
      if (!fault.empty()) return fault;
    }
    cost.link_bytes += elements * ELEMENT_BYTES;
    cost.direction = Direction::device_to_host;
  }
  if (const auto pool = launch.argument<DevicePointer>(9)) {
    const Array<unsigned> slots(driver, launch, 10, entries);
    if (!slots.fault.empty()) return slots.fault;
    size_t held = 0;
    for (size_t i = 0; i < entries; i++) {
      if (slots.values[i] == NO_SLOT) continue;
      const std::string fault = pool_block(driver, pool, i, slots.values[i], block_bytes);
      if (!fault.empty()) return fault;
      held++;
    }
    if (held > 0) cost.device_bytes += elements * ELEMENT_BYTES * static_cast<double>(held) / static_cast<double>(entries);
  }
  return {};
}

std::string decode(const Driver& driver, const Launch& launch, Cost& cost) {
  const unsigned kv_heads = launch.grid().x, dim = launch.head_dim();
  const auto stride = launch.argument<unsigned>(5), group = launch.argument<unsigned>(6);
  const auto block_tokens = launch.argument<unsigned>(7), splits = launch.argument<unsigned>(8);
  const size_t block_bytes = size_t{2} * block_tokens * dim * ELEMENT_BYTES;
  const Array<unsigned> blocks(driver, launch, 3, kv_heads);
  if (!blocks.fault.empty()) return blocks.fault;
  double listed = 0;
  for (unsigned head = 0; head < kv_heads; head++) {
    const unsigned count = blocks.values[head];
    if (count == 0) continue;
    if (count > stride) return too_long(count, stride);
    const Array<unsigned> slots(driver, launch, 2, static_cast<size_t>(head) * stride + count);
    if (!slots.fault.empty()) return slots.fault;
    for (size_t i = size_t{head} * stride; i < size_t{head} * stride + count; i++) {
      const std::string fault = pool_block(driver, launch.argument<DevicePointer>(1), i, slots.values[i], block_bytes);
      if (!fault.empty()) return fault;
    }
    listed += count;
  }
  const double heads = static_cast<double>(kv_heads) * group;
  cost.device_bytes += listed * static_cast<double>(block_bytes) + heads * dim * sizeof(float) +
                       splits * heads * (dim + 1.0) * sizeof(float);
  cost.flops += 4.0 * listed * block_tokens * group * dim;
  return {};
}

std::string merge(const Driver&, const Launch& launch, Cost& cost) {
  const double splits = launch.argument<unsigned>(2), heads = launch.argument<unsigned>(3);
  cost.device_bytes += (splits + 1) * heads * (launch.argument<unsigned>(4) + 1.0) * sizeof(float);
  return {};
}

std::string prefill(const Driver& driver, const Launch& launch, Cost& cost) {
  const auto tokens = launch.argument<unsigned>(1), kv_heads = launch.argument<unsigned>(2);
  const auto group = launch.argument<unsigned>(3), stride = launch.argument<unsigned>(6);
  const auto block_tokens = launch.argument<unsigned>(7), keys = launch.argument<unsigned>(8);
  const auto key_start = launch.argument<unsigned>(9), query_start = launch.argument<unsigned>(10);
  const unsigned dim = launch.head_dim(), listed = (keys + block_tokens - 1) / std::max(block_tokens, 1u);
  const size_t block_bytes = size_t{2} * block_tokens * dim * ELEMENT_BYTES;
  if (listed > stride) return too_long(listed, stride);
  for (size_t head = 0; head < kv_heads && listed > 0; head++) {
    const Array<unsigned> slots(driver, launch, 5, head * stride + listed);
    if (!slots.fault.empty()) return slots.fault;
    for (size_t i = head * stride; i < head * stride + listed; i++) {
      const std::string fault = pool_block(driver, launch.argument<DevicePointer>(4), i, slots.values[i], block_bytes);
      if (!fault.empty()) return fault;
    }
  }
  double pairs = 0;
  for (unsigned token = 0; token < tokens; token++) {
    const unsigned position = query_start + token;
    pairs += position < key_start ? 0 : std::min(position - key_start + 1, keys);
  }
  const double heads = static_cast<double>(kv_heads) * group;
  cost.flops += 4.0 * pairs * heads * dim;
  cost.device_bytes += 2.0 * keys * kv_heads * dim * ELEMENT_BYTES + 2.0 * tokens * heads * dim * sizeof(float);
  return {};
}

struct Known {
  const char* prefix;
  std::string (*cost)(const Driver&, const Launch&, Cost&);
};
constexpr Known KNOWN[] = {{"gather_blocks", gather}, {"append_", append}, {"decode_attention_", decode},
                            {"merge_partials", merge}, {"prefill_attention_", prefill}};

}  // namespace

std::string kernel_cost(const Driver& driver, const Launch& launch, Cost& cost) {
  for (const Known& known : KNOWN)
    if (launch.is(known.prefix)) return known.cost(driver, launch, cost);
  return {};
}

}  // namespace mock
