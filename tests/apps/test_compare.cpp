// `ropewalk compare`: a recipe is run, killed, gone on with, and refused where it is wrong.
#include <filesystem>
#include <nlohmann/json.hpp>

#include "cli.h"

namespace fs = std::filesystem;

namespace {

/// recipes/tiny.toml with `extra` put behind it.
std::string tiny(const test::TempDir& dir, const std::string& extra = "") {
  const std::string path = dir.path("tiny.toml");
  write(path, rw::read_file(std::string(ROPEWALK_SOURCE_DIR) + "/recipes/tiny.toml") + extra);
  return path;
}

Answer compare(const std::string& recipe, const std::string& out, const std::string& more = "") {
  return ropewalk("--quiet compare '" + recipe + "' --out '" + out + "' " + more);
}

void refuses(const std::string& recipe, const std::string& part, const std::string& more = "") {
  const test::TempDir dir;
  write(dir.path("r.toml"), recipe);
  const Answer a = compare(dir.path("r.toml"), dir.path("out"), more);
  CAPTURE(recipe);
  CAPTURE(a.err);
  CHECK(a.code == 2);
  CHECK(a.err.find(part) != std::string::npos);
  CHECK(std::count(a.err.begin(), a.err.end(), '\n') == 1);
  CHECK_FALSE(fs::exists(dir.path("out/base")));
}

nlohmann::json totals(const std::string& file) { return nlohmann::json::parse(rw::read_file(file))["totals"]; }

const std::string kEval = "[eval.ppl]\nwindow = [32]\n";

}  // namespace

TEST_CASE("compare, killed and called again, ends with what an undisturbed run gives, and then does nothing") {
  const test::TempDir dir;
  const std::string recipe = tiny(dir), out = dir.path("out"), killed = dir.path("killed");
  REQUIRE(compare(recipe, out).code == 0);
  // --foreground: timeout does not kill itself, too, and so waits until the program is gone and its locks with it.
  // Kills at growing delays fall into the tokenizer, the base between its checkpoints, arms and evaluations.
  for (const char* delay : {"0.3", "0.9", "1.3", "1.7", "2.1"}) {
    const std::string command = "timeout --foreground -s KILL " + std::string(delay) + " env OMP_NUM_THREADS=2 '" +
                                ROPEWALK_BINARY_DIR + "/bin/ropewalk' --quiet compare '" + recipe + "' --out '" +
                                killed + "' >/dev/null 2>&1";
    static_cast<void>(!std::system(command.c_str()));
  }
  const Answer end = compare(recipe, killed);
  CAPTURE(end.err);
  REQUIRE(end.code == 0);
  for (const std::string arm : {"base", "zero-yarn", "pi", "pose-seed1", "pose-seed2", "clex"}) {
    CAPTURE(arm);
    for (const std::string eval : {"ppl", "passkey", "bins"})
      CHECK(totals(out + "/" + arm + "/eval-" + eval + ".json") ==
            totals(killed + "/" + arm + "/eval-" + eval + ".json"));
  }
  for (const std::string file : {"table.md", "table.csv", "table.jsonl", "report.html", "report.csv", "report.jsonl"})
    CHECK(fs::exists(killed + "/" + file));
  const std::string table = rw::read_file(out + "/table.md");
  CHECK(table.find("| pose |") != std::string::npos);  // one row for both seeds
  CHECK(table.find("±") != std::string::npos);
  CHECK(table.find("ppl @256") != std::string::npos);

  const auto written = fs::last_write_time(out + "/clex/model.safetensors");
  const Answer again = compare(recipe, out);
  CHECK(again.code == 0);
  CHECK(again.out.find("[") == std::string::npos);  // no stage was run
  CHECK(fs::last_write_time(out + "/clex/model.safetensors") == written);
  CHECK(compare(recipe, out, "--list").out.find("trained") == std::string::npos);

  // --tables leaves out an arm that is not done, and does nothing for it.
  fs::remove(out + "/pi/eval-bins.json");
  CHECK(compare(recipe, out, "--tables").code == 0);
  CHECK(!fs::exists(out + "/pi/eval-bins.json"));
  CHECK(rw::read_file(out + "/table.md").find("| pi |") == std::string::npos);
  CHECK(compare(recipe, dir.path("none"), "--tables").code == 2);
  CHECK(!fs::exists(dir.path("none")));

  // An evaluation gives the same whether others ran before it or not.
  const nlohmann::json passkey = totals(out + "/pi/eval-passkey.json");
  fs::remove(out + "/pi/eval-passkey.json");
  CHECK(compare(recipe, out).code == 0);
  CHECK(totals(out + "/pi/eval-passkey.json") == passkey);
  CHECK(rw::read_file(out + "/table.md").find("| pi |") != std::string::npos);

  // A new evaluation is added to what is there; a changed arm is not mistaken for the old one.
  CHECK(compare(tiny(dir, "[eval.lastk]\nwindow = [64, 128]\nlast = 32\n"), out).code == 0);
  CHECK(fs::exists(out + "/pi/eval-lastk.json"));
  CHECK(fs::last_write_time(out + "/clex/model.safetensors") == written);
  std::string other = rw::read_file(tiny(dir));
  other.insert(other.find("[arms.pi]\n") + 10, "lr = 2e-3\n");
  write(dir.path("tiny.toml"), other);
  const Answer changed = compare(dir.path("tiny.toml"), out);
  INFO(changed.err);
  CHECK(changed.code == 2);
  CHECK(changed.err.find("lr was 1e-3, now 2e-3") != std::string::npos);
}

TEST_CASE("compare, started twice with one folder, divides the arms between the two processes") {
  const test::TempDir dir;
  const std::string recipe = tiny(dir), out = dir.path("out"), log = dir.path("log-");
  std::string command;
  for (const char* number : {"1", "2"}) {
    command += "env OMP_NUM_THREADS=1 '" + std::string(ROPEWALK_BINARY_DIR) + "/bin/ropewalk' --quiet compare '" +
               recipe + "' --out '" + out + "' >" + log + number + " 2>&1 & ";
  }
  REQUIRE(std::system((command + "wait").c_str()) == 0);
  const std::string said = rw::read_file(log + "1") + rw::read_file(log + "2");
  CAPTURE(said);
  const auto times = [&](const std::string& what) {
    int count = 0;
    for (size_t at = said.find(what); at != std::string::npos; at = said.find(what, at + 1)) ++count;
    return count;
  };
  CHECK(times("another process is at it") >= 1);
  for (const std::string arm : {"base ", "pi ", "pose-seed1 ", "pose-seed2 ", "clex "}) {
    CAPTURE(arm);
    CHECK(fs::exists(out + "/" + arm.substr(0, arm.size() - 1) + "/eval-bins.json"));
  }
  CHECK(times(" steps  loss ") == 5);  // each trained once
  const Answer again = compare(recipe, out);
  CHECK(again.code == 0);
  CHECK(again.out.find("] ") == std::string::npos);  // nothing was left
  CHECK(rw::read_file(out + "/table.md").find("| clex |") != std::string::npos);
}

TEST_CASE("compare takes another comparison's base, only some arms, and drops weights if asked") {
  const test::TempDir dir;
  const std::string recipe = tiny(dir), out = dir.path("out");
  REQUIRE(compare(recipe, out, "--only zero-yarn").code == 0);
  CHECK_FALSE(fs::exists(out + "/pi"));
  write(dir.path("more.toml"), "include = \"tiny.toml\"\n[arms.extra]\nmethod = \"pose\"\ntarget = [128, 256]\n");
  const Answer a = compare(dir.path("more.toml"), dir.path("more"),
                           "--base '" + out + "' --only 'extra*' --max-seeds 1 --drop-weights");
  CAPTURE(a.err);
  REQUIRE(a.code == 2);  // [base] says vocab, which a given base has already
  write(dir.path("given.toml"), kEval +
                                    "[base]\nmodel = \"x\"\n[arm]\nsteps = 2\nbatch = 2\n[arms.extra]\nmethod = "
                                    "\"pose\"\ntarget = [128, 256]\n");
  const Answer b = compare(dir.path("given.toml"), dir.path("more"), "--base '" + out + "' --drop-weights");
  CAPTURE(b.err);
  REQUIRE(b.code == 0);
  CHECK(fs::exists(dir.path("more/extra-128/eval-ppl.json")));
  CHECK(fs::exists(dir.path("more/extra-256/config.json")));
  CHECK_FALSE(fs::exists(dir.path("more/extra-256/model.safetensors")));
  CHECK_FALSE(fs::exists(dir.path("more/text")));
  CHECK(compare(dir.path("given.toml"), dir.path("more"), "--base '" + out + "'").code == 0);
}

TEST_CASE(
    "compare tables and reports arms of every method and RoPE kind, also those that turn only some pairs or none") {
  const test::TempDir dir;
  write(dir.path("base.toml"), kEval +
                                   "[base]\nvocab = 300\nhidden = 32\nheads = 2\nlayers = 1\nwindow = 32\nsteps = "
                                   "3\nbatch = 2\n[arm]\nsteps = 2\nbatch = 2\ntarget = 64\n[arms.zero]\nsteps = "
                                   "0\nscaling = [\"linear\", \"ntk\", \"yarn\", \"llama3\", \"resonance\", "
                                   "\"proportional\", \"nope\"]\n[arms.full]\nmethod = [\"pi\", \"pose\", \"randpos\", "
                                   "\"drope\"]\n[arms.far]\nmethod = [\"e2\", \"clex\"]\ntarget = 0\nmax-factor = 2\n");
  const Answer a = compare(dir.path("base.toml"), dir.path("out"));
  CAPTURE(a.err);
  REQUIRE(a.code == 0);
  const std::string table = rw::read_file(dir.path("out/table.md")), page = rw::read_file(dir.path("out/report.html"));
  for (const char* arm : {"zero-proportional", "zero-nope", "full-drope", "far-clex"}) {
    CAPTURE(arm);
    CHECK(table.find(rw::cat("| ", arm, " |")) != std::string::npos);
    CHECK(page.find(arm) != std::string::npos);
  }
}

TEST_CASE("Recipes that make no sense are refused in one line before anything is trained") {
  refuses("[base]\nsteps = 2\n", "no [eval.NAME] section");
  refuses(kEval + "[bass]\nsteps = 2\n", "[bass]");
  refuses(kEval + "[base]\nstepz = 2\n", "'stepz'");
  refuses(kEval + "[base]\nsteps = [1, 2]\n", "takes one value");
  refuses(kEval + "[base]\nsteps = many\n", "many");
  refuses(kEval + "[base]\nout = \"x\"\n", "'out' is the comparison's to set");
  refuses(kEval + "[base]\nwindow = 48\ntokens-per-step = 100\n", "no multiple");
  refuses(kEval + "[mix]\nshares = 1\n", "'shares'");
  refuses("[eval.singing]\nwindow = [32]\n", "singing");
  refuses("[eval.ppl]\nwindow = [0]\n", "eval.ppl");
  refuses(kEval + "[arms.a]\nmethod = \"pose\"\n", "--target");
  refuses(kEval + "[arms.a]\nmethod = \"teleport\"\ntarget = 1024\n", "teleport");
  refuses(kEval + "[arms.a]\nmethod = \"pi\"\nscaling = \"yarn\"\ntarget = 1024\n", "linear");
  refuses(kEval + "[arms.a]\nsteps = 0\n", "needs a scaling");
  refuses(kEval + "[arms.base]\nmethod = \"pi\"\ntarget = 1024\n", "cannot be an arm's name");
  for (const std::string name : {"..", ".", ".hidden", "../x", "a/b", "/tmp/x", "a b", "tokenizer", "text", "table.md",
                                 "table.csv", "report.html", "report.jsonl"})
    refuses(kEval + "[arms.\"" + name + "\"]\nmethod = \"pi\"\ntarget = 1024\n", "cannot be an arm's name");
  const std::string grid =
      kEval + "[arms.a]\nmethod = \"pi\"\ntarget = [1024, 2048]\nlr = [1e-3, 2e-3]\nseeds = [1, 2]\n";
  refuses(grid, "more than 7 arms: --max-arms allows more", "--max-arms 7");
  refuses(grid, "more than 3 arms", "--max-arms 3 --max-seeds 1");
  refuses(kEval + "[arms.a]\nmethod = \"pi\"\ntarget = []\n", "empty list");
  refuses(kEval, "--max-arms must be", "--max-arms 0");
  refuses(kEval + "lr = 1\n", "'lr'");
  refuses("lr = 1\n" + kEval, "outside a section");
  refuses("include = \"none.toml\"\n" + kEval, "none.toml");
  refuses(kEval, "--list shows them", "--only nothing");
  refuses(kEval + "[base]\nmodel = \"nowhere\"\n", "nowhere");
  CHECK(compare("no-such-recipe.toml", "out").code == 2);
}

TEST_CASE("compare does not work in the folder of a model, of a run, or of somebody's tables") {
  const test::TempDir dir;
  const std::string recipe = tiny(dir);
  for (const char* name : {"config.json", "run.json", "metrics.jsonl", "table.csv"}) {
    const std::string out = dir.path(std::string("of-") + name);
    fs::create_directory(out);
    write(out + "/" + name, "mine");
    const Answer a = compare(recipe, out);
    CAPTURE(a.err);
    CHECK(a.code == 2);
    CHECK(a.err.find(name) != std::string::npos);
    CHECK(rw::read_file(out + "/" + name) == "mine");
    CHECK(std::distance(fs::directory_iterator(out), {}) == 1);
  }
}
