// A conversation with a model: its keys and values are kept, so that every answer reads only what is new.
#pragma once
#include <functional>
#include <memory>
#include <vector>

#include "nn/causal_lm.h"
#include "nn/generate.h"

namespace rw {

/// Thread safety: none; the model must outlive it and keep its weights.
class Session {
 public:
  /// Room for `capacity` tokens of conversation, answers included.
  Session(const CausalLm& model, int64_t capacity);
  ~Session();

  /// Answers the conversation `ids`, whose beginning may be what earlier calls have seen: it is not read again. As
  /// generate(): on_token gets every new token, a stop token is not reported, false ends the answer. Returns the number
  /// of new tokens. Errors: no ids, more ids than there is room for; fewer tokens are made where the room ends.
  int64_t answer(const std::vector<int32_t>& ids, const GenerateOptions& options,
                 const std::function<bool(int32_t)>& on_token);

  int64_t capacity() const { return cache_.capacity; }
  /// Tokens whose keys and values are kept.
  int64_t length() const { return cache_.length; }
  /// How many ids of the last answer() were read anew.
  int64_t read() const { return read_; }

 private:
  const CausalLm& model_;
  KvCache cache_;
  std::vector<int32_t> known_;  // the tokens in the cache
  int64_t read_ = 0, drawn_ = 0;
};

}  // namespace rw
