// Joining the ranks of a run, and leaving when one is lost.
#include "ranks.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "tensor/threads.h"

using namespace rw;

std::unique_ptr<Communicator> join_ranks(Globals& globals) {
  auto comm = Communicator::connect(world_from_environment());
  if (!comm) return comm;
  const World& world = comm->world();
  const int gpus = cuda_device_count();
  if (globals.device == "cuda" || (globals.device == "auto" && gpus > 0)) {
    // A starter may show each process only its own GPU, which is then number 0.
    const int index = gpus == 1 ? 0 : world.local_rank;
    check(index < gpus, "parallel", "rank ", world.rank, " is number ", world.local_rank,
          " on this host (counted from 0), which has ", gpus, " GPUs");
    globals.device = cat("cuda:", index);
  }
  if (globals.threads == 0 && world.local_size > 1 && !std::getenv("OMP_NUM_THREADS"))
    globals.threads = std::max(1, thread_count() / world.local_size);
  if (!comm->root()) globals.quiet = true;
  return comm;
}

RunState::RunState(Communicator& comm) {
  comm.on_lost([state = state_](const std::string& why) {
    std::thread([state, why] {
      std::this_thread::sleep_for(std::chrono::seconds(15));
      print(*state, why);
      std::_Exit(1);
    }).detach();
  });
}

void RunState::set_step(int64_t step) {
  const std::lock_guard lock(state_->mutex);
  state_->step = step;
}

void RunState::set_checkpoint(const std::string& folder) {
  const std::lock_guard lock(state_->mutex);
  state_->checkpoint = folder;
}

void RunState::print(State& state, const std::string& why) {
  const std::lock_guard lock(state.mutex);
  std::fprintf(stderr, "ropewalk: %s at step %lld; last checkpoint: %s\n", why.c_str(),
               static_cast<long long>(state.step), state.checkpoint.empty() ? "none" : state.checkpoint.c_str());
  std::fflush(stderr);
}

void RunState::leave(const std::string& why) const {
  print(*state_, why);
  std::_Exit(1);
}
