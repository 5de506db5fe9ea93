// The clock that operations are timed by. Without a link model it is the host's monotonic clock. With one it stands still
// while the driver emulates, for a device would have worked beside the host instead of in its place.
#pragma once

namespace mock {

class Clock {
 public:
  explicit Clock(bool stands_still) : stands_still_(stands_still) {}

  // The host's monotonic clock, in microseconds.
  static double host_us();

  double now_us() const;

  // Around every operation that the driver computes. Not nested.
  void emulation_begins() { began_us_ = host_us(); }
  void emulation_ends();

 private:
  const bool stands_still_;
  double withheld_us_ = 0;  // emulation so far
  double began_us_ = 0;     // of the emulation under way; 0: none is
};

}  // namespace mock
