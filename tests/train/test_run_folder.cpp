// Whose a folder is: locks, refusals, the model put in its place as one, and checkpoints of other programs.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <limits>

#include "nn/io/checkpoint.h"
#include "nn/io/hf.h"
#include "support.h"
#include "tensor/file.h"
#include "train/run_folder.h"

using namespace rw;
namespace fs = std::filesystem;

namespace {

void put(const std::string& path, const std::string& text) {
  fs::create_directories(fs::path(path).parent_path());
  std::ofstream(path, std::ios::binary) << text;
}

std::string refusal(const std::string& folder, FolderUse use, const std::vector<std::string>& sources = {}) {
  return test::error_of([&] { RunFolder(folder, use, "test", false).check_place(sources); });
}

ModelConfig tiny_config() {
  ModelConfig c;
  c.vocab_size = 20, c.hidden_size = 8, c.intermediate_size = 8, c.num_hidden_layers = 1, c.num_attention_heads = 2;
  c.rope.max_position_embeddings = 16;
  return c;
}

/// Saves a checkpoint of a small model after `step` steps.
std::string save(const std::string& out, int64_t step, int64_t keep) {
  CausalLm model(tiny_config(), DType::f32, kCpu, 1);
  AdamW optimizer(model.arena(), {});
  return save_checkpoint(out, model, optimizer, {.step = step}, keep);
}

std::vector<std::string> names(const std::string& folder) {
  std::vector<std::string> found;
  for (const auto& entry : fs::directory_iterator(folder)) found.push_back(entry.path().filename().string());
  std::sort(found.begin(), found.end());
  return found;
}

}  // namespace

TEST_CASE("a fresh run is refused where a model, records or a checkpoint lie, and told how to go on") {
  for (const char* file :
       {"config.json", "model.safetensors", "model-00001-of-00002.safetensors", "metrics.jsonl", "validation.jsonl",
        "metrics.csv", "recipe.toml", "cost.json", "run.json", "eval-ppl.json"}) {
    const test::TempDir dir;
    put(dir.path("o/" + std::string(file)), "x");
    CAPTURE(file);
    const std::string why = refusal(dir.path("o"), FolderUse::fresh);
    for (const char* way : {"--resume", "--overwrite", "--out"}) CHECK(why.find(way) != std::string::npos);
    CHECK(names(dir.path("o")) == std::vector<std::string>{file});
  }
  const test::TempDir dir;
  save(dir.path("o"), 3, 0);
  CHECK(refusal(dir.path("o"), FolderUse::fresh).find("checkpoint-000003") != std::string::npos);
  put(dir.path("notes/notes.txt"), "x");
  RunFolder(dir.path("notes"), FolderUse::fresh, "test", false)
      .check_place({});  // somebody's notes are in nobody's way
}

TEST_CASE("what a run reads is never the folder that it writes") {
  const test::TempDir dir;
  fs::create_directory(dir.path("x"));
  fs::create_directory_symlink(dir.path("x"), dir.path("link"));
  for (const std::string& out : {dir.path("x"), dir.path("x/"), dir.path("x/../x"), dir.path("link")}) {
    CAPTURE(out);
    for (const FolderUse use : {FolderUse::fresh, FolderUse::resume, FolderUse::overwrite})
      CHECK(refusal(out, use, {dir.path("x")}).find("read by this run") != std::string::npos);
  }
}

TEST_CASE("one process works in a folder at a time, and its end frees the folder however it ends") {
  const test::TempDir dir;
  int ready[2];
  REQUIRE(::pipe(ready) == 0);
  const pid_t child = ::fork();
  if (child == 0) {
    const FolderLock lock(dir.path("o"), false);
    static_cast<void>(!::write(ready[1], "x", 1));
    ::pause();
    ::_exit(0);
  }
  char byte;
  REQUIRE(::read(ready[0], &byte, 1) == 1);
  CHECK(FolderLock::taken(dir.path("o")));
  CHECK_FALSE(FolderLock(dir.path("o"), false).held());
  CHECK(refusal(dir.path("o"), FolderUse::resume).find("another process") != std::string::npos);
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  CHECK_FALSE(FolderLock::taken(dir.path("o")));
  CHECK(FolderLock(dir.path("o"), false).held());
  ::close(ready[0]), ::close(ready[1]);
}

TEST_CASE("the same run is gone on with, another is refused with the first difference") {
  const test::TempDir dir;
  const Identity one = {{"batch", "2"}, {"steps", "10"}}, other = {{"batch", "4"}, {"steps", "10"}};
  RunFolder(dir.path("o"), FolderUse::fresh, "test", false).begin({}, one, "[train]\n");
  const auto stand = [&](const Identity& id) {
    return RunFolder(dir.path("o"), FolderUse::resume, "test", false).stand(id);
  };
  CHECK(stand(one).exists);
  CHECK_FALSE(stand(one).finished);
  CHECK(test::error_of([&] { stand(other); }).find("batch was 2, now 4") != std::string::npos);
  CHECK(stand({{"batch", "2"}, {"steps", "20"}}).steps == 10);  // whether more steps are allowed is the run's to say
  CHECK(run_maker(dir.path("o")) == "test");
}

TEST_CASE("a model that takes the place of another keeps the files' modes, and a link is not replaced") {
  const test::TempDir dir;
  const std::string o = dir.path("o"), weights = o + "/model.safetensors";
  put(o + "/config.json", "old"), put(weights, "old");
  fs::permissions(weights, fs::perms(0600));
  RunFolder folder(o, FolderUse::overwrite, "test", false);
  folder.begin({}, {{"steps", "10"}}, "");
  const auto write = [](const std::string& beside) {
    put(beside + "/config.json", "new"), put(beside + "/model.safetensors", "new");
  };
  folder.put_model(write);
  CHECK(rw::read_file(weights) == "new");
  CHECK(fs::status(weights).permissions() == fs::perms(0600));
  fs::remove(weights), fs::create_symlink("/dev/null", weights);
  CHECK(test::error_of([&] { folder.put_model(write); }).find("not a regular file") != std::string::npos);
  CHECK(test::error_of([&] { folder.check_place({}); }).find("not a regular file") != std::string::npos);
  CHECK(fs::is_symlink(weights));
  CHECK(fs::exists(o + "/config.json"));
}

TEST_CASE("a model folder is replaced as one, and what is no part of a model stays") {
  const test::TempDir dir;
  const std::string m = dir.path("m");
  for (const char* name : {"model-00001-of-00002.safetensors", "config.json", "tokenizer.json", "notes.txt", "data/x"})
    put(m + "/" + name, "old");
  const CausalLm model(tiny_config(), DType::f32, kCpu, 1);
  CHECK_THROWS(replace_model_folder(m, [&](const std::string& to) {
    save_hf(to, model);
    throw Error("full disk");
  }));
  CHECK(names(m).size() == 5);
  CHECK(rw::read_file(m + "/config.json") == "old");
  replace_model_folder(m, [&](const std::string& to) { save_hf(to, model); });
  CHECK(names(m) == std::vector<std::string>{"config.json", "data", "model.safetensors", "notes.txt"});
  CHECK(load_hf(m)->arena().parameter_count() == model.arena().parameter_count());
}

TEST_CASE("a model is put in the place of another with its config last, and a changed one is not replaced") {
  const test::TempDir dir;
  const std::string o = dir.path("o");
  const Identity id = {{"steps", "10"}};
  put(o + "/model-00001-of-00002.safetensors", "old"), put(o + "/config.json", "old");
  RunFolder folder(o, FolderUse::overwrite, "test", false);
  folder.begin({}, id, "");
  CHECK(rw::read_file(o + "/config.json") == "old");  // until the new one is there
  CHECK_THROWS(folder.put_model([&](const std::string&) { throw Error("full disk"); }));
  CHECK(rw::read_file(o + "/config.json") == "old");
  folder.put_model([&](const std::string& beside) {
    put(beside + "/config.json", "new"), put(beside + "/model.safetensors", "new");
    CHECK(rw::read_file(o + "/config.json") == "old");
  });
  CHECK(rw::read_file(o + "/config.json") == "new");
  CHECK_FALSE(fs::exists(o + "/model-00001-of-00002.safetensors"));
  CHECK_FALSE(fs::exists(o + "/.tmp-model"));
  folder.finish(id, "{}");
  const auto stand = [&] { return RunFolder(o, FolderUse::resume, "test", true).stand(id); };
  CHECK(stand().finished);
  const Identity longer = {{"steps", "20"}};
  {
    RunFolder more(o, FolderUse::resume, "test", true);
    more.begin({}, longer, "");
    CHECK_FALSE(RunFolder(o, FolderUse::resume, "test", true).stand(longer).finished);  // also if it is killed here
    more.finish(id, "{}");
  }
  fs::remove(o + "/model.safetensors");
  CHECK_FALSE(stand().finished);
  put(o + "/model.safetensors", "new");
  CHECK(stand().finished);
  put(o + "/config.json", "edited");
  CHECK(test::error_of([&] { stand(); }).find("was changed after") != std::string::npos);
}

TEST_CASE("checkpoints and files of other programs are never removed, counted or replaced") {
  const test::TempDir dir;
  const std::string o = dir.path("o");
  put(o + "/checkpoint-500/pytorch_model.bin", "precious");
  put(o + "/checkpoint-000700/trainer_state.json", "{\"global_step\": 700}");
  for (const char* name : {"data.tmp-2024-01/f", "notes.tmp-1-1", ".tmp-checkpoint-000003/x"}) put(o + "/" + name, "x");
  const std::string unfinished = o + "/" + temporary_name();
  put(unfinished, "x");
  remove_unfinished(o);
  CHECK(fs::exists(o + "/data.tmp-2024-01/f"));
  CHECK(fs::exists(o + "/notes.tmp-1-1"));
  CHECK_FALSE(fs::exists(unfinished));
  CHECK_FALSE(fs::exists(o + "/.tmp-checkpoint-000003"));
  for (int64_t step = 1; step <= 4; ++step) save(o, step, 2);
  CHECK(fs::exists(o + "/checkpoint-500/pytorch_model.bin"));
  CHECK(fs::exists(o + "/checkpoint-000700"));
  CHECK_FALSE(fs::exists(o + "/checkpoint-000002"));
  CHECK(fs::exists(o + "/checkpoint-000003"));
  CHECK(latest_checkpoint(o) == o + "/checkpoint-000004");
  CHECK(test::error_of([&] { save(o, 700, 2); }).find("not written by this program") != std::string::npos);
  remove_checkpoints(o);
  CHECK(fs::exists(o + "/checkpoint-000700"));
  CHECK_FALSE(fs::exists(o + "/checkpoint-000004"));
}

TEST_CASE("a damaged checkpoint pushes no whole one out, and is named") {
  const test::TempDir dir;
  const std::string o = dir.path("o");
  for (int64_t step = 1; step <= 3; ++step) save(o, step, 0);
  for (const char* name : {"/checkpoint-000002/model.safetensors", "/checkpoint-000003/model.safetensors"})
    std::ofstream(o + name, std::ios::app) << "x";
  const CheckpointScan scan = scan_checkpoints(o);
  CHECK(scan.newest == o + "/checkpoint-000001");
  CHECK(scan.damaged == std::vector<std::string>{o + "/checkpoint-000003", o + "/checkpoint-000002"});
  save(o, 4, 2);
  CHECK(fs::exists(o + "/checkpoint-000001"));  // one of the two newest whole ones
  CHECK(fs::exists(o + "/checkpoint-000004"));
}

TEST_CASE("weights that are not finite are never saved") {
  const test::TempDir dir;
  CausalLm model(tiny_config(), DType::f32, kCpu, 1);
  AdamW optimizer(model.arena(), {});
  save_checkpoint(dir.path("o"), model, optimizer, {.step = 1}, 1);
  model.arena().master().data<float>()[5] = std::numeric_limits<float>::infinity();
  CHECK(test::error_of([&] { save_checkpoint(dir.path("o"), model, optimizer, {.step = 2}, 1); }).find("not finite") !=
        std::string::npos);
  CHECK(latest_checkpoint(dir.path("o")) == dir.path("o/checkpoint-000001"));
  CHECK_FALSE(fs::exists(dir.path("o/.tmp-checkpoint-000002")));
}
