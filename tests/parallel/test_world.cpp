// Which rank a process is, by what torchrun, mpirun and srun set.
#include <map>

#include "nn/parallel/world.h"
#include "support.h"

using namespace rw;

namespace {

using Map = std::map<std::string, std::string>;

World world_of(const Map& set) {
  return world_from([&](const std::string& name) -> std::optional<std::string> {
    const auto it = set.find(name);
    return it == set.end() ? std::nullopt : std::optional(it->second);
  });
}
std::string error_of(const Map& set) {
  return test::error_of([&] { world_of(set); });
}
bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("without variables a process is alone") {
  CHECK(world_of({}).single());
  CHECK(world_of({{"SLURM_NTASKS", "4"}, {"SLURM_JOB_ID", "7"}}).single());  // a job's shell, not a task
  CHECK(world_of({{"MASTER_ADDR", "node1"}}).single());
  CHECK(world_of({{"RANK", "0"}, {"WORLD_SIZE", "1"}}).single());
}

TEST_CASE("torchrun's variables name the rank, and its own store keeps MASTER_PORT") {
  Map set = {{"RANK", "5"},        {"WORLD_SIZE", "8"},      {"LOCAL_RANK", "1"},
             {"MASTER_ADDR", "a"}, {"MASTER_PORT", "29400"}, {"LOCAL_WORLD_SIZE", "4"}};
  World w = world_of(set);
  CHECK(w.rank == 5);
  CHECK(w.size == 8);
  CHECK(w.local_rank == 1);
  CHECK(w.local_size == 4);
  CHECK(w.master == "a");
  CHECK(w.port == 29400);
  set["TORCHELASTIC_RUN_ID"] = "x";
  CHECK(world_of(set).port == 29401);
  set["ROPEWALK_PORT"] = "1234";
  CHECK(world_of(set).port == 1234);
}

TEST_CASE("mpirun's variables name the rank, inside a SLURM job too") {
  const Map slurm = {{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "1"}, {"SLURM_LOCALID", "0"}};
  Map set = slurm;
  set.insert({{"OMPI_COMM_WORLD_RANK", "2"},
              {"OMPI_COMM_WORLD_SIZE", "4"},
              {"OMPI_COMM_WORLD_LOCAL_RANK", "2"},
              {"OMPI_COMM_WORLD_LOCAL_SIZE", "4"}});
  World w = world_of(set);
  CHECK(w.rank == 2);
  CHECK(w.size == 4);
  CHECK(w.local_rank == 2);
  CHECK(w.master == "127.0.0.1");
  set = slurm;
  set.insert({{"PMI_RANK", "1"}, {"PMI_SIZE", "2"}});
  w = world_of(set);
  CHECK(w.rank == 1);
  CHECK(w.size == 2);
  CHECK(w.local_rank == -1);
}

TEST_CASE("srun's variables name the rank, the first node is rank 0's and the port comes from the job") {
  const World w = world_of({{"SLURM_PROCID", "3"},
                            {"SLURM_NTASKS", "4"},
                            {"SLURM_LOCALID", "1"},
                            {"SLURM_JOB_ID", "1234567"},
                            {"SLURM_NODELIST", "gpu[07-08]"}});
  CHECK(w.rank == 3);
  CHECK(w.size == 4);
  CHECK(w.local_rank == 1);
  CHECK(w.master == "gpu07");
  CHECK(w.port == 24567);
}

TEST_CASE("the first host of a node list") {
  CHECK(first_host("n1") == "n1");
  CHECK(first_host("n1,n2") == "n1");
  CHECK(first_host("gpu[03-05,9],login1") == "gpu03");
  CHECK(first_host("rack[2,4]-node,b") == "rack2-node");
  CHECK(first_host("a,gpu[1-2]") == "a");
  CHECK_THROWS_AS(first_host(""), Error);
  CHECK_THROWS_AS(first_host("gpu[1-2"), Error);
}

TEST_CASE("variables that do not fit are refused by name") {
  CHECK(has(error_of({{"RANK", "0"}}), "WORLD_SIZE"));
  CHECK(has(error_of({{"WORLD_SIZE", "2"}}), "WORLD_SIZE"));
  CHECK(has(error_of({{"RANK", "2"}, {"WORLD_SIZE", "2"}}), "RANK must be a number from 0 to 1, got '2'"));
  CHECK(has(error_of({{"RANK", "one"}, {"WORLD_SIZE", "2"}}), "got 'one'"));
  CHECK(has(error_of({{"RANK", "0"}, {"WORLD_SIZE", "0"}}), "WORLD_SIZE"));
  CHECK(has(error_of({{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"MASTER_PORT", "99999"}}), "MASTER_PORT"));
  CHECK(has(error_of({{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"LOCAL_RANK", "1"}, {"LOCAL_WORLD_SIZE", "1"}}), "local"));
  // Ranks elsewhere cannot find rank 0 at 127.0.0.1.
  CHECK(
      has(error_of({{"OMPI_COMM_WORLD_RANK", "0"}, {"OMPI_COMM_WORLD_SIZE", "4"}, {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"}}),
          "MASTER_ADDR"));
}
