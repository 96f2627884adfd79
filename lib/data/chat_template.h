// Conversations as the text that models were tuned on. Templates are programs in Jinja; the published ones have a few
// forms, which are recognised by their marks instead of being run.
//
//   const ChatTemplate form = recognise_chat_template(text_of_template);
//   std::vector<int32_t> ids = encode_chat(*tokenizer, form, {{ChatRole::user, "Hello!"}});  // up to the answer
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "data/tokenizer.h"

namespace rw {

enum class ChatForm {
  plain,    // the contents one after the other
  chatml,   // <|im_start|>user\n...<|im_end|>\n
  llama2,   // [INST] <<SYS>>...<</SYS>> ... [/INST] ... </s>
  llama3,   // <|start_header_id|>user<|end_header_id|>\n\n...<|eot_id|>
  mistral,  // [INST] ... [/INST]...</s>
  gemma,    // <start_of_turn>user\n...<end_of_turn>\n
};

/// A form with what its spellings differ in.
struct ChatTemplate {
  ChatForm form = ChatForm::plain;
  bool begins_with_bos = false;
  std::string default_system = {};   // said where the conversation has no system message
  bool system_in_user = false;       // Gemma 3: before the first user's words
  bool trims_questions = false;      // ChatML, Mistral: white space around people's words goes, as in the other forms
  bool trims_answers = false;        // and around answers that are passed back
  bool keeps_space = false;          // Llama 3, Gemma: it stays, unlike in the published templates
  bool strips_thoughts = false;      // Qwen 3: of an answer that is passed back, what follows "</think>" counts
  bool space_after_open = true;      // Mistral: "[INST] words", not "[INST]words"
  bool space_before_close = true;    // Mistral: "[INST] words [/INST]", not "[INST] words[/INST]"
  bool space_before_answer = false;  // Mistral: an answer that is passed back begins with a space
  bool space_after_end = false;      // Mistral: "</s> [INST]"
};

enum class ChatRole { system, user, assistant };

struct ChatMessage {
  ChatRole role = ChatRole::user;
  std::string text;
};

/// Errors: a template that is none of the forms, or does more than they do (dates, tools
/// that are always there), with what was found.
ChatTemplate recognise_chat_template(const std::string& jinja);
/// By name: plain, chatml, llama2, llama3, mistral, gemma. Errors: another name.
ChatTemplate chat_template_named(const std::string& name);
/// The template that a tokenizer's files state (chat_template in tokenizer_config.json, or chat_template.jinja beside
/// it); "" if none.
std::string stated_chat_template(const Tokenizer& tokenizer);

/// The ids of a conversation up to where the assistant speaks next. Marks of the template become special tokens; what
/// people say never does. Errors: a system message where the form has none, a system message that is not the first, two
/// messages of one side in a row, a mark that the tokenizer lacks.
std::vector<int32_t> encode_chat(const Tokenizer& tokenizer, const ChatTemplate& form,
                                 const std::vector<ChatMessage>& messages);

/// Tokens that end an answer, beside EOS.
std::vector<int32_t> chat_ends(const Tokenizer& tokenizer, const ChatTemplate& form);

}  // namespace rw
