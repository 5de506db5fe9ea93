// Modules, functions and launches.
#include <memory>

#include "driver.hpp"
#include "kernel_cost.hpp"
#include "launch.hpp"
#include "report.hpp"

using namespace mock;

namespace {

enum FunctionAttribute { MAX_THREADS_PER_BLOCK = 0, MAX_DYNAMIC_SHARED_BYTES = 8 };

constexpr unsigned MAX_THREADS = 1024;

// In which order the emulator runs a block's threads: another one for every launch where the streams' order is random.
int thread_order(const Settings& settings, uint64_t launch) {
  switch (settings.order) {
    case Order::queued: return 0;
    case Order::shuffled: return static_cast<int>(2 + (settings.seed + launch) % 0x7ffffff0);
    case Order::awaited_first:
    case Order::awaited_last: return 1;
  }
  return 0;
}

bool launchable(const Function& function, dim3 grid, dim3 block, size_t shared_bytes) {
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  if (!grid.x || !grid.y || !grid.z || !threads) {
    report("launch of %s with an empty grid or block", function.kernel->name);
  } else if (threads > MAX_THREADS || block.z > 64 || grid.x > 0x7fffffff || grid.y > 65535 || grid.z > 65535) {
    report("launch of %s with more than the device allows: grid %u x %u x %u, block %u x %u x %u", function.kernel->name,
           grid.x, grid.y, grid.z, block.x, block.y, block.z);
  } else if (shared_bytes > function.shared_limit) {
    const char* until = function.shared_limit == Modules::SHARED_BYTES ? " until the function asks for more" : "";
    report("launch of %s with %zu bytes of dynamic shared memory: %zu are allowed%s", function.kernel->name,
           shared_bytes, function.shared_limit, until);
  } else {
    return true;
  }
  return false;
}

}  // namespace

MOCK_API Result cuModuleLoadData(Handle* module, const void* image) {
  return with_context([&](Driver& driver, Lock&) {
    if (!image) return INVALID_VALUE;
    *module = driver.modules.load();
    return SUCCESS;
  });
}

MOCK_API Result cuModuleUnload(Handle module) {
  return with_context([&](Driver& driver, Lock&) { return driver.modules.unload(module); });
}

MOCK_API Result cuModuleGetFunction(Handle* function, Handle module, const char* name) {
  return with_context([&](Driver& driver, Lock&) { return driver.modules.function(module, name, *function); });
}

MOCK_API Result cuFuncGetAttribute(int* value, int attribute, Handle handle) {
  return with_context([&](Driver& driver, Lock&) {
    const Function* function = driver.modules.find(handle);
    if (!function) return INVALID_HANDLE;
    *value = attribute == MAX_THREADS_PER_BLOCK      ? static_cast<int>(MAX_THREADS)
             : attribute == MAX_DYNAMIC_SHARED_BYTES ? static_cast<int>(function->shared_limit)
                                                   : 0;
    return SUCCESS;
  });
}

MOCK_API Result cuFuncSetAttribute(Handle handle, int attribute, int value) {
  return with_context([&](Driver& driver, Lock&) {
    Function* function = driver.modules.find(handle);
    if (!function) return INVALID_HANDLE;
    if (attribute != MAX_DYNAMIC_SHARED_BYTES) return SUCCESS;
    if (value < 0 || static_cast<size_t>(value) > Modules::SHARED_OPT_IN_BYTES) return INVALID_VALUE;
    function->shared_limit = static_cast<size_t>(value);
    return SUCCESS;
  });
}

MOCK_API Result cuLaunchKernel(Handle handle, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                               unsigned block_y, unsigned block_z, unsigned shared_bytes, Handle stream_handle,
                               void** arguments, void** extra) {
  return with_context([&](Driver& driver, Lock&) {
    const Function* function = driver.modules.find(handle);
    Stream* stream = driver.scheduler.find(stream_handle);
    if (!function || !stream) {
      report("launch of function %p on stream %p, one of which does not exist", handle, stream_handle);
      return INVALID_HANDLE;
    }
    const dim3 grid{grid_x, grid_y, grid_z}, block{block_x, block_y, block_z};
    if (extra || !launchable(*function, grid, block, shared_bytes)) return INVALID_VALUE;

    const auto launch = std::make_shared<const Launch>(function->kernel, grid, block, shared_bytes, arguments);
    static uint64_t launches = 0;  // guarded by the driver's lock
    const int order = thread_order(driver.settings, launches++);
    Operation operation{Operation::Kind::kernel, function->kernel->name};
    operation.cost.kernel = true;
    operation.check = [&driver, launch](Cost& cost) {
      std::string stale = launch->stale_argument(driver.device);
      return stale.empty() ? kernel_cost(driver, *launch, cost) : stale;
    };
    operation.run = [&driver, launch, order] { return launch->run(driver.settings, order); };
    driver.scheduler.submit(*stream, std::move(operation));
    return SUCCESS;
  });
}
