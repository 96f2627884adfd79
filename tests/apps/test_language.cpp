// The command line as one language: the same words in every verb, errors in words, what
// shells complete, and output that is lost.
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "cli.h"

namespace fs = std::filesystem;

namespace {

/// One line of error and code 2.
std::string error_of(const std::string& arguments) {
  const Answer a = ropewalk("--quiet " + arguments);
  CAPTURE(arguments);
  CAPTURE(a.err);
  CHECK(a.code == 2);
  CHECK(std::count(a.err.begin(), a.err.end(), '\n') == 1);
  return a.err;
}

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

/// A model of one block over bytes, trained at 16 tokens.
void make_model(const test::TempDir& dir, const std::string& name = "m") {
  write(dir.path("t.txt"), text_of(3000));
  REQUIRE(ropewalk("--quiet train --data '" + dir.path("t.txt") + "' --out '" + dir.path(name) +
                   "' --hidden 16 --layers 1 --heads 2 --batch 2 --window 16 --steps 2")
              .code == 0);
}

}  // namespace

TEST_CASE("An unknown verb or option is answered with the nearest name") {
  CHECK(has(error_of("trian"), "unknown subcommand 'trian' of ropewalk; did you mean train?"));
  CHECK(has(error_of("eval pll"), "did you mean ppl?"));
  CHECK(has(error_of("generate --model x --promt y"), "unknown option '--promt' of generate; did you mean --prompt?"));
  CHECK(has(error_of("eval ppl --model x --data y --widnow=5"), "did you mean --window?"));
  CHECK_FALSE(has(error_of("generate --model x --zzzzzzzz"), "did you mean"));
  CHECK(has(error_of("eval"), "eval needs a subcommand: ppl, "));
}

TEST_CASE("Words of other programs are answered with ours, and a missing option with what it is") {
  CHECK(has(error_of("train --out x --epochs 3"), "unknown option '--epochs' of train; did you mean --steps?"));
  CHECK(has(error_of("generate --model x --max-new-tokens 3"), "did you mean --tokens?"));
  CHECK(has(error_of("extend --from x"), "unknown subcommand 'extend' of ropewalk; did you mean train --from?"));
  CHECK(has(error_of("eval --model x"), "option '--model' before a subcommand: eval is followed by ppl, "));
  CHECK(has(error_of("train"), "--out is required: "));
}

TEST_CASE("Going on from a run with its own seed says that the same samples come again") {
  const test::TempDir dir;
  make_model(dir);
  const auto next = [&](const std::string& more) {
    return ropewalk("train --data '" + dir.path("t.txt") + "' --from '" + dir.path("m") + "' --out '" + dir.path("n") +
                    "' --overwrite --batch 2 --window 16 --steps 1" + more)
        .err;
  };
  CHECK(has(next(""), "the same samples come again; another --seed draws others"));
  CHECK_FALSE(has(next(" --seed 2"), "the same samples"));
}

TEST_CASE("A window beyond the model's is said before it is evaluated") {
  const test::TempDir dir;
  make_model(dir);
  const std::string eval =
      "eval ppl --model '" + dir.path("m") + "' --data '" + dir.path("t.txt") + "' --max-tokens 64 --window ";
  CHECK(has(ropewalk(eval + "32").err, "; the model's window is 16"));
  CHECK_FALSE(has(ropewalk(eval + "16").err, "the model's window"));
}

TEST_CASE("Ranges and types are said in words, with an upper bound for threads") {
  CHECK(has(error_of("--threads 100000 eval ppl --model x --data y"), "--threads must be from 0 to 1024, got 100000"));
  CHECK(has(error_of("--threads -1 eval ppl --model x --data y"), "--threads must be from 0 to 1024, got -1"));
  CHECK(has(error_of("eval ppl --model x --data y --window 0"), "--window must be at least 1, got 0"));
  CHECK(has(error_of("eval ppl --model x --data y --window five"), "--window expects a whole number, got 'five'"));
  CHECK(
      has(error_of("eval ppl --model x --data y --weighting none"), "--weighting must be token or window, got 'none'"));
  CHECK(has(error_of("demo --steps 0"), "--steps must be above 0, got 0"));
  CHECK(has(error_of("generate --model x --tokens many"), "--tokens expects a whole number, got 'many'"));
  CHECK(has(error_of("train --out x --batch 2 --batch 4"), "--batch takes one value, got 2"));
}

TEST_CASE("A key of a --config file that no option has is named, with the nearest one") {
  const test::TempDir dir;
  const auto refusal = [&](const std::string& text) {
    write(dir.path("c.toml"), text);
    return error_of("train --out '" + dir.path("o") + "' --config '" + dir.path("c.toml") + "'");
  };
  CHECK(has(refusal("[train]\nsteps = 3\nwidow = 4\n"), "unknown key 'widow' in [train]; did you mean window?"));
  CHECK(has(refusal("[train]\nzzzzzzzzzz = 4\n"), "unknown key 'zzzzzzzzzz' in [train]"));
  CHECK(has(refusal("[train]\nsteps = 3\n[arms.x]\nsteps = 4\n"), "section [arms"));
  CHECK(has(refusal("stepz = 3\n"), "unknown key 'stepz' outside of a section"));
}

TEST_CASE("A --config file that was cut off, is empty or is no TOML is refused with its line") {
  const test::TempDir dir;
  const auto refusal = [&](const std::string& text) {
    write(dir.path("c.toml"), text);
    const std::string line = error_of("train --out '" + dir.path("o") + "' --config '" + dir.path("c.toml") + "'");
    CHECK_FALSE(std::filesystem::exists(dir.path("o")));
    return line;
  };
  CHECK(has(refusal("[train]\ndata = [\"text.txt\""), "line 2: expected ',' or ']' in an array"));
  CHECK(has(refusal("[train]\nsteps = 3\nd"), "line 3: expected key = value"));
  CHECK(has(refusal("[train]\nsteps ="), "line 2: expected a value"));
  CHECK(has(refusal("[train]\n= 3\n"), "line 2: expected a name"));
  CHECK(has(refusal("[train]\nsteps = 3 4\n"), "line 2: unexpected text after the value"));
  CHECK(has(refusal("[train]\nmethod = \"pi\n"), "line 2: a string that does not end"));
  CHECK(has(refusal("[train]\nsteps = 3\nsteps = 4\n"), "line 3: the key stands twice"));
  CHECK(has(refusal("[train\nsteps = 3\n"), "line 1: expected ']'"));
  CHECK(has(refusal("[train]\nsteps = 3\n[trian]\n"), "section [trian] is no verb"));
  CHECK(has(refusal("\xFF\xFEsteps"), "UTF-16 text: save it as UTF-8"));
  CHECK(has(refusal("\xEF\xBB\xBF[train]\nwidow = 3\n"), "unknown key 'widow' in [train]"));
  for (const char* nothing : {"", "# steps = 3\n", "[train]\n"}) CHECK(has(refusal(nothing), "states nothing"));
}

TEST_CASE("Help lists common options first and names no types") {
  for (const std::string verb : {"eval ppl", "eval passkey", "generate", "report", "train"}) {
    const std::string help = ropewalk(verb + " --help").out;
    CAPTURE(help);
    for (const char* noise : {"TEXT", "INT", "UINT", "FLOAT", "REQUIRED", "NONNEGATIVE", "Excludes"})
      CHECK_FALSE(has(help, noise));
  }
  const std::string help = ropewalk("eval ppl --help").out;
  CHECK(help.find("Common options:") < help.find("More options:"));
  CHECK(help.find("--model") < help.find("--weighting"));
}

TEST_CASE("The same option means the same in every verb: --model and --from, --rope and --scaling") {
  const test::TempDir dir;
  make_model(dir);
  const std::string model = "'" + dir.path("m") + "'", data = " --data '" + dir.path("t.txt") + "' --documents 1";
  const std::string a = ropewalk("--quiet eval ppl --model " + model + data).out,
                    b = ropewalk("--quiet eval ppl --from " + model + data).out;
  CHECK_FALSE(a.empty());
  CHECK(a == b);
  const std::string rope = "'{\"rope_type\":\"linear\",\"factor\":2}'";
  CHECK(ropewalk("--quiet eval ppl --model " + model + data + " --rope " + rope).out ==
        ropewalk("--quiet eval ppl --model " + model + data + " --scaling " + rope).out);
  CHECK(ropewalk("--quiet generate --from " + model + " --prompt x --tokens 2").code == 0);
  CHECK(ropewalk("--quiet train" + data.substr(0, data.find(" --documents")) + " --model " + model + " --out '" +
                 dir.path("long") + "' --method full --rope linear --target 32 --batch 2 --steps 1")
            .code == 0);
}

TEST_CASE("Generating beyond the model's window is said in one line") {
  const test::TempDir dir;
  make_model(dir);
  const Answer far = ropewalk("generate --model '" + dir.path("m") + "' --prompt x --tokens 40"),
               near = ropewalk("generate --model '" + dir.path("m") + "' --prompt x --tokens 4");
  CHECK(has(far.err, "the model's window is 16"));
  CHECK_FALSE(has(near.err, "window"));
}

TEST_CASE("An evaluation says what it will read, and its file what was measured") {
  const test::TempDir dir;
  make_model(dir);
  const Answer a = ropewalk("eval ppl --model '" + dir.path("m") + "' --data '" + dir.path("t.txt") + "' --json '" +
                            dir.path("e.json") + "'");
  REQUIRE(a.code == 0);
  CHECK(has(a.err, "1 document under windows of 16, stride 1/2 of a window"));
  const auto protocol = nlohmann::json::parse(rw::read_file(dir.path("e.json")))["protocol"];
  for (const char* key : {"weights", "text", "device", "version", "date", "interval", "seed", "model_window"})
    CHECK_MESSAGE(protocol.contains(key), key);
  // New weights in the folder: the report says that the evaluation is of others, and does not show it.
  fs::copy_file(dir.path("e.json"), dir.path("m/eval-ppl.json"));
  REQUIRE(ropewalk("report '" + dir.path("m") + "' --out '" + dir.path("r.html") + "'").code == 0);
  CHECK(has(rw::read_file(dir.path("r.html")), "Perplexity by window"));
  make_model(dir, "other");
  fs::copy_file(dir.path("m/eval-ppl.json"), dir.path("other/eval-ppl.json"));
  std::string bytes = rw::read_file(dir.path("other/model.safetensors"));
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  write(dir.path("other/model.safetensors"), bytes);
  const Answer stale = ropewalk("report '" + dir.path("other") + "' --out '" + dir.path("s.html") + "'");
  CHECK(stale.code == 0);
  CHECK(has(stale.err, "other weights"));
  CHECK_FALSE(has(rw::read_file(dir.path("s.html")), "Perplexity by window"));
}

TEST_CASE("A list after an option's name means what the repeated option means, and leaves a required file alone") {
  const test::TempDir dir;
  make_model(dir);
  write(dir.path("u.txt"), text_of(2000));
  const std::string eval = "--quiet eval ppl --model '" + dir.path("m") + "' --max-tokens 200 --window ",
                    t = " '" + dir.path("t.txt") + "'", u = " '" + dir.path("u.txt") + "'";
  const Answer list = ropewalk(eval + "16 32 --data" + t + u),
               repeated = ropewalk(eval + "16,32 --data" + t + " --data" + u);
  CHECK(list.code == 0);
  CHECK(list.err == "");
  CHECK(list.out == repeated.out);
  write(dir.path("c.jsonl"), "{\"context\":\"Line 0 of\",\"choices\":[\" the\",\" a\"],\"answer\":0}\n");
  for (const std::string& order : {"choice '" + dir.path("c.jsonl") + "' --model '" + dir.path("m") + "'",
                                   "choice --model '" + dir.path("m") + "' '" + dir.path("c.jsonl") + "'"})
    CHECK(ropewalk("--quiet eval " + order).code == 0);
}

TEST_CASE("Examples of the first help are named as examples") {
  const std::string help = ropewalk("--help").out;
  CHECK(has(help,
            "Examples with typical values; 'ropewalk VERB --help' shows the options of a verb and their defaults:"));
  CHECK(help.find("Examples") < help.find("--steps 2000"));
}

TEST_CASE("A window beyond every document is said in the line that says what is read") {
  const test::TempDir dir;
  make_model(dir);
  const std::string eval =
      "eval ppl --model '" + dir.path("m") + "' --data '" + dir.path("t.txt") + "' --max-tokens 99 ";
  CHECK(has(ropewalk(eval + "--window 16,101").err, "a window of 101 is longer than every document"));
  CHECK_FALSE(has(ropewalk(eval + "--window 16,100").err, "longer than every document"));
}

TEST_CASE("Evaluations replace nothing but evaluations, and keep the mode of the file") {
  const test::TempDir dir;
  make_model(dir);
  const std::string eval = "eval ppl --model '" + dir.path("m") + "' --data '" + dir.path("t.txt") + "' --json '";
  write(dir.path("mine.json"), "{\"mine\": 1}");
  CHECK(has(error_of(eval + dir.path("mine.json") + "'"), "is not an evaluation"));
  CHECK(rw::read_file(dir.path("mine.json")) == "{\"mine\": 1}");
  fs::create_symlink("mine.json", dir.path("link.json"));
  error_of(eval + dir.path("link.json") + "'");
  CHECK(fs::is_symlink(dir.path("link.json")));
  REQUIRE(ropewalk("--quiet " + eval + dir.path("e.json") + "'").code == 0);
  CHECK(ropewalk("--quiet " + eval + dir.path("e.json") + "'").code == 0);
}

TEST_CASE("Paths that are too long, loops of links and control characters end in one clean line") {
  const std::string longest(300, 'x');
  CHECK(has(error_of("generate --model " + longest + " --prompt x"), "[file]"));
  error_of("report " + longest);
  const test::TempDir dir;
  fs::create_symlink("loop", dir.path("loop"));
  error_of("report '" + dir.path("loop") + "'");
  const std::string message = error_of("report 'no\033[31m\afolder\xff'");
  CHECK(has(message, "no\\x1b[31m\\x07folder\\xff"));
}

TEST_CASE("Output that cannot be written is an error, not a success") {
  if (!fs::exists("/dev/full")) {
    MESSAGE("skipped: no /dev/full");
    return;
  }
  const std::string program = std::string("'") + ROPEWALK_BINARY_DIR + "/bin/ropewalk' completion bash >/dev/full 2>&1";
  const int status = std::system(program.c_str());
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) != 0);
}

TEST_CASE("Completions and the manual page know every verb and its options") {
  const std::string bash = ropewalk("completion bash").out, zsh = ropewalk("completion zsh").out,
                    man = ropewalk("man").out;
  for (const std::string* text : {&bash, &zsh}) {
    CHECK(has(*text, "'eval ppl') candidates='"));
    CHECK(has(*text, "--weighting"));
  }
  CHECK(has(man, ".SH ROPEWALK eval ppl"));
  CHECK(has(man, ".B \\-\\-weighting"));
  const test::TempDir dir;
  write(dir.path("c.bash"), bash);
  CHECK(std::system(("bash -n '" + dir.path("c.bash") + "'").c_str()) == 0);
  const std::string script = "source '" + dir.path("c.bash") +
                             "'; COMP_WORDS=(ropewalk eval ppl --weighti); COMP_CWORD=3; _ropewalk; "
                             "[ \"${COMPREPLY[*]}\" = --weighting ]";
  write(dir.path("run.bash"), script);
  CHECK(std::system(("bash '" + dir.path("run.bash") + "'").c_str()) == 0);
}
