// The folder of a run: who works in it, whose it is, and how the finished model comes into it.
//
//   OUT/run.json        what identifies the run, and whether it is finished
//   OUT/recipe.toml     its settings: `ropewalk train --config OUT/recipe.toml --out OTHER` runs it again
//   OUT/metrics.jsonl   OUT/validation.jsonl   OUT/cost.json   OUT/checkpoint-000500/   OUT/metrics.csv (with --csv)
//   OUT/config.json     OUT/model.safetensors  and the tokenizer: the model, once the run is finished; of a run that
//   trains an adapter, PEFT's OUT/adapter_config.json and OUT/adapter_model.safetensors (nn/io/adapter.h)
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace rw {

/// A folder in which one process works at a time. The system forgets the lock when the process ends, however it ends.
class FolderLock {
 public:
  /// Makes the folder, and FOLDER/.lock in it. `wait`: until the other process is through; otherwise held() says
  /// whether there is none. Errors: the folder or its lock cannot be written.
  FolderLock(const std::string& folder, bool wait);
  ~FolderLock();
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;
  bool held() const { return held_; }
  /// Whether another process holds the lock now. Writes nothing.
  static bool taken(const std::string& folder);

 private:
  int file_ = -1;
  bool held_ = false;
};

/// What identifies a run: everything that decides its result, by name.
using Identity = std::map<std::string, std::string>;

/// The first entry in which two identities differ, in words: "batch was 2, now 4"; "" if none does.
std::string difference(const Identity& then, const Identity& now);

/// Who made the run in a folder, as its run.json says; "" if there is none.
std::string run_maker(const std::string& folder);

/// For what is made elsewhere than by a run. Errors, with how to go on: the folder holds a run or evaluations; a model,
/// unless another is made (`makes_model`) and `overwrite` is given; a tokenizer without `overwrite`.
void check_unclaimed(const std::string& op, const std::string& folder, bool overwrite, bool makes_model);

/// Errors: `out` is one of the folders among `texts`, or lies in one. They are read with all that is below them, so the
/// next start would read the run's own files as text.
void check_outside(const std::string& op, const std::string& out, const std::vector<std::string>& texts);

/// How a run may use a folder that holds something.
enum class FolderUse {
  fresh,      // nothing of a run or a model may be there
  resume,     // go on with the same run if it is there
  overwrite,  // what is there of a run or a model goes
};

/// What a folder holds of the run that is about to start.
struct RunStand {
  bool exists = false;                    // a start of this same run left its mark
  bool finished = false;                  // and its model is there, as it was written
  int64_t steps = 0;                      // that the start asked for
  std::optional<std::string> checkpoint;  // the newest whole one
  std::vector<std::string> damaged;       // newer ones that are not whole
};

/// A run's place on disk. Until begin() nothing is written. Thread safety: none.
class RunFolder {
 public:
  /// `maker`: the program's verb, written into run.json. `locked`: the caller holds the folder's lock already.
  RunFolder(std::string path, FolderUse use, std::string maker, bool locked);

  const std::string& path() const { return path_; }

  /// Errors, with how to go on: the folder is one of `sources`, which the run reads; another process works in it; it
  /// holds something that is not this run's to replace. Writes nothing.
  void check_place(const std::vector<std::string>& sources) const;
  /// What is there of the run of that identity; steps may differ. Errors: another run; a model that was changed after
  /// the run had finished; only damaged checkpoints. Writes nothing.
  RunStand stand(const Identity& identity) const;

  /// Takes the lock, checks again, removes what a killed process left half written, and writes run.json and
  /// recipe.toml. With FolderUse::overwrite it removes what was there, too, but for the model: that stays until
  /// put_model() replaces it. Errors: check_place's; unwritable.
  void begin(const std::vector<std::string>& sources, const Identity& identity, const std::string& recipe_toml);
  /// `write` makes files in the folder that it is given. They take the place of the model, config.json last: whoever
  /// finds a config.json finds the weights that belong to it.
  void put_model(const std::function<void(const std::string& folder)>& write) const;
  /// Marks the run as finished. `facts`, a JSON object, goes into run.json beside the identity.
  void finish(const Identity& identity, const std::string& facts) const;

 private:
  std::string mark_path() const { return path_ + "/run.json"; }
  void remove_earlier() const;

  std::string path_;
  FolderUse use_;
  std::string maker_;
  bool locked_;
  std::unique_ptr<FolderLock> lock_;
};

}  // namespace rw
