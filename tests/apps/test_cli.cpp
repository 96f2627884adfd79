// The program as a user meets it: what it answers to bad input, and the main verbs on small data.
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <sstream>

#include "cli.h"

namespace fs = std::filesystem;

namespace {

/// Bad input: exit code 2, exactly one line that holds `part`.
void refuses(const std::string& arguments, const std::string& part) {
  const Answer a = ropewalk("--quiet " + arguments);
  CAPTURE(arguments);
  CAPTURE(a.err);
  CHECK(a.code == 2);
  CHECK(a.err.find(part) != std::string::npos);
  CHECK(std::count(a.err.begin(), a.err.end(), '\n') == 1);
}

const std::string kTiny = " --hidden 16 --layers 1 --heads 2 --batch 2 --window 16 --steps 4 ";

}  // namespace

TEST_CASE("every verb has help that names its options") {
  for (const std::string verb :
       {"train", "eval ppl", "generate", "tokenizer train", "convert llama2c", "convert hf", "convert gguf",
        "bench cpu", "bench ops", "bench window", "profile", "demo", "report", "theory pictures", "compare"}) {
    CAPTURE(verb);
    const Answer a = ropewalk(verb + " --help");
    CHECK(a.code == 0);
    CHECK(a.out.find("--") != std::string::npos);
  }
  CHECK(ropewalk("--help").out.find("demo") != std::string::npos);
  CHECK(ropewalk("--version").out.find("ropewalk") != std::string::npos);
}

TEST_CASE("unknown options, verbs and missing arguments are one line and code 2") {
  refuses("train --out x --no-such-option", "no-such-option");
  refuses("sing", "subcommand");
  refuses("train", "--out");
  refuses("generate", "--model");
  refuses("--device gpu9 generate --model x", "gpu9");
  refuses("train --out x --steps many", "many");
  refuses("--device cpu bench ops", "GPU");
  refuses("profile --model-shape Q", "'Q'");
  refuses("--device cpu train --out x --small-state --dtype f32", "bf16");
  refuses("--device cpu train --out x --small-state --dtype bf16 --method clex", "clex");
  refuses("--device cpu train --out x --window 16 --batch 1000000000", "--accumulate");
  refuses("--device cpu train --out x --offload activations", "add --recompute");
  refuses("--device cpu train --out x --offload disk", "disk");
  refuses("--device cpu train --out x --keep-attention", "add --recompute");
  refuses("--device cpu train --out x --keep-attention --memory 1G", "leave both to --memory");
  refuses("--device cpu train --out x --recompute-inputs --lora-rank 2 --from y", "no effect with --lora-rank");
  refuses("--device cpu train --out x --recompute-inputs --matmul fp8 --dtype bf16", "--fp8-recompute");
  refuses("--device cpu bench window --model-shape S-small --windows 64 --only full --keep-attention", "--recompute");
  refuses("--device cpu train --out x --moments int4", "int4");
  refuses("--device cpu bench window --model-shape S-small --targets 64", "64");
}

TEST_CASE("bench window says which rows do not fit, and goes on with the others") {
  const test::TempDir dir;
  const Answer a = ropewalk("--device cpu bench window --model-shape S-small --windows 512 --only full,recompute " +
                            std::string("--seconds 0 --memory-gib 0.33 --json '") + dir.path("rows") + "'");
  CAPTURE(a.err);
  REQUIRE(a.code == 0);
  CHECK(a.out.find("out of memory") != std::string::npos);
  std::istringstream lines(rw::read_file(dir.path("rows")));
  std::vector<nlohmann::json> rows;
  for (std::string line; std::getline(lines, line);) rows.push_back(nlohmann::json::parse(line));
  REQUIRE(rows.size() == 2);
  CHECK(rows[0]["name"] == "full-512-b1");
  CHECK(rows[0]["seconds"].is_null());
  CHECK(rows[1]["recompute"] == true);
  CHECK(rows[1]["seconds"] > 0);
  CHECK(rows[1]["peak_bytes"] < 0.33 * (1 << 30));
  CHECK(rows[1]["tokens_per_second"].get<double>() == doctest::Approx(512 / rows[1]["seconds"].get<double>()));
}

TEST_CASE("bench window measures PoSE and E2-LLM with samples of the shape's window, whatever the target") {
  const test::TempDir dir;
  const Answer a =
      ropewalk("--device cpu bench window --model-shape S-small --targets 512,2048 --batches 1 --only pose,e2 " +
               std::string("--seconds 0 --json '") + dir.path("rows") + "'");
  CAPTURE(a.err);
  REQUIRE(a.code == 0);
  std::istringstream lines(rw::read_file(dir.path("rows")));
  std::string names;
  for (std::string line; std::getline(lines, line);) {
    const auto row = nlohmann::json::parse(line);
    names += row["name"].get<std::string>() + " ";
    CHECK(row["window"] == 256);
    CHECK(row["seconds"] > 0);
  }
  CHECK(names == "pose-512-b1 pose-2048-b1 e2-512-b1 e2-2048-b1 ");
}

TEST_CASE("the layout of memory is part of a run: a plain run does not go on from one with a small state") {
  const test::TempDir dir;
  const std::string options =
      "--device cpu --quiet train --data demo --dtype bf16 --hidden 16 --layers 1 --heads 2 --batch 2 "
      "--window 16 --steps 4 --save-every 2 --out '" +
      dir.path("run") + "'";
  REQUIRE(ropewalk(options + " --small-state").code == 0);
  std::filesystem::remove_all(dir.path("run/checkpoint-000004"));
  std::filesystem::remove(dir.path("run/model.safetensors"));
  const Answer plain = ropewalk(options + " --resume");
  CHECK(plain.code == 2);
  CHECK(plain.err.find("small_state was true, now false") != std::string::npos);
  CHECK(ropewalk(options + " --lean --resume").code == 0);
  CHECK(std::filesystem::exists(dir.path("run/checkpoint-000004")));
}

TEST_CASE(
    "a run with its optimizer and inputs on the host leaves the bytes of one without, and moments are part of a run") {
  const test::TempDir dir;
  const std::string options =
      "--device cpu train --data demo --hidden 16 --layers 2 --heads 2 --batch 2 --window 16 --steps 4 --save-every 2 ";
  const auto in = [&](const std::string& name) { return " --out '" + dir.path(name) + "'"; };
  REQUIRE(ropewalk(options + in("plain")).code == 0);
  const Answer host = ropewalk(options + in("host") + " --recompute --offload all");
  REQUIRE(host.code == 0);
  CHECK(host.err.find("saves nothing on the CPU") != std::string::npos);
  REQUIRE(ropewalk(options + in("kept") + " --recompute --keep-attention").code == 0);
  REQUIRE(ropewalk(options + in("inputs") + " --recompute-inputs").code == 0);
  for (const char* file : {"/model.safetensors", "/checkpoint-000004/optimizer.safetensors"}) {
    for (const char* run : {"host", "kept", "inputs"})
      CHECK(rw::read_file(dir.path("plain") + file) == rw::read_file(dir.path(run) + file));
  }
  for (const char* file : {"host/checkpoint-000004", "host/model.safetensors"})
    std::filesystem::remove_all(dir.path(file));
  CHECK(ropewalk(options + in("host") + " --resume --recompute --offload all").code == 0);
  CHECK(rw::read_file(dir.path("plain/model.safetensors")) == rw::read_file(dir.path("host/model.safetensors")));
  REQUIRE(ropewalk(options + in("few") + " --moments int8").code == 0);
  std::filesystem::remove(dir.path("few/model.safetensors"));
  const Answer other = ropewalk(options + in("few") + " --resume");
  CHECK(other.code == 2);
  CHECK(other.err.find("moments was int8") != std::string::npos);
}

TEST_CASE("profile times a step and leaves a table, records and a page") {
  const test::TempDir dir;
  const std::string out = dir.path("p");
  const Answer a = ropewalk(
      "--device cpu profile --hidden 16 --layers 2 --heads 2 --ffn 32 --vocab 50 --window 8 --warmup 0 --steps 1 --out "
      "'" +
      out + "'");
  CAPTURE(a.err);
  REQUIRE(a.code == 0);
  for (const char* part : {"forward", "backward", "optimizer", "attention_packed", "memory at its peak"}) {
    CAPTURE(part);
    CHECK(a.out.find(part) != std::string::npos);
  }
  CHECK(rw::read_file(out + "/kernels.csv").find("backward,linear,8,") != std::string::npos);
  CHECK(rw::read_file(out + "/records.csv").find("op,forward,block 1,swiglu_packed,") != std::string::npos);
  CHECK(rw::read_file(out + "/timeline.html").find("</html>") != std::string::npos);
}

TEST_CASE("missing, empty and too short corpora are refused by name") {
  const test::TempDir dir;
  write(dir.path("empty.txt"), "");
  write(dir.path("short.txt"), "too short");
  fs::create_directory(dir.path("folder"));
  const std::string out = " --out '" + dir.path("o") + "'" + kTiny;
  refuses("train --data '" + dir.path("none.txt") + "'" + out, "none.txt");
  refuses("train --data '" + dir.path("empty.txt") + "'" + out, "empty");
  refuses("train --data '" + dir.path("folder") + "'" + out, "folder");
  refuses("train --data '" + dir.path("short.txt") + "'" + out, "16");
  CHECK_FALSE(fs::exists(dir.path("o/config.json")));
}

TEST_CASE("combinations of method and scaling without meaning are refused with the reason") {
  const test::TempDir dir;
  write(dir.path("t.txt"), text_of(4000));
  const std::string data = " --data '" + dir.path("t.txt") + "' ";
  REQUIRE(ropewalk("--quiet train" + data + "--out '" + dir.path("base") + "'" + kTiny).code == 0);
  const std::string from =
      data + "--from '" + dir.path("base") + "' --out '" + dir.path("x") + "' --steps 1 --batch 2 ";
  refuses("train" + data + "--out '" + dir.path("x") + "' --method pose --target 64", "--from");
  refuses("train" + from + "--method pose", "--target");
  refuses("train" + from + "--method pose --target 16", "no longer than the window of 16");
  refuses("train" + from + "--method pi --scaling yarn --target 64", "linear");
  refuses("train" + from + "--method clex --scaling yarn --target 64", "clex");
  refuses("train" + from + "--method full --scaling e2 --target 64", "e2");
  refuses("train" + from + "--method full --scaling dynamic --target 64", "dynamic");
  refuses("train" + from + "--method full --scaling spiral --target 64", "spiral");
  refuses("train" + from + "--method teleport --target 64", "teleport");
  refuses("train" + from + "--target 64", "--method");
}

TEST_CASE("train, extend, evaluate, generate and resume work on a small text") {
  const test::TempDir dir;
  write(dir.path("t.txt"), text_of(6000));
  const std::string data = " --data '" + dir.path("t.txt") + "' ", base = " '" + dir.path("base") + "' ",
                    tok = " '" + dir.path("tok") + "' ";
  CHECK(ropewalk("tokenizer train" + data + "--vocab 300 --out" + tok).code == 0);
  CHECK(ropewalk("train" + data + "--tokenizer" + tok + "--out" + base + kTiny).code == 0);
  for (const std::string method :
       {"--method pi", "--method full --scaling yarn", "--method pose", "--method pose --scaling yarn --chunks 3",
        "--method randpos --scaling ntk", "--method e2 --max-factor 4", "--method clex --max-factor 4"}) {
    CAPTURE(method);
    const std::string out = " '" + dir.path("x") + "' ";
    const Answer trained =
        ropewalk("train" + data + "--from" + base + "--out" + out + method + " --target 64 --steps 2 --batch 2");
    CAPTURE(trained.err);
    CHECK(trained.code == 0);
    const auto config = nlohmann::json::parse(rw::read_file(dir.path("x/config.json")));
    CHECK(config.at("rope_scaling").is_object());
    const Answer evaluated =
        ropewalk("eval ppl" + data + "--model" + out + "--window 16,64 --json '" + dir.path("e.json") + "'");
    CAPTURE(evaluated.err);
    CHECK(evaluated.code == 0);
    CHECK(nlohmann::json::parse(rw::read_file(dir.path("e.json"))).at("rows").size() == 2);
    CHECK(ropewalk("generate --model" + out + "--prompt Line --tokens 40 --seed 3").code == 0);
    fs::remove_all(dir.path("x"));
  }
  const Answer once = ropewalk("generate --model" + base + "--prompt Line --tokens 20 --temperature 0");
  CHECK(once.out == ropewalk("generate --model" + base + "--prompt Line --tokens 20 --temperature 0").out);
  CHECK(once.out.starts_with("Line"));
}

TEST_CASE("a run that is resumed equals one that was never stopped, bit for bit") {
  const test::TempDir dir;
  write(dir.path("t.txt"), text_of(6000));
  const std::string common =
      "--quiet train --data '" + dir.path("t.txt") + "' --hidden 16 --layers 1 --heads 2 --batch 2 --window 16 ";
  const auto losses = [&](const std::string& run) {
    std::istringstream in(rw::read_file(dir.path(run + "/metrics.jsonl")));
    std::vector<double> values;
    for (std::string line; std::getline(in, line);) values.push_back(nlohmann::json::parse(line).at("loss"));
    return values;
  };
  CHECK(ropewalk(common + "--steps 20 --save-every 5 --out '" + dir.path("whole") + "'").code == 0);
  // The same run, cut off after 13 steps: the newest whole checkpoint is that of step 10.
  CHECK(ropewalk(common + "--steps 20 --save-every 5 --out '" + dir.path("cut") + "'").code == 0);
  fs::remove_all(dir.path("cut/checkpoint-000020"));
  fs::remove(dir.path("cut/model.safetensors"));
  fs::resize_file(dir.path("cut/checkpoint-000015/optimizer.safetensors"), 100);  // torn: must be passed over
  CHECK(ropewalk(common + "--steps 20 --save-every 5 --keep 5 --resume --out '" + dir.path("cut") + "'").code == 0);
  CHECK(losses("whole").size() == 20);
  CHECK(losses("whole") == losses("cut"));
  CHECK(rw::read_file(dir.path("whole/model.safetensors")) == rw::read_file(dir.path("cut/model.safetensors")));
  refuses("train --data '" + dir.path("t.txt") +
              "' --hidden 16 --layers 1 --heads 2 --batch 4 --window 16 --steps 20 --resume --out '" +
              dir.path("whole") + "'",
          "batch was 2");
}

TEST_CASE("validation writes the loss that eval finds, changes nothing of the run, and goes on after a resume") {
  const test::TempDir dir;
  write(dir.path("t.txt"), text_of(6000));
  write(dir.path("v.txt"), text_of(3000) + "Something else stands at the end of this text. ");
  const auto train = [&](const std::string& out, const std::string& more) {
    const Answer a = ropewalk("--quiet train --data '" + dir.path("t.txt") +
                              "' --hidden 16 --layers 1 --heads 2 --batch 2 --window 16 --steps 20 --out '" +
                              dir.path(out) + "' " + more);
    CAPTURE(a.err);
    CHECK(a.code == 0);
  };
  const std::string validation = "--validation '" + dir.path("v.txt") + "' --validation-tokens 800 ";
  train("plain", "");
  train("run", validation + "--validate-every 6 --save-every 5 --keep 9");
  CHECK(rw::read_file(dir.path("plain/model.safetensors")) == rw::read_file(dir.path("run/model.safetensors")));
  const auto rows = [&](const std::string& out) {
    std::istringstream in(rw::read_file(dir.path(out + "/validation.jsonl")));
    std::vector<nlohmann::json> all;
    for (std::string line; std::getline(in, line);) all.push_back(nlohmann::json::parse(line));
    return all;
  };
  const std::vector<nlohmann::json> first = rows("run");
  REQUIRE(first.size() == 4);  // 6, 12, 18 and the end
  CHECK(first[0].at("step") == 6);
  CHECK(first[3].at("step") == 20);
  CHECK(first[3].at("tokens") == 800);
  CHECK(ropewalk("eval ppl --model '" + dir.path("run") + "' --data '" + dir.path("v.txt") +
                 "' --window 16 --stride 16 --max-tokens 800 --json '" + dir.path("e.json") + "'")
            .code == 0);
  const double nll = nlohmann::json::parse(rw::read_file(dir.path("e.json"))).at("totals").at(0).at("nll");
  CHECK(first[3].at("loss").get<double>() == doctest::Approx(nll).epsilon(1e-6));
  fs::remove_all(dir.path("run/checkpoint-000020"));
  fs::remove_all(dir.path("run/checkpoint-000015"));
  fs::remove(dir.path("run/model.safetensors"));
  train("run", validation + "--validate-every 6 --save-every 5 --keep 9 --resume");
  CHECK(rows("run") == first);
}

TEST_CASE("what a run is made of stands in its checkpoints: other data, other options and a fresh start are refused") {
  const test::TempDir dir;
  write(dir.path("t.txt"), text_of(6000));
  write(dir.path("u.txt"), text_of(6100));
  const auto train = [&](const std::string& data, const std::string& more) {
    return "train --data '" + dir.path(data) + "' --out '" + dir.path("o") +
           "' --hidden 16 --layers 1 --heads 2 --batch 2 --window 16 --steps 4 --save-every 2 " + more;
  };
  REQUIRE(ropewalk("--quiet " + train("t.txt", "")).code == 0);
  refuses(train("t.txt", ""), "holds a model");
  refuses(train("u.txt", "--resume"), "data was");
  refuses(train("t.txt", "--resume --beta2 0.9"), "beta2 was 0.95, now 0.9");
  refuses(train("t.txt", "--resume --no-bos"), "no_bos was false, now true");
  refuses(train("t.txt", "--resume --dtype bf16"), "dtype was f32, now bf16");
  const std::string unfinished = "o/" + rw::temporary_name();
  write(dir.path(unfinished), "left by a killed process");
  write(dir.path("o/data.tmp-2024-01"), "somebody's own");
  fs::remove(dir.path("o/model.safetensors"));
  CHECK(ropewalk("--quiet " + train("t.txt", "--resume")).code == 0);
  CHECK_FALSE(fs::exists(dir.path(unfinished)));
  CHECK(fs::exists(dir.path("o/data.tmp-2024-01")));
}

TEST_CASE("logits are written for given tokens, and ids beyond the vocabulary are refused") {
  const test::TempDir dir;
  write(dir.path("t.txt"), text_of(4000));
  const std::string base = dir.path("base"), out = dir.path("l.safetensors");
  REQUIRE(ropewalk("--quiet train --data '" + dir.path("t.txt") + "' --out '" + base + "'" + kTiny).code == 0);
  const std::string command = "eval logits --model '" + base + "' --out '" + out + "' --tokens ";
  CHECK(ropewalk(command + "0,70,71,72,71").code == 0);
  const rw::SafetensorsFile file(out);
  const rw::Tensor logits = file.load("logits");
  CHECK(logits.shape() == rw::Shape{5, 258});
  CHECK(file.load("ids").to_vector() == std::vector<double>{0, 70, 71, 72, 71});
  CHECK(ropewalk(command + "0,70,71,72,71 --dtype f64").code == 0);
  CHECK(test::relative_error(rw::SafetensorsFile(out).load("logits"), logits) < 1e-5);
  CHECK(ropewalk(command + "0,70,71").code == 0);  // causal: what comes later changes nothing
  CHECK(test::relative_error(rw::SafetensorsFile(out).load("logits"), logits.slice(0, 3)) < 1e-6);
  refuses(command + "0,258", "258 at position 1");
}

TEST_CASE("sizes beyond all measure are refused by the option's name") {
  for (const std::string option : {"--hidden", "--layers", "--heads", "--kv-heads", "--head-dim", "--ffn", "--window",
                                   "--batch", "--accumulate", "--steps", "--max-factor"})
    refuses("train --out nowhere " + option + " 9000000000000000000", option + " must be");
}

TEST_CASE("a loss that is not finite stops the run, names the step and keeps the last checkpoint") {
  const test::TempDir dir;
  write(dir.path("t.txt"), text_of(6000));
  const std::string out = "--out '" + dir.path("o") + "'";
  const Answer a = ropewalk("--quiet train --data '" + dir.path("t.txt") + "' " + out +
                            " --hidden 16 --layers 1 --heads 2 --batch 2 --window 16 --save-every 1 --lr 1e30 "
                            "--schedule constant --clip 0 --steps 50");
  CHECK(a.code == 2);
  CHECK(a.err.find("step") != std::string::npos);
  CHECK(fs::exists(dir.path("o")));
  bool kept = false;
  for (const auto& entry : fs::directory_iterator(dir.path("o")))
    kept |= entry.path().filename().string().starts_with("checkpoint-");
  CHECK(kept);
}

TEST_CASE("damaged model folders and tokenizers are refused") {
  const test::TempDir dir;
  write(dir.path("t.txt"), text_of(4000));
  const std::string base = dir.path("base");
  REQUIRE(ropewalk("--quiet train --data '" + dir.path("t.txt") + "' --out '" + base + "'" + kTiny).code == 0);
  const std::string generate = "generate --tokens 2 --model '" + base + "'";
  const auto with = [&](const std::string& file, const std::string& text, const std::string& part) {
    const std::string path = base + "/" + file, saved = rw::read_file(path);
    write(path, text);
    refuses(generate, part);
    write(path, saved);
  };
  with("config.json", "{\"vocab", "config.json");
  with("tokenizer.json", "{\"model\": 3}", "tokenizer");
  with("model.safetensors", "garbage", "model.safetensors");
  refuses("generate --model '" + dir.path("nothing") + "'", "nothing");
  refuses("eval ppl --model '" + base + "' --data '" + dir.path("none.txt") + "'", "none.txt");
  refuses("eval ppl --model '" + base + "' --data '" + dir.path("t.txt") + "' --rope '{\"rope_type\":\"spiral\"}'",
          "spiral");
  write(dir.path("x.bin"), "short");
  refuses("convert llama2c '" + dir.path("x.bin") + "' --tokenizer '" + dir.path("x.bin") + "' --out '" +
              dir.path("c") + "'",
          "x.bin");
  CHECK(ropewalk("--quiet " + generate).code == 0);
}

TEST_CASE("an output folder that cannot be written leaves what was saved as it was") {
  const test::TempDir dir;
  write(dir.path("t.txt"), text_of(4000));
  write(dir.path("file"), "precious");
  refuses("train --data '" + dir.path("t.txt") + "' --out '" + dir.path("file/x") + "'" + kTiny, "cannot");
  CHECK(rw::read_file(dir.path("file")) == "precious");
  // A full disk: a limit on file sizes makes the write of the new weights fail half way.
  const std::string train = "train --data '" + dir.path("t.txt") + "' --out '" + dir.path("o") + "'" + kTiny;
  REQUIRE(ropewalk("--quiet " + train).code == 0);
  const std::string before = rw::read_file(dir.path("o/model.safetensors"));
  const std::string limited = std::string("trap '' XFSZ; ulimit -f 8; OMP_NUM_THREADS=2 '") + ROPEWALK_BINARY_DIR +
                              "/bin/ropewalk' --quiet " + train + " --overwrite --seed 9 >/dev/null 2>'" +
                              dir.path("err") + "'";
  const int status = std::system(("bash -c \"" + limited + "\"").c_str());
  CHECK(WEXITSTATUS(status) == 2);
  CHECK(rw::read_file(dir.path("err")).find("cannot write") != std::string::npos);
  CHECK(rw::read_file(dir.path("o/model.safetensors")) == before);
}

TEST_CASE("options may stand in a TOML recipe, and the command line wins") {
  const test::TempDir dir;
  write(dir.path("t.txt"), text_of(4000));
  write(dir.path("r.toml"),
        "# a recipe\n[train]\nhidden = 16\nlayers = 1\nheads = 2\nbatch = 2\nwindow = 16\nsteps = 9\ndata = [\"" +
            dir.path("t.txt") + "\"]\n");
  const Answer a = ropewalk("train --config '" + dir.path("r.toml") + "' --steps 3 --out '" + dir.path("o") + "'");
  CAPTURE(a.err);
  CHECK(a.code == 0);
  CHECK(a.out.find("steps 3") != std::string::npos);
  write(dir.path("r.toml"), "[train]\nno_such_key = 1\n");
  refuses("train --config '" + dir.path("r.toml") + "' --out '" + dir.path("o") + "'", "no-such-key");
}

TEST_CASE("a model goes into a GGUF file and back, and verbs that read a model take the file") {
  const test::TempDir dir;
  write(dir.path("t.txt"), text_of(3000));
  const auto quoted = [&](const char* name) { return " '" + dir.path(name) + "' "; };
  REQUIRE(ropewalk("--quiet train --data" + quoted("t.txt") + "--out" + quoted("m") + kTiny).code == 0);
  const std::string convert = "convert gguf --model", file = quoted("m.gguf"), back = quoted("back");
  const Answer out = ropewalk(convert + quoted("m") + "--type f32 --out" + file);
  CHECK(out.code == 0);
  CHECK(out.out.find("type f32") != std::string::npos);
  REQUIRE(ropewalk(convert + file + "--out" + back).code == 0);
  const auto text = [&](const std::string& model) {
    const Answer a = ropewalk("generate --model" + model + "--tokens 20 --temperature 0 --prompt Line");
    CHECK(a.code == 0);
    return a.out;
  };
  CHECK(text(quoted("m")) == text(file));
  CHECK(text(quoted("m")) == text(back));
  const std::string ppl = " --data" + quoted("t.txt") + "--window 16 --json" + quoted("e.json");
  CHECK(ropewalk("--quiet eval ppl --model" + file + ppl).code == 0);
  CHECK(rw::read_file(dir.path("m/model.safetensors")) == rw::read_file(dir.path("back/model.safetensors")));

  refuses(convert + quoted("m") + "--out" + file, "there already");
  refuses(convert + file + "--out" + back, "holds a model");
  refuses(convert + quoted("m") + "--out" + quoted("x"), "name ends in .gguf");
  refuses(convert + file + "--out" + quoted("x.gguf"), "got a .gguf file");
  refuses(convert + file + "--type q8_0 --out" + quoted("x"), "--type is of a GGUF file that is written");
  refuses(convert + quoted("m") + "--dtype bf16 --out" + quoted("x.gguf"), "--dtype is of a model folder");
  refuses("train --data" + quoted("t.txt") + "--from" + file + "--out" + quoted("y") + "--steps 1", "convert gguf");
}

TEST_CASE("llama2.c's stories260K gives the text of its own program") {
  const std::string bin = test::shared_data("models/stories260K.bin"), tok = test::shared_data("tokenizers/tok512.bin"),
                    texts = test::shared_data("llama2c");
  if (bin.empty() || tok.empty() || texts.empty()) return;
  const test::TempDir dir;
  const std::string model = " --model '" + dir.path("m") + "' ";
  REQUIRE(ropewalk("convert llama2c '" + bin + "' --tokenizer '" + tok + "' --out '" + dir.path("m") + "'").code == 0);
  struct Case {
    std::string file, prompt;
    int64_t tokens;
  };
  for (const Case& c : {Case{"stories260K_t0_n200_noprompt.txt", "", 200},
                        {"stories260K_t0_n256_once.txt", "Once upon a time", 256},
                        {"stories260K_t0_n512_tim.txt", "One day, Tim went to the park and saw a big dog.", 512}}) {
    CAPTURE(c.file);
    // run.c counts the prompt's tokens among the n that it prints.
    std::istringstream ids(ropewalk("tokenizer encode --tokenizer '" + tok + "' --text \"" + c.prompt + "\"").out);
    const int64_t prompt_tokens = c.prompt.empty() ? 0 : std::distance(std::istream_iterator<int>(ids), {});
    const Answer a = ropewalk("generate" + model + "--temperature 0 --tokens " +
                              std::to_string(c.tokens - prompt_tokens) + " --prompt \"" + c.prompt + "\"");
    CHECK(a.out == rw::read_file(texts + "/" + c.file));
  }
}
