// How long operations would take on a device behind a link. Everything that comes from here is modelled, not measured.
#pragma once

#include <cstddef>
#include <map>

#include "settings.hpp"

namespace mock {

enum class Direction { none, host_to_device, device_to_host };

// What an operation moves and computes.
struct Cost {
  bool kernel = false;       // pays the launch; a copy over the link pays the link's latency
  double device_bytes = 0;   // read from and written to device memory
  double link_bytes = 0;     // moved over the link, in `direction`
  Direction direction = Direction::none;
  double flops = 0;
};

struct Span {
  double start_us;
  double end_us;
};

// Something that does one thing at a time. Operations are placed in the order in which they run, which need not be that of
// their virtual times: an earlier gap that is wide enough is used.
class Engine {
 public:
  Span place(double ready_us, double duration_us);
  // Forgets what ended before `time_us`; nothing may be placed before it any more.
  void forget_before(double time_us);

 private:
  std::map<double, double> busy_;  // start to end, disjoint
};

// One copy engine for each direction and one for kernels.
class LinkModel {
 public:
  explicit LinkModel(const LinkSettings& settings) : settings_(settings) {}

  Span place(const Cost& cost, double ready_us);
  void forget_before(double time_us);

 private:
  double duration_us(const Cost& cost) const;

  const LinkSettings settings_;
  Engine to_device_, to_host_, compute_;
};

}  // namespace mock
