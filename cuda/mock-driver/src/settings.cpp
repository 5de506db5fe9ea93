#include "settings.hpp"

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace mock {
namespace {

// Effective figures, not those on the box: docs/cuda/mock-driver.md says where they come from.
struct Preset {
  const char* name;
  LinkSettings link;
};
constexpr Preset PRESETS[] = {
    {"gen3x16", {12.1, 3.0, 780.0, 7.8, 3.0}},
    {"gen4x16", {25.0, 3.0, 1355.0, 9.7, 3.0}},
    {"gen5x16", {55.0, 3.0, 2570.0, 33.0, 3.0}},
};

const char* variable(const char* name) {
  const char* value = std::getenv(name);
  return value && *value ? value : nullptr;
}

bool number(const char* name, unsigned long long& value, std::string& error) {
  const char* text = variable(name);
  if (!text) return false;
  char* end = nullptr;
  value = std::strtoull(text, &end, 10);
  if (*end || *text == '-') {
    error = std::string(name) + "=" + text + " is not a number";
    return false;
  }
  return true;
}

std::optional<LinkSettings> link_settings(std::string& error) {
  const char* text = variable("MOCK_LINK");
  if (!text) return std::nullopt;
  for (const Preset& preset : PRESETS)
    if (!std::strcmp(text, preset.name)) return preset.link;
  LinkSettings custom = PRESETS[1].link;
  int used = 0;
  if (std::sscanf(text, "%lf,%lf%n", &custom.link_gb_per_s, &custom.link_latency_us, &used) == 2 && !text[used] &&
      custom.link_gb_per_s > 0 && custom.link_latency_us >= 0)
    return custom;
  error = std::string("MOCK_LINK=") + text + " is neither gen3x16, gen4x16, gen5x16 nor \"GB/s,microseconds\"";
  return std::nullopt;
}

std::optional<ForgottenWaits> forgotten_waits(std::string& error) {
  const char* text = variable("MOCK_FORGET_WAITS");
  if (!text) return std::nullopt;
  ForgottenWaits forgotten{};
  int used = 0;
  if (std::sscanf(text, "%u,%u%n", &forgotten.waiting, &forgotten.awaited, &used) == 2 && !text[used]) return forgotten;
  error = std::string("MOCK_FORGET_WAITS=") + text + " is not the numbers of two streams, as in 1,2";
  return std::nullopt;
}

}  // namespace

Settings Settings::from_environment(std::string& error) {
  Settings settings;
  unsigned long long value = 0;
  if (number("MOCK_SEED", value, error)) {
    settings.order = Order::shuffled;
    settings.seed = static_cast<uint32_t>(value);
  }
  if (number("MOCK_ADVERSARIAL", value, error)) {
    if (value == 1) settings.order = Order::awaited_first;
    if (value == 2) settings.order = Order::awaited_last;
    if (value > 2) error = "MOCK_ADVERSARIAL is 1 (the awaited stream runs first), 2 (it runs last) or 0";
  }
  if (number("MOCK_DEVICE_BYTES", value, error)) settings.device_bytes = value;
  if (number("MOCK_NO_REGISTER", value, error)) settings.refuse_register = value != 0;
  if (number("MOCK_REGISTER_LIMIT", value, error)) settings.register_limit = value;
  if (const char* native = variable("MOCK_NATIVE")) {
    settings.native_prefill = !std::strcmp(native, "prefill");
    if (!settings.native_prefill) error = std::string("MOCK_NATIVE=") + native + ": only prefill has a native form";
  }
  if (const char* trace = variable("MOCK_TRACE")) settings.trace = trace;
  settings.link = link_settings(error);
  settings.forgotten = forgotten_waits(error);
  return settings;
}

}  // namespace mock
