#include "link_model.hpp"

#include <algorithm>
#include <iterator>

namespace mock {

Span Engine::place(double ready_us, double duration_us) {
  double start = ready_us;
  auto next = busy_.upper_bound(start);
  if (next != busy_.begin()) start = std::max(start, std::prev(next)->second);
  while (next != busy_.end() && next->first < start + duration_us) {
    start = std::max(start, next->second);
    ++next;
  }
  const Span span{start, start + duration_us};
  if (duration_us > 0) busy_[span.start_us] = span.end_us;
  return span;
}

void Engine::forget_before(double time_us) {
  while (!busy_.empty() && busy_.begin()->second < time_us) busy_.erase(busy_.begin());
}

double LinkModel::duration_us(const Cost& cost) const {
  // GB/s are thousands of bytes per microsecond, Tflop/s millions of operations.
  const double device = cost.device_bytes / (settings_.device_gb_per_s * 1e3);
  const double link = cost.link_bytes / (settings_.link_gb_per_s * 1e3);
  const double arithmetic = cost.flops / (settings_.device_tflop_s * 1e6);
  const double start = cost.kernel ? settings_.launch_us : cost.link_bytes > 0 ? settings_.link_latency_us : 0;
  return start + std::max({device, link, arithmetic});
}

Span LinkModel::place(const Cost& cost, double ready_us) {
  const double duration = duration_us(cost);
  if (duration <= 0) return {ready_us, ready_us};  // marks and waits occupy no engine, and wait for none
  Engine& engine = cost.direction == Direction::host_to_device   ? to_device_
                   : cost.direction == Direction::device_to_host ? to_host_
                                                                : compute_;
  return engine.place(ready_us, duration);
}

void LinkModel::forget_before(double time_us) {
  for (Engine* engine : {&to_device_, &to_host_, &compute_}) engine->forget_before(time_us);
}

}  // namespace mock
