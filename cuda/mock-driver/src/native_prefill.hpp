// prefill_attention without its threads: the same sums by plain vector loops, for prompts that would take the emulator
// hours. The conformance of the kernel itself is not shown by this.
#pragma once

namespace mock {

class Launch;

void native_prefill(const Launch& launch);

}  // namespace mock
