#include "clock.hpp"

#include <ctime>

namespace mock {

double Clock::host_us() {
  timespec time{};
  clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) * 1e6 + static_cast<double>(time.tv_nsec) * 1e-3;
}

double Clock::now_us() const {
  if (!stands_still_) return host_us();
  return (began_us_ > 0 ? began_us_ : host_us()) - withheld_us_;
}

void Clock::emulation_ends() {
  withheld_us_ += host_us() - began_us_;
  began_us_ = 0;
}

}  // namespace mock
