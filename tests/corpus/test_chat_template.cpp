// Published chat templates are recognised and written as Hugging Face renders them.
#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

#include "data/byte_bpe.h"
#include "data/chat_template.h"
#include "support.h"
#include "tensor/file.h"

using namespace rw;
using nlohmann::json;
using Ids = std::vector<int32_t>;

namespace {

/// Bytes and the marks of every form. What people say is spelled in bytes, marks never are.
std::unique_ptr<Tokenizer> marks() {
  auto tokenizer = make_byte_tokenizer();
  std::vector<AddedToken> added;
  for (const char* mark : {"<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
                           "<start_of_turn>", "<end_of_turn>"}) {
    added.push_back({mark, 258 + static_cast<int32_t>(added.size())});
  }
  tokenizer->add_tokens(added);
  return tokenizer;
}

std::vector<ChatMessage> messages_of(const json& list) {
  std::vector<ChatMessage> out;
  for (const json& m : list) {
    const std::string role = m["role"];
    const ChatRole as = role == "system" ? ChatRole::system : role == "user" ? ChatRole::user : ChatRole::assistant;
    out.push_back({as, m["content"]});
  }
  return out;
}

/// The ids of a rendered text in which U+27E8 stands for a "<" that somebody said.
Ids ids_of(const Tokenizer& tokenizer, const std::string& rendered) {
  Ids out;
  const int32_t bracket = tokenizer.encode("<")[0];
  size_t at = 0;
  for (size_t next = rendered.find("\u27E8"); at <= rendered.size(); next = rendered.find("\u27E8", at)) {
    const std::string part = rendered.substr(at, next == std::string::npos ? next : next - at);
    for (const int32_t id : tokenizer.encode_special(part)) out.push_back(id);
    if (next == std::string::npos) break;
    out.push_back(bracket);
    at = next + 3;
  }
  return out;
}

std::string error_of(const ChatTemplate& form, const std::vector<ChatMessage>& messages) {
  return test::error_of([&] { encode_chat(*marks(), form, messages); });
}

}  // namespace

TEST_CASE("Conversations become the ids that Hugging Face's templates give, and nobody can say a mark") {
  const json vectors = json::parse(read_file(test::data_dir() + "/chat_templates.json"));
  const auto tokenizer = marks();
  for (const auto& [name, entry] : vectors.items()) {
    const ChatTemplate form = recognise_chat_template(entry["template"]);
    for (const json& c : entry["cases"]) {
      const Ids got = encode_chat(*tokenizer, form, messages_of(c["messages"]));
      CHECK_MESSAGE(got == ids_of(*tokenizer, c["rendered"]), name, ": ", c["rendered"].dump());
    }
  }
}

TEST_CASE("A chat template of no known form, or one that writes dates, is refused") {
  CHECK(test::error_of([] {
          recognise_chat_template("{{ messages[0].content | upper }}");
        }).find("none of ChatML, Llama-2") != std::string::npos);
  CHECK(test::error_of([] { recognise_chat_template("<|start_header_id|> Today Date: <|eot_id|>"); }).find("dates") !=
        std::string::npos);
  CHECK(test::error_of([] { chat_template_named("alpaca"); }).find("'alpaca'") != std::string::npos);
}

TEST_CASE("A chat template that looks like a form and writes something else is refused, or followed") {
  const auto refused = [](const std::string& jinja) { return test::error_of([&] { recognise_chat_template(jinja); }); };
  const std::string body = "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}";
  const std::string ask = "{{ '<|im_start|>assistant\n' }}";
  CHECK(recognise_chat_template(body + ask).form == ChatForm::chatml);
  CHECK(refused("{{ '<|im_start|>user<|im_sep|>' + m['content'] + '<|im_end|>' }}").find("it has <|im_sep|>") !=
        std::string::npos);  // Phi-4
  CHECK(refused(body).find("does not ask for an answer") != std::string::npos);
  CHECK(refused("{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' }}" + ask)
            .find("no newline follows <|im_end|>") != std::string::npos);
  CHECK(refused(body + "{{ '<|im_start|>gpt\n' }}").find("a role \"gpt\"") != std::string::npos);
  CHECK(refused("{{ '[SYSTEM_PROMPT]' + s + '[/SYSTEM_PROMPT][INST]' + m + '[/INST]' }}").find("[SYSTEM_PROMPT]") !=
        std::string::npos);
  CHECK(refused("'<|start_header_id|>' + r + '<|end_header_id|>' + m + '<|eot_id|>'").find("no empty line") !=
        std::string::npos);

  const auto said = [](const std::string& jinja, const std::vector<ChatMessage>& messages) {
    const auto tokenizer = marks();
    std::string out;
    for (const int32_t id : encode_chat(*tokenizer, recognise_chat_template(jinja), messages)) {
      const std::string piece = tokenizer->piece(-1, id);
      out += piece.empty() ? tokenizer->token(id) : piece;
    }
    return out;
  };
  const ChatMessage ask_me{ChatRole::user, " a "};
  const std::string open = "<|im_start|>user\n", close = "<|im_end|>\n", answer = "<|im_start|>assistant\n";
  CHECK(said(body + ask, {ask_me}) == open + " a " + close + answer);
  CHECK(said("{{ '<|im_start|>' + m.role + '\n' + m.content | trim + '<|im_end|>\n' }}" + ask, {ask_me}) ==
        open + "a" + close + answer);
  // Qwen 3 leaves out what an answer thought before.
  CHECK(said(body + ask + "{{ m.content.split('</think>')[-1] }}",
             {ask_me, {ChatRole::assistant, "<think>\nhm\n</think>\n\nyes"}, ask_me}) ==
        open + " a " + close + answer + "yes" + close + open + " a " + close + answer);
  // The tools of Qwen 2.5 stand in a message whose newline comes later.
  CHECK(
      recognise_chat_template(body + "{{- '<|im_start|>user' }}{%- endif %}{{- '\n<tool_response>\n' }}" + ask).form ==
      ChatForm::chatml);
  // Mistral's newer templates trim answers alone.
  const std::string trimming =
      "{{ bos_token }}{{ \"[INST] \" + m[\"content\"] + \"[/INST]\" }}"
      "{{ \" \" + m[\"content\"]|trim + eos_token }}";
  CHECK(said(trimming, {ask_me, {ChatRole::assistant, " b "}, ask_me}).find("[INST]  a [/INST]") != std::string::npos);
  CHECK(said(trimming, {ask_me, {ChatRole::assistant, " b "}, ask_me}).find("b</s>") != std::string::npos);
  // Mistral's newer tokenizers have no space after [INST].
  CHECK(said("{{ bos_token }}{{ '[INST]' + m['content'] + '[/INST]' }}", {ask_me}) == "<s>[INST] a [/INST]");
  CHECK(said("{{ bos_token }}{{ '[INST] ' + m['content'] + '[/INST]' }}", {ask_me}) == "<s>[INST]  a [/INST]");
  // A Llama 3 template that does not trim.
  const std::string llama3 = "'<|start_header_id|>' + r + '<|end_header_id|>\n\n' + m['content']";
  CHECK(said(llama3 + " + '<|eot_id|>'", {ask_me}).find("\n\n a <|eot_id|>") != std::string::npos);
  CHECK(said(llama3 + " | trim + '<|eot_id|>'", {ask_me}).find("\n\na<|eot_id|>") != std::string::npos);
}

TEST_CASE("Conversations that a form cannot hold are refused by what is wrong") {
  const ChatMessage user{ChatRole::user, "a"}, model{ChatRole::assistant, "b"}, system{ChatRole::system, "c"};
  const ChatTemplate chatml = chat_template_named("chatml");
  CHECK(error_of(chatml, {user, user, user}).find("message 1 is the user's") != std::string::npos);
  CHECK(error_of(chatml, {user, model}).find("must end with the user") != std::string::npos);
  CHECK(error_of(chatml, {user, system, user}).find("message 1 is the system's") != std::string::npos);
  CHECK(error_of(chat_template_named("gemma"), {system, user}).find("no system message") != std::string::npos);
  CHECK(test::error_of([&] { encode_chat(*make_byte_tokenizer(), chatml, {user}); }).find("no token '<|im_start|>'") !=
        std::string::npos);
}

TEST_CASE("An answer ends at the form's mark and at EOS") {
  CHECK(chat_ends(*marks(), chat_template_named("chatml")) == Ids{259, 1});
  CHECK(chat_ends(*marks(), chat_template_named("llama2")) == Ids{1});
}

TEST_CASE("The chat template of a folder is read from either file and written back") {
  test::TempDir folder, again;
  make_byte_tokenizer()->save(folder.path());
  write_file_atomic(folder.path("chat_template.jinja"),
                    "{% for message in messages %}{{ message.content }}{% endfor %}");
  load_tokenizer(folder.path())->save(again.path());
  const auto tokenizer = load_tokenizer(again.path());
  CHECK(stated_chat_template(*tokenizer) == read_file(folder.path("chat_template.jinja")));
  CHECK(recognise_chat_template(stated_chat_template(*tokenizer)).form == ChatForm::plain);
  CHECK(stated_chat_template(*make_byte_tokenizer()).empty());
}
