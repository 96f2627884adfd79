// Who takes part in a data-parallel run: read from the variables that the program's starter sets for every process.
#pragma once
#include <functional>
#include <optional>
#include <string>

namespace rw {

struct World {
  int rank = 0, size = 1;
  int local_rank = -1, local_size = -1;     // among the ranks of this host; -1: not told, found out when they connect
  std::string master = "127.0.0.1";         // host of rank 0
  int port = 29500;                         // where rank 0 listens
  std::string starter = "the environment";  // for messages: "torchrun's variables", ...
  std::string secret;                       // that all ranks know; "": none

  bool single() const { return size == 1; }
};

/// Looks a variable up; nullopt: not set.
using Variables = std::function<std::optional<std::string>(const std::string& name)>;

/// The first of these that is set decides:
///   torchrun, or by hand   RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE
///   Open MPI's mpirun      OMPI_COMM_WORLD_RANK, _SIZE, _LOCAL_RANK, _LOCAL_SIZE
///   MPICH's mpirun         PMI_RANK, PMI_SIZE, MPI_LOCALRANKID, MPI_LOCALNRANKS
///   SLURM's srun           SLURM_PROCID, SLURM_STEP_NUM_TASKS or SLURM_NTASKS, SLURM_LOCALID
/// and none of them is a world of one. MASTER_ADDR and MASTER_PORT say where rank 0 is; without them SLURM's node list
/// and job number do, and otherwise this host and port 29500. Under torchrun, whose own store listens on MASTER_PORT,
/// the port is the next one; ROPEWALK_PORT overrides all. ROPEWALK_SECRET, the same text for all ranks, keeps strangers
/// out. Errors: a variable that is no number or out of range, a rank
/// without a size, ranks on several hosts without MASTER_ADDR, a secret of fewer than 16 characters.
World world_from(const Variables& variables);
/// The same from this process's environment.
World world_from_environment();

/// The first host of a SLURM node list: "gpu[03-05,9],login1" gives "gpu03". Errors: an empty list.
std::string first_host(const std::string& node_list);

}  // namespace rw
