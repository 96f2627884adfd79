// Recognises published chat templates and writes conversations in their forms.
#include "data/chat_template.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "tensor/error.h"

namespace rw {
namespace {

constexpr const char* kOp = "chat";

bool holds(const std::string& text, std::string_view part) { return text.find(part) != std::string::npos; }

std::string trimmed(const std::string& text) {
  const size_t begin = text.find_first_not_of(" \t\r\n\f\v");
  if (begin == std::string::npos) return "";
  return text.substr(begin, text.find_last_not_of(" \t\r\n\f\v") + 1 - begin);
}

/// The words that a ChatML template says of itself: '<|im_start|>system\nWORDS<|im_end|>' inside one literal, whose
/// newline may be spelled.
std::string default_system_of(const std::string& jinja) {
  for (const std::string open : {"<|im_start|>system\n", "<|im_start|>system\\n"}) {
    for (size_t at = jinja.find(open); at != std::string::npos; at = jinja.find(open, at + 1)) {
      const size_t begin = at + open.size(), end = jinja.find("<|im_end|>", begin);
      if (end == std::string::npos) break;
      std::string words = jinja.substr(begin, end - begin);
      if (words.empty() || words.find_first_of("'\"{}") != std::string::npos) continue;
      for (size_t n = words.find("\\n"); n != std::string::npos; n = words.find("\\n", n)) words.replace(n, 2, "\n");
      return words;
    }
  }
  return "";
}

/// A template without its spaces, in one kind of quotes.
std::string squeezed(const std::string& jinja) {
  std::string out;
  for (const char c : jinja) {
    if (c != ' ') out += c == '"' ? '\'' : c;
  }
  return out;
}

/// Whether words lose the white space around them before `then`.
bool trims_words(const std::string& jinja, const std::string& then = "") {
  const std::string text = squeezed(jinja);
  for (const char* way : {"content']|trim", "content|trim", "content.strip()", "content'].strip()"}) {
    if (holds(text, way + then)) return true;
  }
  return false;
}

[[noreturn]] void refuse_variant(const char* form, const std::string& what) {
  fail(kOp, "the chat template looks like ", form, ", but ", what,
       ", which is not supported; name a form with --chat-template");
}

/// Errors: marks in "<|...|>" that the form does not have.
void check_marks(const std::string& jinja, const char* form, std::initializer_list<std::string_view> known) {
  for (size_t at = jinja.find("<|"); at != std::string::npos; at = jinja.find("<|", at + 1)) {
    const size_t end = jinja.find("|>", at);
    const std::string mark = end == std::string::npos ? "<|" : jinja.substr(at, std::min<size_t>(end + 2 - at, 40));
    if (std::find(known.begin(), known.end(), mark) == known.end()) refuse_variant(form, "it has " + mark);
  }
}

/// Whether a newline, spelled or not, in this literal or one that is added to it, follows at `at`.
bool newline_follows(const std::string& jinja, size_t at) {
  while (at < jinja.size() &&
         (jinja[at] == '\'' || jinja[at] == '"' || jinja[at] == ' ' || jinja[at] == '+' || jinja[at] == '~'))
    ++at;
  return jinja.compare(at, 1, "\n") == 0 || jinja.compare(at, 2, "\\n") == 0;
}

/// Errors: a template that writes other lines than "<|im_start|>role\n", words and "<|im_end|>\n".
void check_chatml(const std::string& jinja) {
  check_marks(jinja, "ChatML", {"<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|begin_of_text|>"});
  for (size_t at = jinja.find("<|im_end|>"); at != std::string::npos; at = jinja.find("<|im_end|>", at + 1)) {
    if (!newline_follows(jinja, at + 10)) refuse_variant("ChatML", "no newline follows <|im_end|>");
  }
  bool asks = false;
  for (size_t at = jinja.find("<|im_start|>"); at != std::string::npos; at = jinja.find("<|im_start|>", at + 1)) {
    size_t end = at + 12;
    while (end < jinja.size() && ((jinja[end] >= 'a' && jinja[end] <= 'z') || jinja[end] == '_')) ++end;
    const std::string role = jinja.substr(at + 12, end - at - 12);
    if (role.empty()) continue;  // a variable
    if (role != "system" && role != "user" && role != "assistant" && role != "tool")
      refuse_variant("ChatML", "it has a role \"" + role.substr(0, 40) + "\"");
    const bool tool = holds(jinja, "<tool_response>") && squeezed(jinja.substr(end, 4)).starts_with("'}");
    if (!tool && !newline_follows(jinja, end)) refuse_variant("ChatML", "no newline follows the role " + role);
    asks = asks || role == "assistant";
  }
  if (!asks) refuse_variant("ChatML", "it does not ask for an answer with <|im_start|>assistant");
}

/// Errors: a template that writes other heads than "<|start_header_id|>role<|end_header_id|>\n\n".
void check_llama3(const std::string& jinja) {
  check_marks(jinja, "Llama-3",
              {"<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>",
               "<|python_tag|>", "<|end_of_text|>"});
  for (size_t at = jinja.find("<|end_header_id|>"); at != std::string::npos;
       at = jinja.find("<|end_header_id|>", at + 1)) {
    const std::string after = jinja.substr(at + 17, 4);
    if (!after.starts_with("\n\n") && after != "\\n\\n")
      refuse_variant("Llama-3", "no empty line follows <|end_header_id|>");
  }
}

ChatTemplate mistral_of(const std::string& jinja) {
  if (holds(jinja, "[SYSTEM_PROMPT]")) refuse_variant("Mistral", "it has [SYSTEM_PROMPT]");
  ChatTemplate out{.form = ChatForm::mistral, .begins_with_bos = true};
  out.trims_questions = trims_words(jinja, "+'[/INST]'");
  out.trims_answers = trims_words(jinja, "+eos_token");
  out.space_after_open = holds(jinja, "[INST] ");
  out.space_before_close = holds(jinja, "' [/INST]") || holds(jinja, "\" [/INST]");
  out.space_before_answer = holds(jinja, "' ' + message") || holds(jinja, "\" \" + message");
  out.space_after_end =
      holds(jinja, "eos_token + ' '") || holds(jinja, "eos_token+ ' '") || holds(jinja, "eos_token + \" \"");
  return out;
}

/// A conversation as text of the template and words of people, which are encoded differently.
class Script {
 public:
  Script(const Tokenizer& tokenizer, const ChatTemplate& form) : tokenizer_(tokenizer) {
    if (form.begins_with_bos) {
      check(tokenizer.named_bos().has_value(), kOp, "the template begins with BOS, the tokenizer has none");
      ids_.push_back(*tokenizer.named_bos());
    }
  }
  /// Text of the template without marks, or words of people.
  void say(const std::string& words) { pending_ += words; }
  /// One special token.
  void mark(const std::string& name) {
    const auto id = tokenizer_.token_id(name);
    check(id.has_value(), kOp, "the tokenizer has no token '", name, "', which the template needs");
    flush();
    ids_.push_back(*id);
  }
  /// A mark that some tokenizers have as a token and others spell.
  void mark_or_say(const std::string& name) {
    const auto id = tokenizer_.token_id(name);
    if (id && tokenizer_.is_special(*id)) mark(name);
    else say(name);
  }
  void end() {
    check(tokenizer_.eos_id().has_value(), kOp, "the template ends answers with EOS, the tokenizer has none");
    flush();
    ids_.push_back(*tokenizer_.eos_id());
  }
  std::vector<int32_t> ids() {
    flush();
    return std::move(ids_);
  }

 private:
  void flush() {
    if (pending_.empty()) return;
    const std::vector<int32_t> more = tokenizer_.encode_within(pending_, /*at_start=*/ids_.empty());
    ids_.insert(ids_.end(), more.begin(), more.end());
    pending_.clear();
  }

  const Tokenizer& tokenizer_;
  std::string pending_;
  std::vector<int32_t> ids_;
};

const char* name_of(ChatRole role) {
  return role == ChatRole::system ? "system" : role == ChatRole::user ? "user" : "assistant";
}

void write_chatml(Script& out, const std::vector<ChatMessage>& messages) {
  for (const ChatMessage& m : messages) {
    out.mark("<|im_start|>");
    out.say(std::string(name_of(m.role)) + "\n" + m.text);
    out.mark("<|im_end|>");
    out.say("\n");
  }
  out.mark("<|im_start|>");
  out.say("assistant\n");
}

void write_llama3(Script& out, const std::vector<ChatMessage>& messages, bool keeps_space) {
  const auto head = [&](const char* role) {
    out.mark("<|start_header_id|>");
    out.say(role);
    out.mark("<|end_header_id|>");
    out.say("\n\n");
  };
  for (const ChatMessage& m : messages) {
    head(name_of(m.role));
    out.say(keeps_space ? m.text : trimmed(m.text));
    out.mark("<|eot_id|>");
  }
  head("assistant");
}

/// BOS stands before every question, as in the published template.
void write_llama2(Script& out, const std::vector<ChatMessage>& messages, const std::string& system,
                  const std::string& bos) {
  bool first = true;
  for (const ChatMessage& m : messages) {
    if (m.role == ChatRole::assistant) {
      out.say(" " + trimmed(m.text) + " ");
      out.end();
      continue;
    }
    if (!first) out.mark(bos);
    out.say("[INST] ");
    // The published template trims system message and question together.
    out.say(trimmed(first && !system.empty() ? "<<SYS>>\n" + system + "\n<</SYS>>\n\n" + m.text : m.text));
    out.say(" [/INST]");
    first = false;
  }
}

void write_mistral(Script& out, const ChatTemplate& form, const std::vector<ChatMessage>& messages) {
  for (const ChatMessage& m : messages) {
    if (m.role == ChatRole::assistant) {
      out.say((form.space_before_answer ? " " : "") + m.text);
      out.end();
      if (form.space_after_end) out.say(" ");
      continue;
    }
    out.mark_or_say("[INST]");
    out.say((form.space_after_open ? " " : "") + m.text + (form.space_before_close ? " " : ""));
    out.mark_or_say("[/INST]");
  }
}

void write_gemma(Script& out, const std::vector<ChatMessage>& messages, const std::string& system, bool keeps_space) {
  bool first = true;
  for (const ChatMessage& m : messages) {
    out.mark("<start_of_turn>");
    out.say(m.role == ChatRole::assistant ? "model\n" : "user\n");
    if (first && !system.empty()) out.say(system + "\n\n");
    out.say(keeps_space ? m.text : trimmed(m.text));
    out.mark("<end_of_turn>");
    out.say("\n");
    first = false;
  }
  out.mark("<start_of_turn>");
  out.say("model\n");
}

/// Takes a system message off the front. Errors: turns that do not alternate.
std::string take_system(std::vector<ChatMessage>& messages, const ChatTemplate& form) {
  std::string system = form.default_system;
  if (!messages.empty() && messages[0].role == ChatRole::system) {
    system = messages[0].text;
    messages.erase(messages.begin());
  }
  for (size_t i = 0; i < messages.size(); ++i) {
    check(messages[i].role == (i % 2 == 0 ? ChatRole::user : ChatRole::assistant), kOp, "message ", i, " is the ",
          name_of(messages[i].role), "'s, expected user and assistant in turn");
  }
  check(messages.size() % 2 == 1, kOp, "a conversation must end with the user, so that the assistant can answer");
  return system;
}

}  // namespace

ChatTemplate recognise_chat_template(const std::string& jinja) {
  check(!holds(jinja, "strftime_now") && !holds(jinja, "Today Date"), kOp,
        "the chat template writes dates, which is not supported; name a form with --chat-template");
  const bool bos = holds(jinja, "bos_token") || holds(jinja, "<|begin_of_text|>");
  const bool trims = trims_words(jinja);
  if (holds(jinja, "<|im_start|>") && holds(jinja, "<|im_end|>")) {
    check_chatml(jinja);
    return {.form = ChatForm::chatml,
            .begins_with_bos = bos,
            .default_system = default_system_of(jinja),
            .trims_questions = trims,
            .trims_answers = trims,
            .strips_thoughts = holds(jinja, "split('</think>')") || holds(jinja, "split(\"</think>\")")};
  }
  if (holds(jinja, "<|start_header_id|>") && holds(jinja, "<|eot_id|>")) {
    check_llama3(jinja);
    return {.form = ChatForm::llama3, .begins_with_bos = bos, .keeps_space = !trims};
  }
  if (holds(jinja, "<start_of_turn>") && holds(jinja, "<end_of_turn>"))
    return {.form = ChatForm::gemma,
            .begins_with_bos = bos,
            .default_system = {},
            .system_in_user = holds(jinja, "first_user_prefix"),
            .keeps_space = !trims};
  if (holds(jinja, "[INST]") && holds(jinja, "<<SYS>>")) return {.form = ChatForm::llama2, .begins_with_bos = true};
  if (holds(jinja, "[INST]")) return mistral_of(jinja);
  const bool loop = holds(jinja, "for message in messages") && holds(jinja, "endfor");
  const bool bare = loop && !holds(jinja, "role") && jinja.size() < 200;
  check(bare, kOp, "the chat template is none of ChatML, Llama-2, Llama-3, Mistral, Gemma and plain, it begins ",
        nlohmann::json(jinja.substr(0, 80)).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace),
        "; name a form with --chat-template");
  return {.form = ChatForm::plain, .begins_with_bos = bos};
}

ChatTemplate chat_template_named(const std::string& name) {
  if (name == "plain") return {.form = ChatForm::plain};
  if (name == "chatml") return {.form = ChatForm::chatml};
  if (name == "llama2") return {.form = ChatForm::llama2, .begins_with_bos = true};
  if (name == "llama3") return {.form = ChatForm::llama3, .begins_with_bos = true};
  if (name == "mistral") return {.form = ChatForm::mistral, .begins_with_bos = true};
  if (name == "gemma") return {.form = ChatForm::gemma, .begins_with_bos = true};
  fail(kOp, "unknown chat template '", name, "'; known: plain, chatml, llama2, llama3, mistral, gemma");
}

std::string stated_chat_template(const Tokenizer& tokenizer) {
  if (tokenizer.kept_config().empty()) return "";
  const auto config = nlohmann::json::parse(tokenizer.kept_config(), nullptr, /*allow_exceptions=*/false);
  if (!config.is_object() || !config.contains("chat_template")) return "";
  const auto& stated = config["chat_template"];
  if (stated.is_string()) return stated.get<std::string>();
  if (!stated.is_array()) return "";
  for (const auto& named : stated) {  // several by name: the one that transformers takes by itself
    const bool whole = named.is_object() && named.contains("name") && named.contains("template");
    if (whole && named["name"] == "default" && named["template"].is_string())
      return named["template"].get<std::string>();
  }
  return "";
}

std::vector<int32_t> encode_chat(const Tokenizer& tokenizer, const ChatTemplate& form,
                                 const std::vector<ChatMessage>& messages) {
  std::vector<ChatMessage> turns = messages;
  std::string system = take_system(turns, form);
  if (form.strips_thoughts) {
    for (ChatMessage& m : turns) {
      const size_t end = m.role == ChatRole::assistant ? m.text.rfind("</think>") : std::string::npos;
      if (end == std::string::npos) continue;
      m.text.erase(0, end + 8);
      m.text.erase(0, std::min(m.text.find_first_not_of('\n'), m.text.size()));
    }
  }
  if (form.trims_questions) system = trimmed(system);
  for (ChatMessage& m : turns) {
    if (m.role == ChatRole::assistant ? form.trims_answers : form.trims_questions) m.text = trimmed(m.text);
  }
  Script out(tokenizer, form);
  switch (form.form) {
    case ChatForm::plain:
      if (!system.empty()) out.say(system);
      for (const ChatMessage& m : turns) out.say(m.text);
      break;
    case ChatForm::chatml:
    case ChatForm::llama3:
      if (!system.empty()) turns.insert(turns.begin(), {ChatRole::system, system});
      if (form.form == ChatForm::chatml) write_chatml(out, turns);
      else write_llama3(out, turns, form.keeps_space);
      break;
    case ChatForm::llama2:
      write_llama2(out, turns, system, tokenizer.named_bos() ? tokenizer.token(*tokenizer.named_bos()) : "<s>");
      break;
    case ChatForm::mistral:
      check(system.empty(), kOp, "this model's chat template has no system message");
      write_mistral(out, form, turns);
      break;
    case ChatForm::gemma:
      check(system.empty() || form.system_in_user, kOp, "this model's chat template has no system message");
      write_gemma(out, turns, system, form.keeps_space);
  }
  return out.ids();
}

std::vector<int32_t> chat_ends(const Tokenizer& tokenizer, const ChatTemplate& form) {
  const char* mark = form.form == ChatForm::chatml   ? "<|im_end|>"
                     : form.form == ChatForm::llama3 ? "<|eot_id|>"
                     : form.form == ChatForm::gemma  ? "<end_of_turn>"
                                                     : nullptr;
  std::vector<int32_t> out;
  if (mark != nullptr && tokenizer.token_id(mark)) out.push_back(*tokenizer.token_id(mark));
  if (tokenizer.eos_id()) out.push_back(*tokenizer.eos_id());
  return out;
}

}  // namespace rw
