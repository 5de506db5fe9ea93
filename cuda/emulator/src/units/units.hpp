// One translation unit for each kernel source, so that a change compiles only that.
#pragma once

#include <array>

#include "../entry.hpp"

namespace emulator {

Table decode_attention();
Table merge_partials();
Table gather_blocks();
Table append();
Table prefill_attention();

inline std::array<Table, 5> tables() {
  return {decode_attention(), merge_partials(), gather_blocks(), append(), prefill_attention()};
}

}  // namespace emulator
