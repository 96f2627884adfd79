#include "nn/parallel/world.h"

#include <charconv>
#include <cstdlib>

#include "tensor/error.h"

namespace rw {
namespace {

constexpr int kMostRanks = 65536;

struct Starter {
  const char* name;
  const char *rank, *size, *other_size, *local_rank, *local_size;  // nullptr: has none
};
// mpirun inside a SLURM job sees both kinds of variables, and SLURM's then say nothing of the ranks: SLURM comes last.
constexpr Starter kStarters[] = {
    {"RANK and WORLD_SIZE", "RANK", "WORLD_SIZE", nullptr, "LOCAL_RANK", "LOCAL_WORLD_SIZE"},
    {"Open MPI's variables", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", nullptr, "OMPI_COMM_WORLD_LOCAL_RANK",
     "OMPI_COMM_WORLD_LOCAL_SIZE"},
    {"MPICH's variables", "PMI_RANK", "PMI_SIZE", nullptr, "MPI_LOCALRANKID", "MPI_LOCALNRANKS"},
    {"SLURM's variables", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "SLURM_LOCALID", nullptr}};

std::optional<int> number(const Variables& variables, const char* name, int low, int high) {
  const auto text = name ? variables(name) : std::nullopt;
  if (!text) return std::nullopt;
  int value = 0;
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), value);
  check(error == std::errc{} && end == text->data() + text->size() && value >= low && value <= high, "parallel", name,
        " must be a number from ", low, " to ", high, ", got '", *text, "'");
  return value;
}

bool is_loopback(const std::string& host) { return host == "localhost" || host.starts_with("127."); }

}  // namespace

std::string first_host(const std::string& list) {
  const size_t open = list.find('['), comma = list.find(',');
  std::string host = list.substr(0, std::min(open, comma));
  if (open != std::string::npos && open < comma) {  // prefix[03-05,9]suffix
    const size_t close = list.find(']', open);
    check(close != std::string::npos, "parallel", "the node list '", list, "' has no closing bracket");
    const std::string inside = list.substr(open + 1, close - open - 1);
    host += inside.substr(0, inside.find_first_of("-,"));
    const size_t end = list.find_first_of(",[", close);
    host += list.substr(close + 1, end == std::string::npos ? end : end - close - 1);
  }
  check(!host.empty(), "parallel", "the node list '", list, "' names no host");
  return host;
}

World world_from(const Variables& variables) {
  World w;
  const Starter* from = nullptr;
  for (const Starter& s : kStarters) {
    const bool has_size = variables(s.size) || (s.other_size && variables(s.other_size));
    // RANK alone or WORLD_SIZE alone is a mistake; a SLURM job outside of srun has sizes, but no rank.
    if (&s == &kStarters[0]) {
      check(variables(s.rank).has_value() == has_size, "parallel", "RANK and WORLD_SIZE go together, but only ",
            has_size ? "WORLD_SIZE" : "RANK", " is set");
    }
    if (!variables(s.rank) || !has_size) continue;
    from = &s;
    break;
  }
  if (!from) return w;
  w.starter = from->name;
  const auto size = number(variables, from->size, 1, kMostRanks);
  w.size = size ? *size : *number(variables, from->other_size, 1, kMostRanks);
  w.rank = *number(variables, from->rank, 0, w.size - 1);
  if (const auto local = number(variables, from->local_rank, 0, w.size - 1)) w.local_rank = *local;
  if (const auto local = number(variables, from->local_size, 1, w.size)) w.local_size = *local;
  check(w.local_size < 0 || w.local_rank < w.local_size, "parallel", "the local rank is ", w.local_rank, " of ",
        w.local_size);
  if (w.single()) return w;

  const bool slurm = from->rank == std::string("SLURM_PROCID");
  const auto master = variables("MASTER_ADDR"), nodes = variables("SLURM_STEP_NODELIST"),
             job_nodes = variables("SLURM_NODELIST");
  if (master) {
    w.master = *master;
    check(!w.master.empty(), "parallel", "MASTER_ADDR is empty");
  } else if (slurm && (nodes || job_nodes)) {
    w.master = first_host(nodes ? *nodes : *job_nodes);
  }
  check(!is_loopback(w.master) || w.local_size < 0 || w.local_size == w.size, "parallel", "this host has ",
        w.local_size, " of ", w.size, " ranks: set MASTER_ADDR to the host of rank 0");

  if (const auto port = number(variables, "MASTER_PORT", 1, 65534)) {
    w.port = *port + (variables("TORCHELASTIC_RUN_ID") ? 1 : 0);
  } else if (const auto job = variables("SLURM_JOB_ID"); slurm && job) {
    w.port = 20000 + static_cast<int>(std::strtoul(job->c_str(), nullptr, 10) % 10000);  // two jobs may share a host
  }
  if (const auto port = number(variables, "ROPEWALK_PORT", 1, 65535)) w.port = *port;
  if (const auto secret = variables("ROPEWALK_SECRET")) {
    check(secret->size() >= 16, "parallel", "ROPEWALK_SECRET has ", secret->size(),
          " characters; it must have at least 16, as `openssl rand -hex 16` makes them");
    w.secret = *secret;
  }
  return w;
}

World world_from_environment() {
  return world_from([](const std::string& name) -> std::optional<std::string> {
    const char* value = std::getenv(name.c_str());
    return value ? std::optional<std::string>(value) : std::nullopt;
  });
}

}  // namespace rw
