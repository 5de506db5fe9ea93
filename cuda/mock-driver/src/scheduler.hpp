// Decides which operation of which stream runs next, runs it, and says when a device would have finished it.
#pragma once

#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <thread>

#include "api.hpp"
#include "clock.hpp"
#include "link_model.hpp"
#include "settings.hpp"
#include "stream.hpp"
#include "trace.hpp"

namespace mock {

using Lock = std::unique_lock<std::mutex>;

// All calls are made with the driver locked. One operation runs at a time, with the driver unlocked meanwhile.
class Scheduler {
 public:
  explicit Scheduler(const Settings& settings);

  Handle create(bool blocking);
  // The stream runs what it holds when its turn comes, as with CUDA.
  Result destroy(Handle handle);
  // Null for a handle that names no stream. Handles 0 and 1 are the default stream, 2 is the calling thread's own.
  Stream* find(Handle handle);

  void submit(Stream& stream, Operation operation);
  std::shared_ptr<Mark> record(Stream& stream);
  void wait(Stream& stream, std::shared_ptr<Mark> mark);

  // These run operations until what is awaited has run and its modelled time has come. They return the fault of an
  // operation, if there ever was one: like a CUDA context, the driver is then of no more use.
  Result finish(Lock& lock, Stream& stream);
  Result finish(Lock& lock, const std::shared_ptr<Mark>& mark);
  Result finish_all(Lock& lock);

  // Makes some progress towards the mark and says whether it has been reached: whoever polls would wait for ever otherwise.
  bool poll(Lock& lock, const std::shared_ptr<Mark>& mark);

  // The first queued operation that touches the host memory, or null.
  const Operation* touching(const void* host, size_t bytes) const;

  Result fault() const { return fault_; }

 private:
  Stream& add(Handle handle, bool blocking);
  void enqueue(Stream& stream, Operation operation);
  Result drain(Lock& lock, const std::function<bool()>& done, Stream* awaited);
  Stream* choose(Stream* awaited);
  void run_next(Lock& lock, Stream& stream);
  void sleep_until(Lock& lock, double time_us);
  void fail(const Stream& stream, const Operation& operation, const std::string& why);
  bool idle() const;

  const Order order_;
  std::mt19937 random_;
  Clock clock_;
  std::optional<LinkModel> link_;
  Trace trace_;

  std::map<Handle, std::unique_ptr<Stream>> streams_;
  std::map<std::thread::id, Handle> thread_streams_;
  Stream* default_;
  uintptr_t next_handle_ = 0x10000;
  unsigned next_number_ = 0;
  uint64_t sequence_ = 0;

  bool busy_ = false;  // an operation runs
  std::condition_variable changed_;
  Result fault_ = SUCCESS;
};

}  // namespace mock
