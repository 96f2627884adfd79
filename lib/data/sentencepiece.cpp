#include "data/sentencepiece.h"

#include <algorithm>
#include <map>

#include "data/unicode.h"
#include "tensor/error.h"
#include "tensor/file.h"

namespace rw {
namespace {

/// Files write a space as U+2581.
constexpr std::string_view kSpace = "\xE2\x96\x81";

std::string escape_spaces(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == ' ') out += kSpace;
    else out += c;
  }
  return out;
}

std::string collapse_spaces(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c != ' ' || (!out.empty() && out.back() != ' ')) out += c;
  }
  if (!out.empty() && out.back() == ' ') out.pop_back();
  return out;
}

/// The byte of "<0x0A>"; -1 if it is not spelled like that.
int byte_of(std::string_view text) {
  if (text.size() != 6 || !text.starts_with("<0x") || text[5] != '>') return -1;
  int value = 0;
  for (const char c : text.substr(3, 2)) {
    const int digit = c >= '0' && c <= '9'   ? c - '0'
                      : c >= 'A' && c <= 'F' ? c - 'A' + 10
                      : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                             : -1;
    if (digit < 0) return -1;
    value = 16 * value + digit;
  }
  return value;
}

}  // namespace

SentencePieceBpe::SentencePieceBpe(SentencePieceParts parts) : parts_(std::move(parts)) {
  index_pieces();
  index_merges();
  for (const AddedToken& token : parts_.added) {
    check(token.id >= 0 && token.id < vocab_size(), "tokenizer", "added token '", token.text, "' has id ", token.id,
          " in a vocabulary of ", vocab_size());
    token_ids_[token.text] = token.id;
    if (!is_special(token.id)) add_token(token);
  }
  guess_bos_eos();
}

void SentencePieceBpe::index_pieces() {
  byte_ids_.fill(-1);
  cuts_at_spaces_ = true;
  for (int32_t id = 0; id < vocab_size(); ++id) {
    const Piece& piece = parts_.pieces[id];
    token_ids_.emplace(token(id), id);
    switch (piece.type) {
      case Piece::Type::unknown:
        unknown_ = id;
        break;
      case Piece::Type::control:
        if (!piece.text.empty()) add_token({piece.text, id, true});
        break;
      case Piece::Type::byte: {
        const int byte = byte_of(piece.text);
        check(byte >= 0, "tokenizer", "byte piece ", id, " is spelled '", piece.text, "', expected <0x00> to <0xFF>");
        byte_ids_[byte] = id;
        break;
      }
      case Piece::Type::unused:
        fail("tokenizer", "piece ", id, " ('", piece.text, "') is marked unused, which is not supported");
      case Piece::Type::normal:
      case Piece::Type::user_defined:
        if (piece.text.empty()) break;
        check(!ids_.contains(piece.text), "tokenizer", "piece ", id, " ('", piece.text, "') is there twice");
        ids_.emplace(piece.text, id);
        for (size_t i = 1; i < piece.text.size(); ++i) {
          if (piece.text[i] == ' ' && piece.text[i - 1] != ' ') cuts_at_spaces_ = false;
        }
        if (piece.type == Piece::Type::user_defined) user_defined_.push_back(id);
    }
  }
  // The longest user-defined piece at a place wins.
  std::stable_sort(user_defined_.begin(), user_defined_.end(), [this](int32_t a, int32_t b) {
    return parts_.pieces[a].text.size() > parts_.pieces[b].text.size();
  });
  const bool all_bytes = std::none_of(byte_ids_.begin(), byte_ids_.end(), [](int32_t id) { return id < 0; });
  check(all_bytes || unknown_ >= 0, "tokenizer", "the vocabulary has neither all 256 byte pieces nor an unknown piece");
}

/// A merge joins two pieces into a third; its rank is the third's score, highest first, so that equal scores tie.
void SentencePieceBpe::index_merges() {
  if (!parts_.merges.empty()) {
    merges_.reserve(parts_.merges.size());
    for (size_t rank = 0; rank < parts_.merges.size(); ++rank) {
      const auto [left, right] = parts_.merges[rank];
      check(left >= 0 && left < vocab_size() && right >= 0 && right < vocab_size(), "tokenizer", "merge ", rank,
            " joins tokens ", left, " and ", right, " of a vocabulary of ", vocab_size());
      const auto whole = ids_.find(parts_.pieces[left].text + parts_.pieces[right].text);
      check(whole != ids_.end(), "tokenizer", "merge ", rank, " makes '", parts_.pieces[left].text,
            parts_.pieces[right].text, "', which is not in the vocabulary");
      merges_.add(left, right, {static_cast<int32_t>(rank), whole->second});
    }
    return;
  }
  std::map<float, int32_t, std::greater<>> ranks;
  for (const Piece& piece : parts_.pieces) ranks[piece.score] = 0;
  int32_t next = 0;
  for (auto& [score, rank] : ranks) rank = next++;

  merges_.reserve(4 * parts_.pieces.size());
  for (int32_t id = 0; id < vocab_size(); ++id) {
    const Piece& piece = parts_.pieces[id];
    if (piece.type != Piece::Type::normal) continue;
    const std::string_view text = piece.text;
    // Every cut of a piece is looked up, so a piece of megabytes would take hours. Published ones have at most 64
    // bytes.
    check(text.size() <= 1024, "tokenizer", "piece ", id, " has ", text.size(), " bytes, more than 1024");
    for (size_t at = char_at(text, 0).length; at < text.size(); at += char_at(text, at).length) {
      const auto left = ids_.find(text.substr(0, at)), right = ids_.find(text.substr(at));
      if (left == ids_.end() || right == ids_.end()) continue;
      const bool frozen = parts_.pieces[left->second].type != Piece::Type::normal ||
                          parts_.pieces[right->second].type != Piece::Type::normal;
      if (!frozen) merges_.add(left->second, right->second, {ranks.at(piece.score), id});
    }
  }
}

void SentencePieceBpe::encode_text(std::string_view text, std::vector<int32_t>& out) const {
  std::string clean = parts_.remove_extra_whitespaces ? collapse_spaces(text) : std::string(text);
  if (parts_.add_dummy_prefix) clean.insert(0, " ");
  const std::string_view whole = clean;
  std::vector<int32_t> symbols;
  if (!cuts_at_spaces_) {
    encode_run(whole, symbols, out);
    return;
  }
  WordCache cache;
  for (size_t at = 0; at < whole.size();) {
    size_t end = std::min(whole.find_first_not_of(' ', at), whole.size());
    end = std::min(whole.find(' ', end), whole.size());
    const std::string_view word = whole.substr(at, end - at);
    WordCache::Ids& known = cache[word];
    const size_t before = out.size();
    if (known.count > 0) {
      out.resize(before + known.count);
      std::copy_n(out.begin() + known.begin, known.count, out.begin() + static_cast<std::ptrdiff_t>(before));
    } else {
      encode_run(word, symbols, out);
      known = {static_cast<uint32_t>(before), static_cast<uint32_t>(out.size() - before)};
    }
    at = end;
  }
}

void SentencePieceBpe::encode_run(std::string_view run, std::vector<int32_t>& symbols,
                                  std::vector<int32_t>& out) const {
  symbols.clear();
  for (size_t at = 0; at < run.size();) {
    const auto named = std::find_if(user_defined_.begin(), user_defined_.end(),
                                    [&](int32_t id) { return run.substr(at).starts_with(parts_.pieces[id].text); });
    if (named != user_defined_.end()) {
      symbols.push_back(*named);
      at += parts_.pieces[*named].text.size();
      continue;
    }
    const size_t length = char_at(run, at).length;
    const auto found = ids_.find(run.substr(at, length));
    // A character without a piece is kept as -1 - (its place): it merges with nothing and is spelled in bytes below.
    symbols.push_back(found != ids_.end() ? found->second : -1 - static_cast<int32_t>(at));
    at += length;
  }
  merge_symbols(merges_, symbols);
  for (const int32_t symbol : symbols) {
    if (symbol >= 0) {
      out.push_back(symbol);
      continue;
    }
    const size_t at = static_cast<size_t>(-1 - symbol);
    for (const char c : run.substr(at, char_at(run, at).length)) {
      const int32_t byte_id = byte_ids_[static_cast<unsigned char>(c)];
      if (byte_id < 0) {
        out.push_back(unknown_);
        break;
      }
      out.push_back(byte_id);
    }
  }
}

std::string SentencePieceBpe::piece(int32_t previous, int32_t id) const {
  check_id(id);
  const Piece& piece = parts_.pieces[id];
  switch (piece.type) {
    case Piece::Type::control:
      return "";
    case Piece::Type::unknown:
      return "\xEF\xBF\xBD";  // U+FFFD
    case Piece::Type::byte:
      return std::string(1, static_cast<char>(byte_of(piece.text)));
    default:
      break;
  }
  const bool at_start = previous < 0 || previous == bos_id();
  return at_start && parts_.add_dummy_prefix && piece.text.starts_with(' ') ? piece.text.substr(1) : piece.text;
}

std::string SentencePieceBpe::token(int32_t id) const {
  check_id(id);
  return escape_spaces(parts_.pieces[id].text);
}

std::optional<int32_t> SentencePieceBpe::token_id(std::string_view token) const {
  const auto found = token_ids_.find(token);
  return found == token_ids_.end() ? std::nullopt : std::optional<int32_t>(found->second);
}

void SentencePieceBpe::save(const std::string& folder) const {
  if (parts_.file_name.empty()) {
    write_file_atomic(folder + "/tokenizer.model", serialize_sentencepiece(parts_));
  } else {
    write_file_atomic(folder + "/" + parts_.file_name, parts_.file_bytes);
  }
  const bool json = parts_.file_name == "tokenizer.json";
  write_file_atomic(folder + "/tokenizer_config.json",
                    config_json(json ? "PreTrainedTokenizerFast" : "LlamaTokenizer"));
}

}  // namespace rw
