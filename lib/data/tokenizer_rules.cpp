// Reads normalizer, pre-tokenizer, post-processor and decoder of a tokenizer.json. Whatever changes ids is taken over
// or refused by its name.
#include "data/tokenizer_rules.hpp"

#include <algorithm>

namespace rw::tokenizer_files {
namespace {

constexpr const char* kMark = "\xE2\x96\x81";
constexpr size_t kMostRules = 16;

[[noreturn]] void refuse(const Node& node, const char* what) {
  fail("tokenizer", node.where(), ": ", what, " '", node.type(), "' is not supported");
}

/// The one text of {"String": ...}. Errors: a regular expression.
std::string literal_of(const Node& pattern) {
  check(pattern.has("String"), "tokenizer", pattern.where(), ": ", pattern.json().dump(),
        " is not supported, only a String");
  return pattern.at("String").text();
}

void add_normalizers(const Node& node, TextNormalizer& out) {
  using Kind = NormalizerStep::Kind;
  const std::string type = node.type();
  if (type == "Sequence") {
    for (const Node& item : node.at("normalizers").items()) add_normalizers(item, out);
  } else if (type == "NFC") {
    out.add({.kind = Kind::form, .form = NormalForm::nfc, .from = {}, .to = {}});
  } else if (type == "NFD") {
    out.add({.kind = Kind::form, .form = NormalForm::nfd, .from = {}, .to = {}});
  } else if (type == "NFKC") {
    out.add({.kind = Kind::form, .form = NormalForm::nfkc, .from = {}, .to = {}});
  } else if (type == "NFKD") {
    out.add({.kind = Kind::form, .form = NormalForm::nfkd, .from = {}, .to = {}});
  } else if (type == "Prepend") {
    out.add({.kind = Kind::prepend, .from = {}, .to = node.at("prepend").text()});
  } else if (type == "Replace") {
    out.add({.kind = Kind::replace, .from = literal_of(node.at("pattern")), .to = node.at("content").text()});
  } else if (type == "Strip") {
    out.add({.kind = Kind::strip,
             .from = {},
             .to = {},
             .left = node.flag("strip_left", true),
             .right = node.flag("strip_right", true)});
  } else {
    refuse(node, "normalizer");
  }
}

void read_metaspace(const Node& node, PreTokenizer& pre) {
  check(pre.rules.empty() && !pre.changes_text(), "tokenizer", node.where(),
        ": a Metaspace after another pre-tokenizer is not supported");
  pre.space = node.has("replacement") ? node.at("replacement").text() : kMark;
  check(!pre.space.empty() && pre.space.size() <= 4, "tokenizer", node.where(), ".replacement must be one character");
  std::string scheme = node.has("prepend_scheme") ? node.at("prepend_scheme").text() : "always";
  if (!node.flag("add_prefix_space", true)) scheme = "never";
  check(scheme == "always" || scheme == "first" || scheme == "never", "tokenizer", node.where(), ".prepend_scheme is '",
        scheme, "', expected always, first or never");
  pre.prefix = scheme == "always" ? SpacePrefix::always : scheme == "first" ? SpacePrefix::first : SpacePrefix::never;
  if (node.flag("split", true)) pre.rules.emplace_back(pre.space, SplitBehavior::merged_with_next);
}

SplitBehavior behavior_of(const Node& node) {
  const std::string name = node.at("behavior").text();
  if (name == "Removed") return SplitBehavior::removed;
  if (name == "Isolated") return SplitBehavior::isolated;
  if (name == "MergedWithPrevious") return SplitBehavior::merged_with_previous;
  if (name == "MergedWithNext") return SplitBehavior::merged_with_next;
  if (name == "Contiguous") return SplitBehavior::contiguous;
  fail("tokenizer", node.where(), ".behavior '", name, "' is not supported");
}

void read_split(const Node& node, PreTokenizer& pre) {
  const Node pattern = node.at("pattern");
  const SplitBehavior behavior = behavior_of(node);
  const bool invert = node.flag("invert", false);
  if (pattern.has("String") && !invert) {
    check(!pattern.at("String").text().empty(), "tokenizer", pattern.where(), ": an empty text to split at");
    pre.rules.emplace_back(pattern.at("String").text(), behavior);
    return;
  }
  // The published patterns match everything, so that "Removed, inverted" keeps the same words as "Isolated".
  const bool words = (behavior == SplitBehavior::isolated && !invert) || (behavior == SplitBehavior::removed && invert);
  const std::optional<SplitRule> rule = rule_of_regex(pattern.has("Regex") ? pattern.at("Regex").text() : "");
  check(words && rule.has_value(), "tokenizer", node.where(), ": split by ", pattern.json().dump(), " (",
        node.at("behavior").text(), ") is not supported; known are the patterns of GPT-2, Llama 3 and Qwen 2");
  pre.rules.emplace_back(rule.value());
}

void add_pre_tokenizers(const Node& node, PreTokenizerRead& out) {
  PreTokenizer& pre = out.rules;
  const std::string type = node.type();
  if (type == "Sequence") {
    for (const Node& item : node.at("pretokenizers").items()) add_pre_tokenizers(item, out);
    return;
  }
  check(!out.byte_level, "tokenizer", node.where(), ": '", type, "' after ByteLevel is not supported");
  check(pre.rules.size() < kMostRules, "tokenizer", node.where(), ": more than ", kMostRules, " pre-tokenizers");
  if (type == "Digits") {
    pre.rules.emplace_back(node.flag("individual_digits", false) ? SplitRule::individual_digits : SplitRule::digits);
  } else if (type == "ByteLevel") {
    if (node.flag("add_prefix_space", true)) {
      check(pre.rules.empty() && !pre.changes_text(), "tokenizer", node.where(),
            ": add_prefix_space after another split is not supported");
      pre.prefix = SpacePrefix::always;
    }
    if (node.flag("use_regex", true)) pre.rules.emplace_back(SplitRule::gpt2);
    out.byte_level = true;
  } else if (type == "Metaspace") {
    read_metaspace(node, pre);
  } else if (type == "Split") {
    read_split(node, pre);
  } else {
    refuse(node, "pre-tokenizer");
  }
}

/// {"SpecialToken": {"id": ...}} before and after {"Sequence": ...}.
void add_template(const Node& node, PostProcessor& out) {
  bool text = false;
  for (const Node& item : node.at("single").items()) {
    if (item.has("Sequence")) {
      check(!text, "tokenizer", item.where(), ": a text that stands twice is not supported");
      text = true;
    } else {
      (text ? out.after : out.before).push_back(item.at("SpecialToken").at("id").text());
    }
  }
}

void add_post_processors(const Node& node, PostProcessor& out) {
  const std::string type = node.type();
  if (type == "Sequence") {
    for (const Node& item : node.at("processors").items()) add_post_processors(item, out);
  } else if (type == "TemplateProcessing") {
    add_template(node, out);
  } else if (type == "BertProcessing" || type == "RobertaProcessing") {
    const std::vector<Node> cls = node.at("cls").items(), sep = node.at("sep").items();
    check(!cls.empty() && !sep.empty(), "tokenizer", node.where(), ": cls and sep must name a token");
    out.before.push_back(cls[0].text());
    out.after.push_back(sep[0].text());
  } else if (type != "ByteLevel") {
    refuse(node, "post-processor");
  }
}

void add_decoders(const Node& node, DecoderRead& out) {
  const std::string type = node.type();
  if (type == "Sequence") {
    for (const Node& item : node.at("decoders").items()) add_decoders(item, out);
  } else if (type == "ByteLevel") {
    out.byte_level = true;
  } else if (type == "Replace") {
    const bool marks = literal_of(node.at("pattern")) == kMark && node.at("content").text() == " ";
    check(marks, "tokenizer", node.where(), ": a decoder that replaces ", node.at("pattern").json().dump(),
          " is not supported");
    out.marks_are_spaces = true;
  } else if (type == "Metaspace") {
    out.marks_are_spaces = true;
    const std::string scheme = node.has("prepend_scheme") ? node.at("prepend_scheme").text() : "always";
    out.strips_first = scheme != "never" && node.flag("add_prefix_space", true);
  } else if (type == "Strip") {
    const auto count = [&](const char* key) { return node.has(key) ? node.at(key).id() : 0; };
    check(node.at("content").text() == " " && count("start") <= 1 && count("stop") == 0, "tokenizer", node.where(),
          ": a decoder that strips other than one space at the beginning is not supported");
    out.strips_first = count("start") == 1;
  } else if (type != "ByteFallback" && type != "Fuse") {
    refuse(node, "decoder");
  }
}

}  // namespace

TextNormalizer read_normalizer(const Node& root) {
  TextNormalizer out;
  if (root.has("normalizer")) add_normalizers(root.at("normalizer"), out);
  return out;
}

PreTokenizerRead read_pre_tokenizer(const Node& root) {
  PreTokenizerRead out;
  if (root.has("pre_tokenizer")) add_pre_tokenizers(root.at("pre_tokenizer"), out);
  return out;
}

PostProcessor read_post_processor(const Node& root) {
  PostProcessor out;
  if (!root.has("post_processor")) return out;
  out.stated = true;
  add_post_processors(root.at("post_processor"), out);
  const bool one = out.before.size() <= 1 && out.after.size() <= 1;
  check(one, "tokenizer", root.at("post_processor").where(), ": ", out.before.size(), " tokens before a text and ",
        out.after.size(), " after it are not supported, only one each");
  return out;
}

DecoderRead read_decoder(const Node& root) {
  DecoderRead out;
  if (!root.has("decoder")) return out;
  out.stated = true;
  add_decoders(root.at("decoder"), out);
  return out;
}

}  // namespace rw::tokenizer_files
