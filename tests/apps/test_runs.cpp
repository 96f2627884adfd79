// Runs that lose nothing: what `ropewalk train` refuses, keeps, stops and goes on with.
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "cli.h"
#include "tensor/threads.h"
#include "train/trainer.h"

namespace fs = std::filesystem;

namespace {

const std::string kShape = " --hidden 16 --layers 1 --heads 2 --batch 2 --window 16 ";

/// Every file below a folder, with its bytes.
std::map<std::string, std::string> contents(const std::string& folder) {
  std::map<std::string, std::string> all;
  if (!fs::exists(folder)) return all;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file()) all[entry.path().string()] = rw::read_file(entry.path().string());
  }
  return all;
}

std::vector<nlohmann::json> lines_of(const std::string& path) {
  std::istringstream in(rw::read_file(path));
  std::vector<nlohmann::json> all;
  for (std::string line; std::getline(in, line);) all.push_back(nlohmann::json::parse(line));
  return all;
}

/// A text, and a finished run on it.
struct Finished {
  Finished() {
    write(dir.path("t.txt"), text_of(6000));
    REQUIRE(ropewalk(train("base", "")).code == 0);
  }
  std::string data() const { return "--data '" + dir.path("t.txt") + "' "; }
  std::string out(const std::string& name) const { return "--out '" + dir.path(name) + "' "; }
  std::string train(const std::string& name, const std::string& more) const {
    std::string all = "--quiet train " + data() + out(name) + "--hidden 16 --layers 1 --batch 2 --window 16 " + more;
    for (const std::string option : {"--heads 2", "--steps 8", "--save-every 4", "--schedule constant"}) {
      if (more.find(option.substr(0, option.find(' '))) == std::string::npos) all += " " + option;
    }
    return all;
  }
  /// Refused with code 2 and `part` in the message; nothing has changed on disk.
  void refuses(const std::string& arguments, const std::string& part) const {
    const auto before = contents(dir.path());
    const Answer a = ropewalk(arguments);
    CAPTURE(arguments);
    CAPTURE(a.err);
    CHECK(a.code == 2);
    CHECK(a.err.find(part) != std::string::npos);
    CHECK(contents(dir.path()) == before);
  }
  test::TempDir dir;
};

}  // namespace

TEST_CASE("a refused start changes nothing: another run, a mistyped path, an option out of range, the base as --out") {
  const Finished f;
  f.refuses(f.train("base", ""), "--overwrite");
  f.refuses(f.train("base", "--seed 9"), "holds a model");
  f.refuses(f.train("base", "--overwrite --validation nope/"), "nope");
  f.refuses(f.train("base", "--overwrite --schedule cosin"), "cosin");
  f.refuses(f.train("base", "--overwrite --lr nan"), "--lr must be");
  f.refuses(f.train("base", "--resume --seed 7"), "seed was 1, now 7");
  f.refuses(f.train("base", "--resume --heads 4"), "was 2, now 4");
  f.refuses(f.train("base", "--resume --theta 500"), "was 10000");
  f.refuses(f.train("base", "--resume --overwrite"), "give one");
  const std::string extend = "--quiet train " + f.data() + "--from '" + f.dir.path("base") + "' --steps 2 --batch 2 ";
  f.refuses(extend + f.out("base") + "--method pi --target 64", "read by this run");
  f.refuses(extend + f.out("base") + "--method pi --target 64 --overwrite", "read by this run");
  const std::string of_checkpoint = "--quiet train " + f.data() + "--from '" + f.dir.path("base/checkpoint-000008");
  f.refuses(of_checkpoint + "' --steps 2 --batch 2 " + f.out("base") + "--overwrite", "would remove");
  f.refuses(of_checkpoint + "/' --steps 2 --batch 2 " + f.out("base/../base") + "--overwrite", "would remove");
  f.refuses(extend + f.out("x") + "--method pi --target 64 --layers 3", "--layers has no effect");
  f.refuses(extend + f.out("x") + "--method pi --target 64 --window 32", "--window has no effect");
  f.refuses(extend + f.out("x") + "--method pose --target 64 --window 0 --mask-seams --validate-every 3",
            "--validation");
  CHECK_FALSE(fs::exists(f.dir.path("x")));
}

TEST_CASE("a base that was changed is another run, and so are another text and another part of it") {
  const Finished f;
  const std::string extend = "--quiet train " + f.data() + "--from '" + f.dir.path("base") + "' " + f.out("p") +
                             "--method pose --target 64 --steps 6 --batch 2 --save-every 3 ";
  REQUIRE(ropewalk(extend + "--content-windows 2").code == 0);
  fs::remove_all(f.dir.path("p/checkpoint-000006"));
  fs::remove(f.dir.path("p/model.safetensors"));
  f.refuses(extend + "--content-windows 50 --resume", "content_windows was 2, now 50");
  std::ofstream(f.dir.path("base/model.safetensors"), std::ios::app) << "x";
  f.refuses(extend + "--content-windows 2 --resume", "from was weights");
}

TEST_CASE("a finished run says so and does nothing; more steps go on only with a constant schedule") {
  const Finished f;
  const auto before = contents(f.dir.path());
  const Answer again = ropewalk(f.train("base", "--resume"));
  CHECK(again.code == 0);
  CHECK(again.out.find("is finished") != std::string::npos);
  CHECK(contents(f.dir.path()) == before);
  f.refuses(f.train("base", "--resume --steps 4"), "not made shorter");
  REQUIRE(ropewalk(f.train("whole", "--steps 16")).code == 0);
  const Answer more = ropewalk(f.train("base", "--resume --steps 16"));
  CHECK(more.code == 0);
  CHECK(more.err.find("going on to 16 steps") != std::string::npos);
  CHECK(rw::read_file(f.dir.path("base/model.safetensors")) == rw::read_file(f.dir.path("whole/model.safetensors")));
  const auto cost = nlohmann::json::parse(rw::read_file(f.dir.path("base/cost.json")));
  CHECK(cost.at("steps") == 16);
  CHECK(cost.at("tokens") == nlohmann::json::parse(rw::read_file(f.dir.path("whole/cost.json"))).at("tokens"));
  REQUIRE(ropewalk(f.train("cosine", "--schedule cosine")).code == 0);
  f.refuses(f.train("cosine", "--schedule cosine --resume --steps 16"), "--from");
}

TEST_CASE("--overwrite replaces a run, its records and its evaluations, and no file of anybody else") {
  const Finished f;
  write(f.dir.path("base/notes.txt"), "mine");
  write(f.dir.path("base/eval-ppl.json"), "of the old weights");
  const std::string old = rw::read_file(f.dir.path("base/model.safetensors"));
  REQUIRE(ropewalk(f.train("base", "--overwrite --seed 9 --steps 2")).code == 0);
  CHECK(rw::read_file(f.dir.path("base/model.safetensors")) != old);
  CHECK(lines_of(f.dir.path("base/metrics.jsonl")).size() == 2);
  CHECK_FALSE(fs::exists(f.dir.path("base/eval-ppl.json")));
  CHECK_FALSE(fs::exists(f.dir.path("base/checkpoint-000008")));
  CHECK(fs::exists(f.dir.path("base/notes.txt")));
}

TEST_CASE("a second trainer in one folder is refused at once") {
  const Finished f;
  const std::string command = std::string("OMP_NUM_THREADS=1 '") + ROPEWALK_BINARY_DIR + "/bin/ropewalk' " +
                              f.train("o", "--steps 1000000 --save-every 0 --log-every 1000000") +
                              " >/dev/null 2>&1 & echo $! > '" + f.dir.path("pid") + "'";
  REQUIRE(std::system(command.c_str()) == 0);
  for (int i = 0; i < 1000 && !fs::exists(f.dir.path("o/run.json")); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  const Answer second = ropewalk(f.train("o", "--resume"));
  CHECK(second.code == 2);
  CHECK(second.err.find("another process works in") != std::string::npos);
  ::kill(std::stoi(rw::read_file(f.dir.path("pid"))), SIGKILL);
}

TEST_CASE("SIGINT and SIGTERM finish the step, save, say how to go on, and the run ends with the same bits") {
  const Finished f;
  const std::string more = "--steps 1500 --save-every 0 --clip 0.5 ";
  REQUIRE(ropewalk(f.train("whole", more)).code == 0);
  for (const auto& [name, code] : {std::pair{"INT", 130}, std::pair{"TERM", 143}}) {
    CAPTURE(name);
    const std::string out = std::string("o") + name;
    // The shell waits until the run has begun, then sends the signal to it.
    const std::string script = std::string("OMP_NUM_THREADS=2 '") + ROPEWALK_BINARY_DIR + "/bin/ropewalk' " +
                               f.train(out, more) + " 2>'" + f.dir.path("err") + "' & p=$!; while ! [ -s '" +
                               f.dir.path(out + "/metrics.jsonl") +
                               "' ] && kill -0 $p 2>/dev/null; do sleep 0.01; done; kill -" + name + " $p; wait $p";
    write(f.dir.path("s.sh"), script);
    const int status = std::system(("bash '" + f.dir.path("s.sh") + "' >/dev/null").c_str());
    CHECK(WEXITSTATUS(status) == code);
    CHECK(rw::read_file(f.dir.path("err")).find("--resume") != std::string::npos);
    CHECK_FALSE(fs::exists(f.dir.path(out + "/config.json")));
    REQUIRE(ropewalk(f.train(out, more + "--resume")).code == 0);
    CHECK(rw::read_file(f.dir.path(out + "/model.safetensors")) ==
          rw::read_file(f.dir.path("whole/model.safetensors")));
    CHECK(lines_of(f.dir.path(out + "/metrics.jsonl")).size() == 1500);
  }
}

TEST_CASE("a second signal stops a run at once, in the middle of a step") {
  const Finished f;
  // One step of a million forwards: it has an end only by the second signal.
  const std::string err = "'" + f.dir.path("err") + "'", run = f.train("o", "--steps 2 --accumulate 1000000");
  write(f.dir.path("s.sh"), std::string("OMP_NUM_THREADS=1 '") + ROPEWALK_BINARY_DIR + "/bin/ropewalk' " +
                                run.substr(run.find("train")) + " 2>" + err + " & p=$!; until grep -q parameters " +
                                err + "; do kill -0 $p || exit 9; sleep 0.01; done; " +
                                "kill -INT $p; until grep -q 'stopping after' " + err +
                                "; do kill -0 $p || exit 8; sleep 0.01; done; " + "kill -INT $p; wait $p");
  const int status = std::system(("bash '" + f.dir.path("s.sh") + "' >/dev/null").c_str());
  CHECK(WEXITSTATUS(status) == 130);
  CHECK(rw::read_file(f.dir.path("err")).find("stopped at once; ") != std::string::npos);
}

TEST_CASE("documents that are too short are named with their share, and a run without --data says what it reads") {
  const test::TempDir dir;
  std::string lines;
  for (int i = 0; i < 9; ++i) lines += "{\"text\": \"short\"}\n";
  lines += nlohmann::json{{"text", text_of(400)}}.dump() + "\n";
  write(dir.path("d.jsonl"), lines);
  const Answer a = ropewalk("--quiet train --data '" + dir.path("d.jsonl") + "' --out '" + dir.path("o") + "'" +
                            kShape + "--steps 1");
  CHECK(a.code == 0);
  CHECK(a.err.find("9 of 10 documents") != std::string::npos);
  CHECK(a.err.find("--packed") != std::string::npos);
  const Answer b = ropewalk("--quiet train --out '" + dir.path("b") + "'" + kShape + "--steps 1");
  CHECK(b.err.find("--data demo") != std::string::npos);
  const Answer c = ropewalk("--quiet train --data demo --out '" + dir.path("c") + "'" + kShape + "--steps 1");
  CHECK(c.err.empty());
  CHECK(rw::read_file(dir.path("b/model.safetensors")) == rw::read_file(dir.path("c/model.safetensors")));
}

TEST_CASE("validation reads whole windows of the target, few if need be, and never loses a model") {
  const test::TempDir dir;
  write(dir.path("t.txt"), text_of(6000));
  std::string lines;
  for (int i = 0; i < 12; ++i) lines += nlohmann::json{{"text", text_of(i % 2 ? 500 : 60)}}.dump() + "\n";
  write(dir.path("v.jsonl"), lines);
  const std::string data = "--quiet train --data '" + dir.path("t.txt") + "' ";
  REQUIRE(ropewalk(data + "--out '" + dir.path("base") + "'" + kShape + "--steps 4 --validation '" +
                   dir.path("v.jsonl") + "' --validation-tokens 2")
              .code == 0);
  CHECK(lines_of(dir.path("base/validation.jsonl")).back().at("tokens") == 15);  // one window with its BOS
  REQUIRE(ropewalk(data + "--from '" + dir.path("base") + "' --out '" + dir.path("o") +
                   "' --method pi --target 256 --steps 2 " + "--batch 2 --validation '" + dir.path("v.jsonl") +
                   "' --validation-tokens 600")
              .code == 0);
  const auto row = lines_of(dir.path("o/validation.jsonl")).back();
  CHECK(row.at("documents") == 2);
  CHECK(row.at("window") == 256);
  CHECK(row.at("tokens") == 510);
  REQUIRE(ropewalk("eval ppl --model '" + dir.path("o") + "' --data '" + dir.path("v.jsonl") +
                   "' --window 256 --stride 256 --max-tokens 255 --min-tokens 255 --documents 2 --json '" +
                   dir.path("e.json") + "'")
              .code == 0);
  const double nll = nlohmann::json::parse(rw::read_file(dir.path("e.json"))).at("totals").at(0).at("nll");
  CHECK(row.at("loss").get<double>() == doctest::Approx(nll).epsilon(1e-6));
}

TEST_CASE("a run's recipe.toml runs it again, to the same weights") {
  const Finished f;
  const Answer again = ropewalk("--quiet train --config '" + f.dir.path("base/recipe.toml") + "' " + f.out("again"));
  CAPTURE(again.err);
  REQUIRE(again.code == 0);
  CHECK(rw::read_file(f.dir.path("again/model.safetensors")) == rw::read_file(f.dir.path("base/model.safetensors")));
  CHECK(rw::read_file(f.dir.path("again/recipe.toml")) == rw::read_file(f.dir.path("base/recipe.toml")));
  const std::string pose =
      "--from '" + f.dir.path("base") + "' --method pose --target 64 --chunks 3 --steps 3 --batch 2 ";
  REQUIRE(ropewalk("--quiet train " + f.data() + f.out("p") + pose).code == 0);
  REQUIRE(ropewalk("--quiet train --config '" + f.dir.path("p/recipe.toml") + "' " + f.out("q")).code == 0);
  CHECK(rw::read_file(f.dir.path("p/model.safetensors")) == rw::read_file(f.dir.path("q/model.safetensors")));
}

TEST_CASE(
    "the same run by the command line and by C++, its method given as a value, has the same weights bit for bit") {
  const Finished f;
  REQUIRE(ropewalk("--device cpu --quiet train " + f.data() + f.out("cli") + "--from '" + f.dir.path("base") +
                   "' --method pose --scaling yarn --chunks 3 --target 64 --steps 5 --batch 2 --lr 2e-3")
              .code == 0);
  rw::set_thread_count(2);
  rw::Recipe recipe;
  recipe.data = {f.dir.path("t.txt")}, recipe.from = f.dir.path("base"), recipe.out = f.dir.path("cpp");
  recipe.steps = 5, recipe.batch = 2, recipe.schedule.lr = 2e-3;
  rw::set_method(recipe, {.sampler = rw::PosePositions{.chunks = 3}, .rope = rw::YarnRope{}}, 64);
  std::vector<double> losses;
  rw::Trainer trainer(recipe, {}, {.on_step = [&](const rw::StepReport& r) { losses.push_back(r.loss); }});
  trainer.run();
  CHECK(rw::read_file(f.dir.path("cpp/model.safetensors")) == rw::read_file(f.dir.path("cli/model.safetensors")));
  CHECK(rw::read_file(f.dir.path("cpp/config.json")) == rw::read_file(f.dir.path("cli/config.json")));
  const auto lines = lines_of(f.dir.path("cli/metrics.jsonl"));
  REQUIRE(lines.size() == losses.size());
  for (size_t i = 0; i < losses.size(); ++i) CHECK(lines[i].at("loss").get<double>() == losses[i]);
  // Nothing is written where no folder is named.
  recipe.out = "";
  rw::Trainer unwritten(recipe, {});
  unwritten.run();
  CHECK(unwritten.model().arena().master().to_vector() == trainer.model().arena().master().to_vector());
}

TEST_CASE("a bf16 base stays bf16, and --save-dtype says otherwise") {
  const Finished f;
  const auto dtype = [&](const std::string& name) {
    return nlohmann::json::parse(rw::read_file(f.dir.path(name + "/config.json"))).at("torch_dtype").get<std::string>();
  };
  REQUIRE(ropewalk(f.train("half", "--save-dtype bf16")).code == 0);
  CHECK(dtype("base") == "float32");
  CHECK(dtype("half") == "bfloat16");
  const std::string extend =
      "--quiet train " + f.data() + "--from '" + f.dir.path("half") + "' --method pi --target 64 --steps 1 --batch 1 ";
  REQUIRE(ropewalk(extend + f.out("a")).code == 0);
  CHECK(dtype("a") == "bfloat16");
  REQUIRE(ropewalk(extend + f.out("b") + "--save-dtype f32").code == 0);
  CHECK(dtype("b") == "float32");
}

TEST_CASE("--content-windows 0 takes text from the whole document") {
  const Finished f;
  const auto losses = [&](const std::string& name, const std::string& windows) {
    REQUIRE(ropewalk("--quiet train " + f.data() + f.out(name) + "--from '" + f.dir.path("base") +
                     "' --method pose --target 64 --steps 3 --batch 2 --content-windows " + windows)
                .code == 0);
    std::vector<double> all;
    for (const auto& line : lines_of(f.dir.path(name + "/metrics.jsonl"))) all.push_back(line.at("loss"));
    return all;
  };
  const auto whole = losses("c0", "0");
  CHECK(whole != losses("c1", "1"));
  CHECK(whole == losses("c9", "100000"));
}

TEST_CASE("settings that change nothing here are said, one line each") {
  const test::TempDir dir;
  int runs = 0;
  const auto said = [&](const std::string& options) {
    return ropewalk("--quiet --device cpu train --data demo --out '" + dir.path(std::to_string(++runs)) + "'" + kShape +
                    "--steps 4 " + options)
        .err;
  };
  CHECK(said("--warmup 4 --warmup-start 0.5").empty());
  CHECK(said("--warmup 5").find("--warmup 5 is longer than the run of 4 steps: the rate ends at 0.0008") !=
        std::string::npos);
  CHECK(said("--warmup-start 0.5").find("--warmup-start has no effect") != std::string::npos);
  CHECK(said("--schedule constant --min-ratio 0.5").find("--min-ratio has no effect") != std::string::npos);
  CHECK(said("--schedule constant").empty());
  CHECK(said("--eager").find("--eager has no effect") != std::string::npos);
  CHECK(said("--fast-atomics").find("--fast-atomics has no effect") != std::string::npos);
  CHECK(said("--validation demo --validate-every 5").find("at the end alone") != std::string::npos);
  CHECK(said("--validation demo --validate-every 4").empty());
}

TEST_CASE("a run within the text that it reads is refused: its own files would be text to the next start") {
  const Finished f;
  fs::create_directories(f.dir.path("text"));
  fs::rename(f.dir.path("t.txt"), f.dir.path("text/t.txt"));
  fs::create_directory_symlink(f.dir.path("text"), f.dir.path("link"));
  write(f.dir.path("other.txt"), text_of(3000));
  write(f.dir.path("r.toml"), "[eval.ppl]\nwindow = [32]\ndata = \"" + f.dir.path("text") + "\"\n");
  const std::string data = " --data '" + f.dir.path("text") + "' ",
                    other = " --data '" + f.dir.path("other.txt") + "' ";
  for (const std::string out : {"text", "text/run", "text/a/b", "link/run", "text/../text/run"}) {
    f.refuses("--quiet train" + data + f.out(out) + kShape + "--steps 1", "is within");
    f.refuses(
        "--quiet train" + other + "--validation '" + f.dir.path("text") + "' " + f.out(out) + kShape + "--steps 1",
        "is within");
    f.refuses("--quiet tokenizer train --vocab 300" + data + f.out(out), "is within");
    f.refuses("--quiet compare '" + f.dir.path("r.toml") + "' " + f.out(out), "is within");
  }
  CHECK(ropewalk("--quiet train" + data + f.out("textile") + kShape + "--steps 1").code == 0);
  CHECK(ropewalk("--quiet train" + other + f.out("base/long") + "--from '" + f.dir.path("base") +
                 "' --method pi --target 64 --batch 2 --steps 1")
            .code == 0);
}

TEST_CASE("a disk without room for the last checkpoint still gets the model, and the command says what is missing") {
  const Finished f;
  // The moments take 66 KB, the weights 33.
  write(f.dir.path("s.sh"), std::string("trap '' XFSZ; ulimit -f 48; OMP_NUM_THREADS=2 '") + ROPEWALK_BINARY_DIR +
                                "/bin/ropewalk' " + f.train("o", "--save-every 0") + " 2>'" + f.dir.path("err") + "'");
  const int status = std::system(("bash '" + f.dir.path("s.sh") + "' >/dev/null").c_str());
  CHECK(WEXITSTATUS(status) == 2);
  const std::string err = rw::read_file(f.dir.path("err"));
  CAPTURE(err);
  CHECK(err.find("its last checkpoint is not") != std::string::npos);
  CHECK(rw::read_file(f.dir.path("o/model.safetensors")) == rw::read_file(f.dir.path("base/model.safetensors")));
  CHECK(ropewalk(f.train("o", "--save-every 0 --resume")).out.find("is finished") != std::string::npos);
}

TEST_CASE("a base that is gone when the run ends is not missed") {
  const Finished f;
  rw::Recipe recipe;
  recipe.data = {f.dir.path("t.txt")}, recipe.from = f.dir.path("base"), recipe.out = f.dir.path("long");
  recipe.method = "pi", recipe.target = 64, recipe.steps = 2, recipe.batch = 2;
  rw::Trainer trainer(recipe, {});
  fs::remove_all(f.dir.path("base"));
  CHECK(trainer.run().steps == 2);
  CHECK(fs::exists(f.dir.path("long/config.json")));
}

TEST_CASE("convert and tokenizer train replace no model and no tokenizer that is there") {
  const Finished f;
  REQUIRE(ropewalk(f.train("other", "--seed 9")).code == 0);
  const std::string convert = "--quiet convert hf '" + f.dir.path("base") + "' ",
                    train = "--quiet tokenizer train --vocab 300 " + f.data();
  f.refuses(convert + f.out("other"), "holds a run");
  f.refuses(convert + f.out("other") + "--overwrite", "holds a run");
  REQUIRE(ropewalk("--quiet convert hf '" + f.dir.path("other") + "' " + f.out("copy")).code == 0);
  f.refuses(convert + f.out("copy"), "holds a model: --overwrite");
  f.refuses(convert + f.out("base"), "is what is converted");
  f.refuses(convert + f.out("base") + "--overwrite", "is what is converted");
  f.refuses(convert + f.out("t.txt"), "there is a file of that name");
  f.refuses("--quiet convert freeze --length 16 --model '" + f.dir.path("base") + "' " + f.out("copy"), "--overwrite");
  f.refuses(train + f.out("base") + "--overwrite", "holds a run");
  f.refuses(train + f.out("copy") + "--overwrite", "needs its own tokenizer");
  REQUIRE(ropewalk(train + f.out("tok")).code == 0);
  f.refuses(train + f.out("tok"), "holds a tokenizer");
  f.refuses(convert + f.out("tok"), "holds a tokenizer");
  const auto before = contents(f.dir.path("tok"));
  REQUIRE(ropewalk(train + f.out("tok") + "--overwrite").code == 0);
  CHECK(contents(f.dir.path("tok")) == before);
  write(f.dir.path("copy/model.safetensors.index.json"), "of shards that are gone");
  write(f.dir.path("copy/notes.txt"), "mine");
  REQUIRE(ropewalk(convert + f.out("copy") + "--overwrite").code == 0);
  CHECK(rw::read_file(f.dir.path("copy/model.safetensors")) == rw::read_file(f.dir.path("base/model.safetensors")));
  CHECK_FALSE(fs::exists(f.dir.path("copy/model.safetensors.index.json")));
  CHECK(fs::exists(f.dir.path("copy/notes.txt")));
}

TEST_CASE("demo names the built-in stories wherever text is read, and never a folder of that name") {
  const test::TempDir dir;
  REQUIRE(ropewalk("--quiet train --data demo --validation demo --out '" + dir.path("m") + "'" + kShape + "--steps 1")
              .code == 0);
  CHECK(lines_of(dir.path("m/validation.jsonl")).back().at("documents") == 6);
  CHECK(ropewalk("--quiet eval ppl --data demo --max-tokens 40 --model '" + dir.path("m") + "'").code == 0);
  CHECK(ropewalk("--quiet tokenizer train --data demo --vocab 300 --out '" + dir.path("tok") + "'").code == 0);
  fs::create_directories(dir.path("here/demo"));
  for (const std::string& verb : {"train --out o" + kShape, std::string("tokenizer train --vocab 300 --out o"),
                                  "eval ppl --model '" + dir.path("m") + "'"}) {
    write(dir.path("s.sh"), "cd '" + dir.path("here") + "'; '" + ROPEWALK_BINARY_DIR + "/bin/ropewalk' --quiet " +
                                verb + " --data demo 2>'" + dir.path("err") + "'");
    const int status = std::system(("bash '" + dir.path("s.sh") + "' >/dev/null").c_str());
    CAPTURE(verb);
    CHECK(WEXITSTATUS(status) == 2);
    CHECK(rw::read_file(dir.path("err")).find("./demo") != std::string::npos);
  }
}

TEST_CASE("the demo trains, extends, evaluates and reports") {
  const test::TempDir dir;
  const Answer a = ropewalk("--quiet demo --steps 6 --out '" + dir.path("demo") + "'");
  INFO(a.err);
  CHECK(a.code == 0);
  CHECK(std::filesystem::exists(dir.path("demo") + "/report.html"));
}

TEST_CASE("results replace only results: logits and benchmarks over a model's files are refused before the work") {
  const Finished f;
  const std::string model = "--model '" + f.dir.path("base") + "' ";
  f.refuses("eval logits " + model + "--tokens 1,2 --out '" + f.dir.path("base/model.safetensors") + "'",
            "is not a file of logits");
  f.refuses("eval logits " + model + "--tokens 1,2 --out '" + f.dir.path("t.txt") + "'", "is not a file of logits");
  f.refuses("bench cpu --only clex --json '" + f.dir.path("base/config.json") + "'", "is not what this verb writes");
  const std::string out = " --out '" + f.dir.path("logits.safetensors") + "'";
  for (const char* ids : {"1,2", "3"}) CHECK(ropewalk("eval logits " + model + "--tokens " + ids + out).code == 0);
}

TEST_CASE("an option without a value, and a switch with a wrong one, are refused by name") {
  const Finished f;
  f.refuses(f.train("x", "--from ''"), "--from");
  f.refuses("--quiet train " + f.data() + kShape + "--steps 1 --out ''", "--out");
  f.refuses(f.train("x", "--validation ''"), "--validation");
  f.refuses(f.train("x", "--csv=maybe"), "expected true or false, got 'maybe'");
  CHECK(ropewalk("generate --tokens 1 --prompt '' --model '" + f.dir.path("base") + "'").code == 0);
}

TEST_CASE("what a position sampler refuses is refused before the run begins") {
  const Finished f;
  f.refuses(f.train("x", "").substr(0, f.train("x", "").find("--hidden")) + "--steps 1 --batch 1 --method pose " +
                "--target 64 --chunks 99 --from '" + f.dir.path("base") + "'",
            "cannot hold 99 chunks");
}

TEST_CASE("somebody else's checkpoint of a name that the run would write is refused at the start") {
  const Finished f;
  fs::create_directories(f.dir.path("x/checkpoint-000004"));
  write(f.dir.path("x/checkpoint-000004/pytorch_model.bin"), "precious");
  f.refuses(f.train("x", ""), "checkpoint-000004' is not of this program");
  fs::rename(f.dir.path("x/checkpoint-000004"), f.dir.path("x/checkpoint-4"));  // another program's way to count
  CHECK(ropewalk(f.train("x", "")).code == 0);
  CHECK(rw::read_file(f.dir.path("x/checkpoint-4/pytorch_model.bin")) == "precious");
}

TEST_CASE("generation_config.json goes with a model that is extended or converted") {
  const Finished f;
  const std::string wishes = R"({"eos_token_id": [1, 7], "temperature": 0.5})";
  write(f.dir.path("base/generation_config.json"), wishes);
  const std::string base = "'" + f.dir.path("base") + "'";
  CHECK(ropewalk("--quiet train " + f.data() + f.out("long") + "--method pi --target 32 --steps 1 --batch 1 --from " +
                 base)
            .code == 0);
  CHECK(ropewalk("convert hf " + base + " " + f.out("copy")).code == 0);
  for (const char* name : {"long", "copy"})
    CHECK(rw::read_file(f.dir.path(std::string(name) + "/generation_config.json")) == wishes);
}

TEST_CASE("a name with control characters cannot steer the terminal that results are printed to") {
  const test::TempDir dir;
  const std::string name = dir.path("red\x1b[31m\nend");
  const Answer a = ropewalk("--quiet train" + kShape + "--steps 1 --out '" + name + "'");
  CHECK(a.code == 0);
  CHECK(a.out.find("red\\x1b[31m\\nend") != std::string::npos);
  CHECK(a.out.find('\x1b') == std::string::npos);
  const Answer logits =
      ropewalk("eval logits --model '" + name + "' --tokens 1 --out '" + name + "/logits.safetensors'");
  CHECK(logits.code == 0);
  CHECK(logits.out.find('\x1b') == std::string::npos);
}
