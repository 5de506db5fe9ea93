// What each kernel moves and computes, from its arguments; and whether the addresses that it is given in arrays are any
// that a device could reach.
#pragma once

#include <string>

#include "driver.hpp"
#include "launch.hpp"

namespace mock {

// Adds to `cost`. Called once everything before the launch has run, so that arrays on the device can be read. What is wrong
// with an address or slot, or nothing; nothing, and no cost, for a kernel that is not known here.
std::string kernel_cost(const Driver& driver, const Launch& launch, Cost& cost);

}  // namespace mock
