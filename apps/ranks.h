// Verbs that run as one of several ranks: `ropewalk train` and `ropewalk bench cuda`.
#pragma once
#include <memory>
#include <mutex>
#include <string>

#include "nn/parallel/communicator.h"
#include "verbs.h"

/// Joins the ranks that the environment names (nn/parallel/world.h); nullptr if this process is alone.
/// Sets in `globals` what a rank needs: the GPU of its number on this host unless --device names one, its
/// share of the CPU's threads unless they are given, and silence on all but rank 0. Errors: ranks that do
/// not come; fewer GPUs than ranks of this host.
std::unique_ptr<rw::Communicator> join_ranks(Globals& globals);

/// How far a run is, for the message with which it ends when another rank is lost.
class RunState {
 public:
  /// From now on, a process that does not leave by itself within 15 s of the loss of a rank is ended.
  explicit RunState(rw::Communicator& comm);
  void set_step(int64_t step);
  void set_checkpoint(const std::string& folder);
  /// Prints "ropewalk: <why> at step N; last checkpoint: FOLDER" and ends the process with code 1: at once, since
  /// whatever waits on a GPU for the lost rank would hold up an orderly end.
  [[noreturn]] void leave(const std::string& why) const;

 private:
  struct State {
    std::mutex mutex;
    int64_t step = 0;
    std::string checkpoint;
  };
  static void print(State& state, const std::string& why);
  std::shared_ptr<State> state_ = std::make_shared<State>();
};
