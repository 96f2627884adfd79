// Byte-level BPE: words become bytes, bytes merge; and the tokenizer.json that describes it.
#include "data/byte_bpe.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "data/tokenizer_json.hpp"
#include "data/unicode.h"
#include "tensor/error.h"
#include "tensor/file.h"

namespace rw {
namespace {

/// Bytes that HF spells as themselves; the others get code points from 256 on, in order.
bool spells_itself(int byte) { return (byte >= 33 && byte <= 126) || (byte >= 161 && byte != 173); }

struct Spelling {
  std::array<uint32_t, 256> codes{};
  std::array<std::string, 256> text;
  std::array<uint8_t, 256> alphabet{};
  std::array<int16_t, 512> bytes{};  // code point -> byte

  Spelling() {
    uint32_t next = 256;
    bytes.fill(-1);
    for (int b = 0; b < 256; ++b) {
      codes[b] = spells_itself(b) ? static_cast<uint32_t>(b) : next++;
      append_utf8(text[b], codes[b]);
      bytes[codes[b]] = static_cast<int16_t>(b);
    }
    size_t n = 0;
    for (const int16_t b : bytes) {
      if (b >= 0) alphabet[n++] = static_cast<uint8_t>(b);
    }
  }
};

const Spelling& spelling() {
  static const Spelling table;
  return table;
}

std::string spell(std::string_view bytes) {
  std::string out;
  for (const char c : bytes) out += byte_spelling(static_cast<uint8_t>(c));
  return out;
}

}  // namespace

const std::string& byte_spelling(uint8_t byte) { return spelling().text[byte]; }
const std::array<uint8_t, 256>& byte_alphabet() { return spelling().alphabet; }

bool spells_bytes(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    const Char c = char_at(text, at);
    if (c.code >= 512 || spelling().bytes[c.code] < 0) return false;
    at += c.length;
  }
  return true;
}

std::string unspell_bytes(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const Char c = char_at(text, at);
    check(c.code < 512 && spelling().bytes[c.code] >= 0, "tokenizer", "'", text, "' is not the spelling of bytes in a ",
          "byte-level vocabulary");
    out.push_back(static_cast<char>(spelling().bytes[c.code]));
    at += c.length;
  }
  return out;
}

ByteBpe::ByteBpe(ByteBpeParts parts) : parts_(std::move(parts)) {
  set_normalizer(parts_.normalizer);
  for (const AddedToken& token : parts_.added) {
    check(token.id >= 0 && token.id < vocab_size(), "tokenizer", "added token '", token.text, "' has id ", token.id,
          " in a vocabulary of ", vocab_size());
    add_token(token);
  }
  finish_tokens();
  index_tokens();
  merges_.reserve(parts_.merges.size());
  std::vector<int32_t> made_at(parts_.tokens.size(), -1);  // rank of the last merge that makes a token
  for (size_t rank = 0; rank < parts_.merges.size(); ++rank) {
    const auto [left, right] = parts_.merges[rank];
    check(left >= 0 && left < vocab_size() && right >= 0 && right < vocab_size(), "tokenizer", "merge ", rank,
          " joins tokens ", left, " and ", right, " of a vocabulary of ", vocab_size());
    const auto whole = ids_.find(parts_.tokens[left] + parts_.tokens[right]);
    check(whole != ids_.end(), "tokenizer", "merge ", rank, " makes '",
          spell(parts_.tokens[left] + parts_.tokens[right]), "', which is not in the vocabulary");
    merges_.add(left, right, {static_cast<int32_t>(rank), whole->second});
    made_at[static_cast<size_t>(whole->second)] = static_cast<int32_t>(rank);
  }
  for (size_t rank = 0; rank < parts_.merges.size() && ordered_; ++rank) {
    const auto [left, right] = parts_.merges[rank];
    const auto number = static_cast<int32_t>(rank);
    ordered_ = made_at[static_cast<size_t>(left)] < number && made_at[static_cast<size_t>(right)] < number;
  }
  guess_bos_eos();
}

void ByteBpe::index_tokens() {
  byte_ids_.fill(-1);
  for (int32_t id = 0; id < vocab_size(); ++id) {
    const std::string& bytes = parts_.tokens[id];
    if (bytes.empty()) continue;
    const auto [entry, fresh] = ids_.emplace(bytes, id);
    check(fresh, "tokenizer", "tokens ", entry->second, " and ", id, " are both '", spell(bytes), "'");
    if (bytes.size() == 1) byte_ids_[static_cast<unsigned char>(bytes[0])] = id;
  }
  for (int b = 0; b < 256; ++b) {
    check(byte_ids_[b] >= 0, "tokenizer", "the byte-level vocabulary has no token for byte ", b, " ('",
          byte_spelling(static_cast<uint8_t>(b)), "')");
  }
}

void ByteBpe::append_token(const AddedToken&) { parts_.tokens.emplace_back(); }

void ByteBpe::set_prefix_space(bool on) { parts_.pre_tokenizer.prefix = on ? SpacePrefix::always : SpacePrefix::never; }

void ByteBpe::encode_text(std::string_view text, bool at_start, std::vector<int32_t>& out) const {
  std::string changed;
  if (parts_.pre_tokenizer.changes_text()) text = changed = parts_.pre_tokenizer.prepared(text, at_start);
  out.reserve(out.size() + text.size() / 3);
  WordCache cache;
  std::vector<int32_t> symbols;
  parts_.pre_tokenizer.split(text, [&](std::string_view word) {
    if (word.size() == 1) {
      out.push_back(byte_ids_[static_cast<unsigned char>(word[0])]);
      return;
    }
    constexpr size_t kLong = 1 << 14;
    const auto whole = parts_.ignore_merges ? ids_.find(word) : ids_.end();
    if (whole != ids_.end() && !is_special(whole->second)) {
      out.push_back(whole->second);
      return;
    }
    if (word.size() > kLong) {
      const NextSymbols next = [&](size_t at, std::vector<int32_t>& to) {
        to.push_back(byte_ids_[static_cast<unsigned char>(word[at])]);
        return at + 1;
      };
      merge_word(merges_, ordered_, word.size(), next, out);
      return;
    }
    WordCache::Ids& known = cache[word];
    const size_t at = out.size();
    if (known.count > 0) {
      out.resize(at + known.count);
      std::copy_n(out.begin() + known.begin, known.count, out.begin() + static_cast<std::ptrdiff_t>(at));
      return;
    }
    symbols.clear();
    for (const char c : word) symbols.push_back(byte_ids_[static_cast<unsigned char>(c)]);
    merge_symbols(merges_, symbols);
    out.insert(out.end(), symbols.begin(), symbols.end());
    known = {static_cast<uint32_t>(at), static_cast<uint32_t>(out.size() - at)};
  });
}

size_t ByteBpe::safe_cut(std::string_view text, size_t near) const {
  const bool cuts = parts_.pre_tokenizer.cuts_before_space() && normalizer().cuts_before_space();
  if (added_in_text() || !cuts) return text.size();
  const auto letter = [&](size_t i) { return (text[i] | 32) >= 'a' && (text[i] | 32) <= 'z'; };
  for (size_t at = std::max<size_t>(near, 1); at + 1 < text.size(); ++at) {
    if (text[at] == ' ' && letter(at - 1) && letter(at + 1)) return at;
  }
  return text.size();
}

std::string ByteBpe::piece(int32_t, int32_t id) const {
  check_id(id);
  if (is_padding(id)) return "";
  if (const AddedToken* added = added_token(id)) return added->special ? "" : added->text;
  return parts_.tokens[id];
}

std::string ByteBpe::token(int32_t id) const {
  check_id(id);
  if (is_padding(id)) return "";
  if (const AddedToken* added = added_token(id)) return added->text;
  return spell(parts_.tokens[id]);
}

std::optional<int32_t> ByteBpe::token_id(std::string_view token) const {
  if (const auto added = added_id(token)) return added;
  if (!spells_bytes(token)) return std::nullopt;
  const auto found = ids_.find(unspell_bytes(token));
  return found == ids_.end() ? std::nullopt : std::optional<int32_t>(found->second);
}

namespace {

using Json = nlohmann::ordered_json;

Json byte_level(bool add_prefix_space, bool use_regex) {
  return {
      {"type", "ByteLevel"}, {"add_prefix_space", add_prefix_space}, {"trim_offsets", true}, {"use_regex", use_regex}};
}

Json pre_tokenizer_json(const PreTokenizer& pre) {
  Json steps = Json::array();
  bool byte_level_done = false;
  const bool prefix = pre.prefix != SpacePrefix::never;
  for (const SplitStep& step : pre.rules) {
    const SplitRule rule = step.rule;
    if (rule == SplitRule::gpt2 && &step == &pre.rules.back()) {
      steps.push_back(byte_level(prefix, true));
      byte_level_done = true;
    } else if (rule == SplitRule::individual_digits || rule == SplitRule::digits) {
      steps.push_back({{"type", "Digits"}, {"individual_digits", rule == SplitRule::individual_digits}});
    } else {
      steps.push_back(
          {{"type", "Split"}, {"pattern", {{"Regex", regex_of(rule)}}}, {"behavior", "Isolated"}, {"invert", false}});
    }
  }
  if (!byte_level_done) steps.push_back(byte_level(prefix, false));
  return steps.size() == 1 ? steps[0] : Json{{"type", "Sequence"}, {"pretokenizers", steps}};
}

/// Only forms: a vocab.json has no other normalizer.
Json normalizer_json(const TextNormalizer& normalizer) {
  Json steps = Json::array();
  for (const NormalizerStep& step : normalizer.steps()) {
    static const char* const names[] = {"NFC", "NFD", "NFKC", "NFKD"};
    check(step.kind == NormalizerStep::Kind::form, "tokenizer", "a normalizer that replaces text cannot be written");
    steps.push_back({{"type", names[static_cast<size_t>(step.form)]}});
  }
  return steps.empty() ? Json() : steps.size() == 1 ? steps[0] : Json{{"type", "Sequence"}, {"normalizers", steps}};
}

}  // namespace

std::string ByteBpe::to_json() const {
  Json vocab = Json::object(), merges = Json::array();
  for (int32_t id = 0; id < vocab_size(); ++id) {
    const std::string spelled = token(id);
    if (!spelled.empty()) vocab[spelled] = id;
  }
  for (const auto& [left, right] : parts_.merges) {
    merges.push_back(spell(parts_.tokens[left]) + " " +
                     spell(parts_.tokens[right]));  // this form loads in every version
  }
  const Json file = {{"version", "1.0"},
                     {"truncation", nullptr},
                     {"padding", nullptr},
                     {"added_tokens", tokenizer_files::added_tokens_json(added_tokens())},
                     {"normalizer", normalizer_json(parts_.normalizer)},
                     {"pre_tokenizer", pre_tokenizer_json(parts_.pre_tokenizer)},
                     {"post_processor", nullptr},
                     {"decoder", byte_level(true, true)},
                     {"model",
                      {{"type", "BPE"},
                       {"dropout", nullptr},
                       {"unk_token", nullptr},
                       {"continuing_subword_prefix", nullptr},
                       {"end_of_word_suffix", nullptr},
                       {"fuse_unk", false},
                       {"byte_fallback", false},
                       {"ignore_merges", parts_.ignore_merges},
                       {"vocab", vocab},
                       {"merges", merges}}}};
  return file.dump(2) + "\n";
}

void ByteBpe::save(const std::string& folder) const {
  write_file_atomic(folder + "/tokenizer.json", with_post_processor(parts_.json.empty() ? to_json() : parts_.json));
  write_file_atomic(folder + "/tokenizer_config.json", config_json("PreTrainedTokenizerFast"));
}

std::unique_ptr<Tokenizer> make_byte_tokenizer() {
  ByteBpeParts parts;
  parts.tokens = {"", ""};
  for (const uint8_t byte : byte_alphabet()) parts.tokens.emplace_back(1, static_cast<char>(byte));
  parts.added = {{"<s>", 0, true}, {"</s>", 1, true}};
  parts.pre_tokenizer.rules = {SplitRule::gpt2};
  return std::make_unique<ByteBpe>(std::move(parts));
}

}  // namespace rw
