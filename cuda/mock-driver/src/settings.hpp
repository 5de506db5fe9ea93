// What the environment asks of the driver. Read once, at cuInit.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

namespace mock {

// In which order operations of different streams run, once somebody waits.
enum class Order {
  queued,        // as they were queued: the kindest
  shuffled,      // a ready stream drawn at random, from MOCK_SEED
  awaited_first,  // MOCK_ADVERSARIAL=1: only what the awaited stream needs; a forgotten wait reads data that has not come
  awaited_last,   // MOCK_ADVERSARIAL=2: every other stream first; a forgotten wait overwrites data still in use
};

// The link to the host and the device behind it, as the model knows them (MOCK_LINK).
struct LinkSettings {
  double link_gb_per_s;    // each direction, effective
  double link_latency_us;  // per copy; occupies the copy engine
  double device_gb_per_s;  // device memory, effective
  double device_tflop_s;   // 32-bit arithmetic of a plain kernel
  double launch_us;        // per kernel
};

// Waits of one stream for another that are left out (MOCK_FORGET_WAITS), as if the program had forgotten them. Streams are
// numbered in the order in which they are created; 0 is the default stream.
struct ForgottenWaits {
  unsigned waiting, awaited;
};

struct Settings {
  Order order = Order::queued;
  uint32_t seed = 1;
  size_t device_bytes = size_t{4} << 30;
  bool refuse_register = false;
  std::optional<size_t> register_limit;
  bool native_prefill = false;
  std::optional<LinkSettings> link;
  std::optional<ForgottenWaits> forgotten;
  std::string trace;  // empty: no trace

  // Sets `error` to what is wrong with the environment, naming the variable, and leaves it empty if nothing is.
  static Settings from_environment(std::string& error);
};

}  // namespace mock
