// Internal: what the files of the C API share: its handles, and how arguments come in and errors go out.
#pragma once
#include <algorithm>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "data/corpus.h"
#include "data/tokenizer.h"
#include "nn/causal_lm.h"
#include "ropewalk.h"
#include "tensor/error.h"

struct ropewalk_model {
  std::shared_ptr<rw::CausalLm> lm;
  std::shared_ptr<const rw::Tokenizer> tokenizer;
  std::string path;  // where it came from, for results; may be empty
};

namespace rw {

/// An argument that the header forbids.
class BadArgument : public Error {
 public:
  using Error::Error;
};

/// Thrown through the library when a progress callback asks to stop.
struct Stopped {};

/// Keeps the reason as this thread's last error.
ropewalk_status failed(ropewalk_status status, const char* why) noexcept;

template <class F>
ropewalk_status guarded(F&& f) noexcept {
  try {
    return f();
  } catch (const Stopped&) {
    return failed(ROPEWALK_ERROR_STOPPED, "[capi] stopped by the callback");
  } catch (const BadArgument& e) {
    return failed(ROPEWALK_ERROR_ARGUMENT, e.what());
  } catch (const OutOfMemory& e) {
    return failed(ROPEWALK_ERROR_MEMORY, e.what());
  } catch (const std::bad_alloc&) {
    return failed(ROPEWALK_ERROR_MEMORY, "[capi] out of host memory");
  } catch (const Error& e) {
    return failed(ROPEWALK_ERROR_INPUT, e.what());
  } catch (const std::exception& e) {
    return failed(ROPEWALK_ERROR_INTERNAL, e.what());
  } catch (...) {
    return failed(ROPEWALK_ERROR_INTERNAL, "[capi] an exception of unknown type, from a callback perhaps");
  }
}

template <class... Parts>
void require(bool ok, const char* function, const Parts&... message) {
  if (!ok) throw BadArgument(cat("[", function, "] ", message...));
}

/// Errors: a `size` that no version of the struct has.
inline void check_size(size_t size, size_t alignment, const char* function) {
  constexpr size_t kLargest = 4096;  // a size that was never set must not walk through memory
  require(size > sizeof size && size <= kLargest, function, "options.size is ", size, "; set it to sizeof the struct");
  require(size % alignment == 0, function, "options.size is ", size,
          ", which ends within a field; set it to sizeof the struct");
}

/// `given` in the layout of this library: what an older caller does not know keeps its default; what a newer caller
/// knows beyond it must be zero.
template <class Options>
Options read_options(const Options* given, Options options, const char* function) {
  if (given == nullptr) return options;
  check_size(given->size, alignof(Options), function);
  const auto* bytes = reinterpret_cast<const char*>(given);
  for (size_t i = sizeof options; i < given->size; ++i)
    require(bytes[i] == 0, function, "options of ", given->size, " bytes ask for what this version does not know");
  std::memcpy(static_cast<void*>(&options), bytes, std::min(given->size, sizeof options));
  return options;
}

/// Writes what fits into a struct of the caller's version, and leaves its size as it is.
template <class Result>
void write_result(Result result, Result* to) {
  const size_t size = to->size;
  std::memcpy(static_cast<void*>(to), &result, std::min(size, sizeof result));
  to->size = size;
}

/// Writes the size that is needed; false, with the reason kept, if there is no room.
inline bool fits(size_t needed, size_t capacity, size_t* count, const char* function) {
  *count = needed;
  if (needed <= capacity) return true;
  failed(ROPEWALK_ERROR_BUFFER, cat("[", function, "] ", needed, " needed, room for ", capacity).c_str());
  return false;
}

/// Copies out if it fits; writes the size in any case.
template <class T, class Container>
ropewalk_status give(const Container& from, T* to, size_t capacity, size_t* count, const char* function) {
  if (!fits(from.size(), capacity, count, function)) return ROPEWALK_ERROR_BUFFER;
  std::copy(from.begin(), from.end(), to);
  return ROPEWALK_OK;
}

/// Errors: an id that the model does not have, with its position.
void check_ids(const ropewalk_model& model, const int32_t* ids, size_t count, const char* function);

using Settings = std::vector<std::pair<std::string, std::string>>;
/// Names with dashes. Errors: null pointers, more than 10,000.
Settings read_settings(const ropewalk_setting* settings, size_t count, const char* function);

/// The documents as tokens. Errors: null pointers, text beside ids, documents of two sorts, ids that the tokenizer does
/// not have.
TokenCorpus read_documents(const ropewalk_document* documents, size_t count, const Tokenizer& tokenizer,
                           const char* function);
/// The same for a tokenizer that is not known yet: text, or ids.
struct GivenDocuments {
  std::vector<Document> text;
  std::vector<std::string> names;
  std::vector<std::vector<int32_t>> ids;
};
GivenDocuments read_documents(const ropewalk_document* documents, size_t count, const char* function);

}  // namespace rw
