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
