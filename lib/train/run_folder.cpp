// Locks, ownership and the mark of a run in its folder.
#include "train/run_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <regex>

#include "nn/io/checkpoint.h"
#include "tensor/error.h"
#include "tensor/file.h"
#include "tensor/folder.h"
#include "tensor/json_depth.h"
#include "train/text.h"

namespace rw {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
constexpr const char* kOp = "train";

/// Files that hold a run or a model, and evaluations of it.
bool belongs_to_a_run(const std::string& name) {
  static const std::regex names(
      R"(model(-[0-9]+-of-[0-9]+)?\.safetensors(\.index\.json)?|(config|run|cost|frequencies)\.json|)"
      R"((adapter_model|rope_parameters)\.safetensors|(adapter|model)_config\.json|)"
      R"((metrics|validation)\.jsonl|metrics\.csv|recipe\.toml|eval-.*\.json)");
  return std::regex_match(name, names);
}

/// Files of a model folder that a finished run vouches for.
bool is_model_file(const std::string& name) {
  static const std::regex names(R"(model(-[0-9]+-of-[0-9]+)?\.safetensors(\.index\.json)?|config\.json|)"
                                R"((adapter_model|rope_parameters)\.safetensors|(adapter|model)_config\.json)");
  return std::regex_match(name, names);
}

bool is_tokenizer_file(const std::string& name) {
  return name == "tokenizer.json" || name == "tokenizer_config.json" || name == "tokenizer.model";
}

/// The file that is written last: who finds it finds the weights that belong to it.
bool is_marker(const std::string& name) { return name == "config.json" || name == "adapter_config.json"; }

std::vector<std::string> names_in(const std::string& folder, bool (*wanted)(const std::string&)) {
  std::vector<std::string> found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    if (wanted(name)) found.push_back(name);
  }
  std::sort(found.begin(), found.end());
  return found;
}

bool same_folder(const std::string& a, const std::string& b) {
  std::error_code error;
  if (fs::equivalent(a, b, error)) return true;
  return !a.empty() && !b.empty() && fs::weakly_canonical(a, error) == fs::weakly_canonical(b, error);
}

/// Whether `path` is the folder or lies in it, links followed.
bool lies_in(const std::string& path, const std::string& folder) {
  std::error_code error;
  const fs::path inner = fs::weakly_canonical(fs::absolute(path, error), error), outer = fs::canonical(folder, error);
  if (error) return false;
  return std::mismatch(outer.begin(), outer.end(), inner.begin(), inner.end()).first == outer.end();
}

/// Whether `path` is one of the checkpoints in `folder`.
bool is_checkpoint_of(const std::string& path, const std::string& folder) {
  std::error_code error;
  const fs::path at = fs::canonical(path, error);
  return !error && at.filename().string().starts_with("checkpoint-") && same_folder(at.parent_path().string(), folder);
}

/// run.json, or null if there is none. Errors: it is there and cannot be read.
json read_mark(const std::string& path) {
  std::error_code error;
  if (!fs::exists(path, error)) return nullptr;
  const std::string text = read_file(path, limits::trainer_state);
  check_json_depth(text, kOp, path);
  json mark = json::parse(text, nullptr, false);
  check(mark.is_object() && mark.contains("identity") && mark["identity"].is_object(), kOp, "'", path,
        "' is not the mark of a run");
  return mark;
}

Identity identity_of(const json& object) {
  Identity out;
  for (const auto& [key, value] : object.items())
    if (value.is_string()) out[key] = value.get<std::string>();
  return out;
}

}  // namespace

FolderLock::FolderLock(const std::string& folder, bool wait) {
  make_folder(kOp, folder);
  const std::string path = folder + "/.lock";
  file_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
  check(file_ >= 0, kOp, "cannot write '", path, "': ", std::strerror(errno));
  int result;
  do result = ::flock(file_, LOCK_EX | (wait ? 0 : LOCK_NB));
  while (result != 0 && errno == EINTR);
  held_ = result == 0;
  if (held_ || (!wait && errno == EWOULDBLOCK)) return;
  const std::string why = std::strerror(errno);
  ::close(file_);
  fail(kOp, "cannot lock '", path, "': ", why);
}

FolderLock::~FolderLock() { ::close(file_); }

bool FolderLock::taken(const std::string& folder) {
  const int file = ::open((folder + "/.lock").c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  if (file < 0) return false;
  const bool free = ::flock(file, LOCK_SH | LOCK_NB) == 0 || errno != EWOULDBLOCK;
  ::close(file);
  return !free;
}

std::string difference(const Identity& then, const Identity& now) {
  std::vector<std::string> keys;
  for (const Identity* side : {&then, &now}) {
    for (const auto& [key, value] : *side) keys.push_back(key);
  }
  // What the user set, before what follows from it.
  std::stable_partition(keys.begin(), keys.end(), [](const std::string& key) { return !key.starts_with("config."); });
  for (const std::string& key : keys) {
    const auto was = then.find(key), is = now.find(key);
    if (is == now.end()) return key + " was " + was->second;
    if (was == then.end()) return key + " is new: " + is->second;
    if (was->second != is->second) return key + " was " + was->second + ", now " + is->second;
  }
  return "";
}

std::string run_maker(const std::string& folder) {
  const json mark = read_mark(folder + "/run.json");
  return mark.is_object() && mark.contains("maker") && mark["maker"].is_string() ? mark["maker"].get<std::string>()
                                                                                 : "";
}

void check_unclaimed(const std::string& op, const std::string& folder, bool overwrite, bool makes_model) {
  std::error_code error;
  check(!fs::exists(folder, error) || fs::is_directory(folder, error), op, "cannot make folder '", folder,
        "': there is a file of that name");
  std::vector<std::string> model = names_in(folder, is_model_file), run = names_in(folder, belongs_to_a_run),
                           words = names_in(folder, is_tokenizer_file);
  std::erase_if(run, [](const std::string& name) { return is_model_file(name); });
  const CheckpointScan scan = scan_checkpoints(folder);
  if (scan.newest || !scan.damaged.empty()) run.emplace_back("checkpoints");
  check(run.empty(), op, "'", folder, "' holds a run or evaluations (", run.empty() ? "" : run[0],
        "), which are not replaced: name another --out");
  check(makes_model || model.empty(), op, "'", folder,
        "' holds a model, which needs its own tokenizer: name another --out");
  check(overwrite || (model.empty() && words.empty()), op, "'", folder, "' holds ",
        model.empty() ? "a tokenizer" : "a model", ": --overwrite replaces what is there, or name another --out");
}

void check_outside(const std::string& op, const std::string& out, const std::vector<std::string>& texts) {
  std::error_code error;
  for (const std::string& text : texts) {
    check(out.empty() || !fs::is_directory(text, error) || !lies_in(out, text), op, "--out '", out, "' is within '",
          text, "', which is read as text with all that is in it: name an --out outside of it");
  }
}

RunFolder::RunFolder(std::string path, FolderUse use, std::string maker, bool locked)
    : path_(std::move(path)), use_(use), maker_(std::move(maker)), locked_(locked) {}

void RunFolder::check_place(const std::vector<std::string>& sources) const {
  for (const std::string& source : sources) {
    check(!same_folder(path_, source), kOp, "'", path_,
          "' is read by this run and cannot be its --out as well: name another --out");
    check(use_ != FolderUse::overwrite || !is_checkpoint_of(source, path_), kOp, "--overwrite would remove '", source,
          "', which is read by this run: name another --out");
  }
  std::error_code error;
  check(!fs::exists(path_, error) || fs::is_directory(path_, error), kOp, "cannot make folder '", path_,
        "': there is a file of that name");
  check(locked_ || lock_ || !FolderLock::taken(path_), kOp, "another process works in '", path_,
        "': wait for it, or name another --out");
  const std::vector<std::string> files = names_in(path_, belongs_to_a_run);
  if (use_ == FolderUse::overwrite) {
    for (const std::string& name : files) take_mode_of(path_ + "/" + name, "");
  }
  if (use_ != FolderUse::fresh) return;
  const CheckpointScan scan = scan_checkpoints(path_);
  if (files.empty() && !scan.newest && scan.damaged.empty()) return;
  const bool model = std::any_of(files.begin(), files.end(), is_marker);
  const std::string what = model                   ? "a model"
                           : scan.newest           ? "a run that is not finished (" + *scan.newest + ")"
                           : !scan.damaged.empty() ? "a damaged checkpoint (" + scan.damaged[0] + ")"
                                                   : "a run that is not finished (" + files[0] + ")";
  fail(kOp, "'", path_, "' holds ", what,
       ": --resume goes on with the same run, --overwrite replaces what is there, or name another --out");
}

RunStand RunFolder::stand(const Identity& identity) const {
  RunStand stand;
  if (use_ != FolderUse::resume) return stand;
  const json mark = read_mark(mark_path());
  const CheckpointScan scan = scan_checkpoints(path_);
  if (mark.is_null()) {
    const auto files = names_in(path_, belongs_to_a_run);
    check(files.empty() && !scan.newest && scan.damaged.empty(), kOp, "'", path_,
          "' holds a model or a run without run.json, which this version cannot go on with: name another --out, or "
          "replace it by --overwrite");
    return stand;
  }
  Identity then = identity_of(mark["identity"]), now = identity;
  stand.exists = true;
  stand.steps = std::atoll(then["steps"].c_str());
  then.erase("steps"), now.erase("steps");
  const std::string differs = difference(then, now);
  check(differs.empty(), kOp, "--resume with other options than '", path_, "' was trained with: ", differs);
  stand.checkpoint = scan.newest;
  stand.damaged = scan.damaged;
  if (!mark.contains("model") || !mark["model"].is_object()) {
    check(scan.newest || scan.damaged.empty(), kOp, "no checkpoint in '", path_, "' is whole ('",
          scan.damaged.empty() ? "" : scan.damaged[0], "' is damaged): remove them to start again, or use --overwrite");
    return stand;
  }
  stand.finished = true;
  for (const auto& [name, sum] : mark["model"].items()) {
    const std::string file = path_ + "/" + name;
    std::error_code error;
    if (!fs::exists(file, error)) {
      stand.finished = false;
      continue;
    }
    check(sum.is_string() && file_checksum(file) == sum.get<std::string>(), kOp, "'", file,
          "' was changed after the run had finished, and is not replaced: name another --out, or use --overwrite");
  }
  return stand;
}

void RunFolder::remove_earlier() const {
  std::error_code error;
  for (const std::string& name : names_in(path_, belongs_to_a_run)) {
    if (name != "run.json" && !is_model_file(name)) fs::remove(path_ + "/" + name, error);
  }
  remove_checkpoints(path_);
}

void RunFolder::begin(const std::vector<std::string>& sources, const Identity& identity,
                      const std::string& recipe_toml) {
  if (!locked_) {
    lock_ = std::make_unique<FolderLock>(path_, false);
    check(lock_->held(), kOp, "another process works in '", path_, "': wait for it, or name another --out");
  }
  check_place(sources);
  remove_unfinished(path_);
  if (use_ == FolderUse::resume && path_exists(mark_path())) {
    json mark = read_mark(mark_path());
    if (identity_of(mark["identity"]) != identity) mark.erase("model");  // of fewer steps: no longer the finished one
    mark["identity"] = identity;
    write_file_atomic(mark_path(), mark.dump(1) + "\n");
  } else {
    write_file_atomic(mark_path(), json{{"format", 1}, {"maker", maker_}, {"identity", identity}}.dump(1) + "\n");
  }
  if (use_ == FolderUse::overwrite) remove_earlier();
  write_file_atomic(path_ + "/recipe.toml", recipe_toml);
}

void RunFolder::put_model(const std::function<void(const std::string& folder)>& write) const {
  const std::string beside = path_ + "/.tmp-model";
  std::error_code error;
  fs::remove_all(beside, error);
  make_folder(kOp, beside);
  write(beside);
  std::vector<std::string> names;
  names = rw::names_in(beside);
  for (const std::string& name : names) take_mode_of(path_ + "/" + name, beside + "/" + name);
  for (const char* marker : {"config.json", "adapter_config.json"}) {
    const std::string config = path_ + "/" + marker;
    if (!fs::exists(config, error)) continue;
    fs::remove(config, error);
    check(!error, kOp, "cannot replace '", config, "': ", error.message());
  }
  for (const std::string& old : names_in(path_, is_model_file)) {
    if (std::find(names.begin(), names.end(), old) == names.end()) remove_tree(path_ + "/" + old);
  }
  // What an earlier model's makers wanted is not the new one's.
  const std::string generation = "generation_config.json";
  if (use_ == FolderUse::overwrite && std::find(names.begin(), names.end(), generation) == names.end())
    fs::remove(path_ + "/" + generation, error);
  std::stable_partition(names.begin(), names.end(), [](const std::string& n) { return !is_marker(n); });
  for (const std::string& name : names) {
    fs::rename(beside + "/" + name, path_ + "/" + name, error);
    check(!error, kOp, "cannot write '", path_, "/", name, "': ", error.message());
  }
  sync_folder(path_);
  fs::remove_all(beside, error);
}

void RunFolder::finish(const Identity& identity, const std::string& facts) const {
  json model = json::object();
  for (const std::string& name : names_in(path_, is_model_file)) model[name] = file_checksum(path_ + "/" + name);
  write_file_atomic(
      mark_path(),
      json{{"format", 1}, {"maker", maker_}, {"identity", identity}, {"model", model}, {"facts", json::parse(facts)}}
              .dump(1) +
          "\n");
}

}  // namespace rw
