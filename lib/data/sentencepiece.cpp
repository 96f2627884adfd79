// SentencePiece-style BPE: characters merge, what has no piece is spelled in bytes or unknown.
#include "data/sentencepiece.h"

#include <algorithm>
#include <map>

#include "data/unicode.h"
#include "tensor/error.h"
#include "tensor/file.h"

namespace rw {
namespace {

/// Stands for a space in pieces, and in text that becomes pieces.
constexpr std::string_view kMark = "\xE2\x96\x81";

std::string with_marks(std::string_view text) {
  std::string out;
  out.reserve(text.size() + text.size() / 2);
  for (const char c : text) {
    if (c == ' ') out += kMark;
    else out += c;
  }
  return out;
}

std::string with_spaces(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const bool mark = text.starts_with(kMark);
    out += mark ? ' ' : text[0];
    text.remove_prefix(mark ? kMark.size() : 1);
  }
  return out;
}

/// Where the run of marks from `at` on ends.
size_t marks_end(std::string_view text, size_t at) {
  while (text.substr(at, kMark.size()) == kMark) at += kMark.size();
  return at;
}

/// True if a mark follows something else in a piece.
bool goes_on_over_a_space(std::string_view piece) {
  return piece.find(kMark, marks_end(piece, 0)) != std::string_view::npos;
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
  set_normalizer(parts_.normalizer);
  index_pieces();
  index_merges();
  for (const AddedToken& token : parts_.added) {
    check(token.id >= 0 && token.id < vocab_size(), "tokenizer", "added token '", token.text, "' has id ", token.id,
          " in a vocabulary of ", vocab_size());
    token_ids_[token.text] = token.id;
    add_token(token);
  }
  finish_tokens();
  guess_bos_eos();
}

void SentencePieceBpe::append_token(const AddedToken& token) {
  token_ids_[token.text] = vocab_size();
  parts_.pieces.push_back({token.text, 0, Piece::Type::control});
}

void SentencePieceBpe::set_prefix_space(bool on) {
  if (!parts_.from_json) parts_.add_dummy_prefix = on;
}

void SentencePieceBpe::index_pieces() {
  byte_ids_.fill(-1);
  cuts_at_spaces_ = true;
  for (int32_t id = 0; id < vocab_size(); ++id) index_piece(id);
  user_defined_matcher_.finish();
  // A mark that has no piece may be part of a run of unknown characters.
  cuts_at_spaces_ = cuts_at_spaces_ && ids_.contains(kMark);
  const bool all_bytes = std::none_of(byte_ids_.begin(), byte_ids_.end(), [](int32_t id) { return id < 0; });
  check((all_bytes && parts_.byte_fallback) || unknown_ >= 0, "tokenizer",
        "the vocabulary has neither all 256 byte pieces nor an unknown piece");
}

void SentencePieceBpe::index_piece(int32_t id) {
  const Piece& piece = parts_.pieces[id];
  token_ids_.emplace(piece.text, id);
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
      if (goes_on_over_a_space(piece.text)) cuts_at_spaces_ = false;
      if (piece.type == Piece::Type::user_defined) {
        user_defined_matcher_.add(piece.text, user_defined_.size());
        user_defined_.push_back({piece.text, id, false});
      }
  }
}

void SentencePieceBpe::index_ranked_merges() {
  merges_.reserve(parts_.merges.size());
  std::vector<int32_t> made_at(parts_.pieces.size(), -1);  // rank of the last merge that makes a piece
  for (size_t rank = 0; rank < parts_.merges.size(); ++rank) {
    const auto [left, right] = parts_.merges[rank];
    check(left >= 0 && left < vocab_size() && right >= 0 && right < vocab_size(), "tokenizer", "merge ", rank,
          " joins tokens ", left, " and ", right, " of a vocabulary of ", vocab_size());
    const auto whole = ids_.find(parts_.pieces[left].text + parts_.pieces[right].text);
    check(whole != ids_.end(), "tokenizer", "merge ", rank, " makes '", parts_.pieces[left].text,
          parts_.pieces[right].text, "', which is not in the vocabulary");
    merges_.add(left, right, {static_cast<int32_t>(rank), whole->second});
    made_at[static_cast<size_t>(whole->second)] = static_cast<int32_t>(rank);
  }
  for (size_t rank = 0; rank < parts_.merges.size() && ordered_; ++rank) {
    const auto [left, right] = parts_.merges[rank];
    const auto number = static_cast<int32_t>(rank);
    ordered_ = made_at[static_cast<size_t>(left)] < number && made_at[static_cast<size_t>(right)] < number;
  }
}

/// A merge joins two pieces into a third; its rank is the third's score, highest first, so that equal scores tie.
void SentencePieceBpe::index_merges() {
  if (parts_.from_json) return index_ranked_merges();
  std::map<float, int32_t, std::greater<>> ranks;
  for (const Piece& piece : parts_.pieces) ranks[piece.score] = 0;
  int32_t next = 0;
  for (auto& [score, rank] : ranks) rank = next++;

  merges_.reserve(4 * parts_.pieces.size());
  std::vector<int32_t> made_at(parts_.pieces.size(), -1);
  std::vector<bool> rank_taken(static_cast<size_t>(next));
  std::vector<std::pair<int32_t, int32_t>> parts_of;  // a part and the rank of what it becomes
  for (int32_t id = 0; id < vocab_size(); ++id) {
    const Piece& piece = parts_.pieces[id];
    if (piece.type != Piece::Type::normal) continue;
    const std::string_view text = piece.text;
    // Every cut of a piece is looked up, so a piece of megabytes would take
    // hours. Published ones have at most 64 bytes.
    check(text.size() <= 1024, "tokenizer", "piece ", id, " has ", text.size(), " bytes, more than 1024");
    const int32_t rank = ranks.at(piece.score);
    for (size_t at = char_at(text, 0).length; at < text.size(); at += char_at(text, at).length) {
      const auto left = ids_.find(text.substr(0, at)), right = ids_.find(text.substr(at));
      if (left == ids_.end() || right == ids_.end()) continue;
      const bool frozen = parts_.pieces[left->second].type != Piece::Type::normal ||
                          parts_.pieces[right->second].type != Piece::Type::normal;
      if (frozen) continue;
      merges_.add(left->second, right->second, {rank, id});
      parts_of.emplace_back(left->second, rank);
      parts_of.emplace_back(right->second, rank);
      made_at[static_cast<size_t>(id)] = rank;
    }
    if (made_at[static_cast<size_t>(id)] < 0) continue;
    ordered_ = ordered_ && !rank_taken[static_cast<size_t>(rank)];
    rank_taken[static_cast<size_t>(rank)] = true;
  }
  for (const auto& [part, rank] : parts_of) ordered_ = ordered_ && made_at[static_cast<size_t>(part)] < rank;
}

std::string SentencePieceBpe::clean_text(std::string_view text, bool at_start) const {
  if (parts_.from_json) {
    return parts_.pre_tokenizer.changes_text() ? parts_.pre_tokenizer.prepared(text, at_start) : std::string(text);
  }
  std::string clean = with_marks(parts_.remove_extra_whitespaces ? collapse_spaces(text) : std::string(text));
  if (clean.empty()) return clean;  // of spaces alone nothing is left
  if (parts_.add_dummy_prefix && at_start) clean.insert(0, kMark);
  return clean;
}

void SentencePieceBpe::encode_text(std::string_view text, bool at_start, std::vector<int32_t>& out) const {
  const std::string clean = clean_text(text, at_start);
  WordCache cache;
  parts_.pre_tokenizer.split(clean, [&](std::string_view word) { encode_word(word, cache, out); });
}

void SentencePieceBpe::encode_word(std::string_view whole, WordCache& cache, std::vector<int32_t>& out) const {
  if (parts_.ignore_merges) {
    const auto found = ids_.find(whole);
    if (found != ids_.end() && !is_special(found->second)) return out.push_back(found->second);
  }
  if (!cuts_at_spaces_) return encode_run(whole, out);
  for (size_t at = 0; at < whole.size();) {
    const size_t end = std::min(whole.find(kMark, marks_end(whole, at)), whole.size());
    const std::string_view word = whole.substr(at, end - at);
    at = end;
    WordCache::Ids& known = cache[word];
    const size_t before = out.size();
    if (known.count > 0) {
      out.resize(before + known.count);
      std::copy_n(out.begin() + known.begin, known.count, out.begin() + static_cast<std::ptrdiff_t>(before));
    } else {
      encode_run(word, out);
      known = {static_cast<uint32_t>(before), static_cast<uint32_t>(out.size() - before)};
    }
  }
}

/// Appends the byte pieces of a character; false, with nothing appended, if one of them is missing.
bool SentencePieceBpe::spell_in_bytes(std::string_view character, std::vector<int32_t>& symbols) const {
  if (!parts_.byte_fallback) return false;
  const auto missing = [&](char c) { return byte_ids_[static_cast<unsigned char>(c)] < 0; };
  if (std::any_of(character.begin(), character.end(), missing)) return false;
  for (const char c : character) symbols.push_back(byte_ids_[static_cast<unsigned char>(c)]);
  return true;
}

size_t SentencePieceBpe::next_symbols(std::string_view run, size_t at, std::vector<int32_t>& symbols) const {
  for (bool unknown = false;;) {
    const auto [index, length] = user_defined_matcher_.longest(run.substr(at));
    const std::string_view one = run.substr(at, length > 0 ? length : char_at(run, at).length);
    const auto found = length > 0 ? ids_.end() : ids_.find(one);
    if (length > 0 || found != ids_.end()) {
      if (unknown) return at;
      symbols.push_back(length > 0 ? user_defined_[index].id : found->second);
      return at + one.size();
    }
    std::vector<int32_t> bytes;
    if (spell_in_bytes(one, unknown ? bytes : symbols)) return unknown ? at : at + one.size();
    if (!unknown) symbols.push_back(unknown_);
    at += one.size();
    unknown = true;
    if (!parts_.fuse_unknown || at == run.size()) return at;
  }
}

void SentencePieceBpe::encode_run(std::string_view run, std::vector<int32_t>& out) const {
  constexpr size_t kLong = 1 << 14;
  if (run.size() > kLong) {
    const NextSymbols next = [&](size_t at, std::vector<int32_t>& symbols) { return next_symbols(run, at, symbols); };
    merge_word(merges_, ordered_, run.size(), next, out);
    return;
  }
  std::vector<int32_t> symbols;
  for (size_t at = 0; at < run.size();) at = next_symbols(run, at, symbols);
  merge_symbols(merges_, symbols);
  out.insert(out.end(), symbols.begin(), symbols.end());
}

std::string SentencePieceBpe::piece(int32_t previous, int32_t id) const {
  check_id(id);
  if (is_padding(id)) return "";
  if (const AddedToken* added = added_token(id)) return added->special ? "" : added->text;
  const Piece& piece = parts_.pieces[id];
  if (piece.type == Piece::Type::unknown) return "\xEF\xBF\xBD";  // U+FFFD
  if (piece.type == Piece::Type::byte) return std::string(1, static_cast<char>(byte_of(piece.text)));
  const std::string text = parts_.marks_are_spaces ? with_spaces(piece.text) : piece.text;
  const bool at_start = previous < 0 || previous == named_bos();
  const bool strips = parts_.from_json ? parts_.strips_first : parts_.add_dummy_prefix;
  return at_start && strips && text.starts_with(' ') ? text.substr(1) : text;
}

std::string SentencePieceBpe::token(int32_t id) const {
  check_id(id);
  return is_padding(id) ? "" : parts_.pieces[id].text;
}

std::optional<int32_t> SentencePieceBpe::token_id(std::string_view token) const {
  const auto found = token_ids_.find(token);
  return found == token_ids_.end() ? std::nullopt : std::optional<int32_t>(found->second);
}

void SentencePieceBpe::save(const std::string& folder) const {
  const bool json = parts_.file_name == "tokenizer.json";
  if (parts_.file_name.empty()) {
    write_file_atomic(folder + "/tokenizer.model", serialize_sentencepiece(parts_));
  } else {
    const std::string file = folder + "/" + parts_.file_name;
    write_file_atomic(file, json ? with_post_processor(parts_.file_bytes) : parts_.file_bytes);
  }
  write_file_atomic(folder + "/tokenizer_config.json",
                    config_json(json ? "PreTrainedTokenizerFast" : "LlamaTokenizer"));
}

}  // namespace rw
