// Names of result codes.
#include <array>
#include <cctype>
#include <cstring>
#include <map>
#include <string>

#include "api.hpp"

using namespace mock;

namespace {

struct Error {
  int value;
  const char* name;
};
constexpr Error ERRORS[] = {
#define ERROR(value, name) {value, #name},
#include "error_names.inc"
#undef ERROR
};

// "out of memory" for CUDA_ERROR_OUT_OF_MEMORY.
std::string described(const char* name) {
  constexpr const char* PREFIX = "CUDA_ERROR_";
  std::string text = std::strncmp(name, PREFIX, std::strlen(PREFIX)) ? name : name + std::strlen(PREFIX);
  for (char& letter : text) letter = letter == '_' ? ' ' : static_cast<char>(std::tolower(letter));
  return text;
}

}  // namespace

MOCK_API Result cuGetErrorName(int value, const char** name) {
  *name = nullptr;
  for (const Error& error : ERRORS)
    if (error.value == value) *name = error.name;
  return *name ? SUCCESS : INVALID_VALUE;
}

MOCK_API Result cuGetErrorString(int value, const char** text) {
  static const auto* texts = [] {
    auto* made = new std::map<int, std::string>;
    for (const Error& error : ERRORS) (*made)[error.value] = described(error.name);
    return made;
  }();
  const auto found = texts->find(value);
  *text = found == texts->end() ? nullptr : found->second.c_str();
  return *text ? SUCCESS : INVALID_VALUE;
}
