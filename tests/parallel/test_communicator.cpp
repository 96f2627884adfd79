// Sums and copies between ranks over TCP, and what the others see when a rank dies.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cmath>

#include "parallel/ranks.h"
#include "tensor/random.h"

using namespace rw;

namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

std::vector<float> values_of(int rank, int64_t n) {
  Random random(3, Purpose::test, static_cast<uint64_t>(rank));
  std::vector<float> v(static_cast<size_t>(n));
  for (float& x : v) x = static_cast<float>(random.normal() * std::exp(4 * random.normal()));
  return v;
}

/// A process that joins as `rank`, says 1, and then does `f`.
pid_t spawn(const World& world, const std::function<void(Communicator&)>& f) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    try {
      Communicator comm(world, {});
      comm.barrier();
      f(comm);
    } catch (...) {
    }
    ::_exit(0);
  }
  return pid;
}

struct Loss {
  std::string message;
  double seconds = 0;
};
/// What rank 0 of 2 sees of a rank 1 that does `f` after the first barrier.
Loss loss_of(const std::function<void(Communicator&)>& f, MeshOptions options = {}) {
  const int port = test::free_port();
  const pid_t pid = spawn(test::world(1, 2, port), f);
  Loss loss;
  {
    Communicator comm(test::world(0, 2, port), options);
    std::string heard;
    std::atomic<bool> called{false};
    comm.on_lost([&](const std::string& why) {
      heard = why;
      called = true;
    });
    comm.barrier();
    const double start = now();
    try {
      for (;;) comm.barrier();
    } catch (const RankLost& e) {
      loss.message = e.what();
    }
    loss.seconds = now() - start;
    for (int i = 0; i < 100 && !called; ++i) ::usleep(10000);
    CHECK(heard == loss.message);
    CHECK_THROWS_AS(comm.check_alive(), RankLost);
    CHECK_THROWS_AS(comm.close(), RankLost);
  }
  ::kill(pid, SIGKILL);
  ::waitpid(pid, nullptr, 0);
  return loss;
}

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("sums are added in the order of ranks, to the bit") {
  const int64_t n = 700'001;  // several chunks, the last one odd
  for (const int size : {2, 3, 5}) {
    std::vector<float> want = values_of(0, n);
    for (int r = 1; r < size; ++r) {
      const std::vector<float> more = values_of(r, n);
      for (size_t i = 0; i < want.size(); ++i) want[i] += more[i];
    }
    std::vector<int> right(static_cast<size_t>(size));
    test::run_ranks(size, [&](Communicator& comm) {
      const int r = comm.rank();
      const Tensor all = Tensor::from(values_of(r, n)), one = all.clone();
      comm.all_reduce(all);
      comm.reduce(one, size - 1);
      const auto same = [&](const Tensor& t, const std::vector<float>& v) {
        return std::memcmp(t.raw(), v.data(), v.size() * sizeof(float)) == 0;
      };
      right[static_cast<size_t>(r)] = same(all, want) && same(one, r == size - 1 ? want : values_of(r, n));
    });
    for (const int ok : right) CHECK(ok);
  }
}

TEST_CASE("broadcasts, gathers and host values reach every rank") {
  const int size = 4;
  std::vector<std::string> wrong(size);
  test::run_ranks(size, [&](Communicator& comm) {
    const int r = comm.rank();
    std::string& complaint = wrong[static_cast<size_t>(r)];
    const Tensor t = Tensor::full({5}, r, DType::f64);
    comm.broadcast(t, 2);
    if (t.to_vector() != std::vector<double>(5, 2.0)) complaint += " broadcast";
    const Tensor parts = Tensor::zeros({12}, DType::bf16);
    parts.slice(3 * r, 3 * r + 3).fill(r + 1);
    comm.all_gather(parts);
    if (parts.to_vector() != std::vector<double>{1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4}) complaint += " all_gather";
    const auto all = comm.gather({r * 1.5, -1});
    for (int i = 0; i < size; ++i) {
      if (all[static_cast<size_t>(i)] != std::vector<double>{i * 1.5, -1}) complaint += " gather";
    }
    if (comm.broadcast(r + 7.0) != 7) complaint += " broadcast of a value";
    const std::vector<int64_t> sizes = {1, 0, 2, 3};
    const Tensor whole = r == 0 ? Tensor::zeros({6}) : Tensor();
    comm.gather_to_root(Tensor::full({sizes[static_cast<size_t>(r)]}, r), whole, sizes);
    if (r == 0 && whole.to_vector() != std::vector<double>{0, 2, 2, 3, 3, 3}) complaint += " gather_to_root";
    if (comm.world().local_rank != r || comm.world().local_size != size) complaint += " place on the host";
  });
  for (const std::string& complaint : wrong) CHECK(complaint == "");
}

TEST_CASE("a killed rank is named within a second") {
  const Loss loss = loss_of([](Communicator&) { ::raise(SIGKILL); });
  CAPTURE(loss.message);
  CHECK(has(loss.message, "rank 1 of 2 is gone (127.0.0.1:"));
  CHECK(loss.seconds < 3);
}

TEST_CASE("a rank that fails tells the others so") {
  const Loss loss = loss_of([](Communicator&) { fail("test", "bad input"); });
  CHECK(has(loss.message, "rank 1 of 2 ended with an error"));
  CHECK(loss.seconds < 3);
}

TEST_CASE("a rank that falls silent is lost after the time set") {
  const Loss loss = loss_of([](Communicator&) { ::raise(SIGSTOP); }, {.silence_seconds = 1});
  CHECK(has(loss.message, "rank 1 of 2 has been silent for 1 s"));
  CHECK(loss.seconds > 0.5);
  CHECK(loss.seconds < 4);
}

TEST_CASE("ranks that have nothing to do with the dead one hear of it through rank 0") {
  const int port = test::free_port();
  const pid_t pid = spawn(test::world(2, 3, port), [](Communicator&) { ::raise(SIGKILL); });
  std::string messages[2];
  std::thread others[2];
  for (int r = 0; r < 2; ++r) {
    others[r] = std::thread([&, r] {
      Communicator comm(test::world(r, 3, port), {});
      comm.barrier();
      const double start = now();
      while (now() - start < 5) {
        try {
          comm.check_alive();
        } catch (const RankLost& e) {
          messages[r] = e.what();
          break;
        }
        ::usleep(5000);
      }
    });
  }
  for (std::thread& t : others) t.join();
  ::waitpid(pid, nullptr, 0);
  CHECK(has(messages[0], "rank 2 of 3 is gone"));
  CHECK(has(messages[1], "rank 2 of 3 is gone"));
}

TEST_CASE("a rank that does not come is named, and so is a rank 0 that does not listen") {
  const std::string alone =
      test::error_of([] { Communicator comm(test::world(0, 3, test::free_port()), {.connect_seconds = 0.3}); });
  CHECK(has(alone, "rank 1, 2 of 3 did not come"));
  const std::string lost =
      test::error_of([] { Communicator comm(test::world(1, 2, test::free_port()), {.connect_seconds = 0.3}); });
  CHECK(has(lost, "rank 0 did not listen"));
}

TEST_CASE("two runs on one port are told apart") {
  const int port = test::free_port();
  std::string root, other;
  std::thread a([&] { root = test::error_of([&] { Communicator(test::world(0, 2, port), {.connect_seconds = 2}); }); });
  std::thread b(
      [&] { other = test::error_of([&] { Communicator(test::world(1, 4, port), {.connect_seconds = 5}); }); });
  a.join();
  b.join();
  CHECK(has(root, "rank 1 of 2 did not come"));
  CHECK(has(root, "refused: rank 1 of 4 from 127.0.0.1"));
  CHECK(has(other, "refused rank 1: its run does not have 4 ranks; two runs on one port?"));
}
