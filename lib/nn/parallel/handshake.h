// How two ranks make sure of each other on a new connection. Internal to nn/parallel.
//
//   the one that comes                          the one that listens
//   Hello: who I am, whom I want, a nonce  ->
//                                          <-   a nonce
//   HMAC(secret, "comes" hello nonce)      ->
//                                          <-   a verdict, HMAC(secret, "listens" hello nonce verdict)
//
// Both hash both nonces, so that nothing that was heard before is of use again. Who does not know the secret learns
// nothing from the one that listens, and is refused. Without a secret the same messages travel with an empty one: they
// then only tell ranks from strangers. What is sent later is neither encrypted nor signed.
#pragma once
#include <functional>
#include <list>
#include <map>
#include <string>

#include "nn/parallel/socket.h"

namespace rw::net {

enum class Purpose : int32_t { watch = 1, data = 2 };

struct Hello {  // as it travels
  char magic[8];
  int32_t rank, size, to, purpose;  // `to`: the rank that is wanted
  uint64_t host;
  int32_t port, reserved;
  uint8_t nonce[16];
};
static_assert(sizeof(Hello) == 56);
/// With magic and a fresh nonce.
Hello make_hello(int rank, int size, int to, Purpose purpose);

enum class Verdict : int32_t { welcome = 0, wrong_secret = 1, wrong_size = 2, rank_taken = 3, not_expected = 4 };

/// Connects as `hello` says. Tries again until somebody answers there as a rank does; a closed Socket at the deadline.
/// Errors: refused, with the reason; the other end does not know the secret.
Socket knock(Address address, int port, const Hello& hello, const std::string& secret, Deadline deadline);

/// Hears any number of connections at once on one port. Each has a few seconds to say who it is and to show that it
/// knows the secret. None waits for another. Garbage and silence are dropped.
class Door {
 public:
  /// `judge` is asked about every rank that knows the secret.
  Door(const Listener& listener, std::string secret, std::function<Verdict(const Hello&)> judge);

  struct Guest {
    Socket socket;
    Hello hello;
  };
  /// The next rank that was welcomed; a closed Socket at the deadline.
  Guest next(Deadline deadline);
  /// Who was refused, and why: "rank 1 from 10.0.0.7 without the right secret"; "" if nobody was.
  std::string refused() const;

 private:
  struct Visitor {
    Socket socket;
    Deadline until;
    Hello hello{};
    uint8_t nonce[16]{};
    std::string heard;  // of the message that is not whole yet
    bool has_hello = false;
  };
  enum class Progress { waits, gone, welcome };
  void let_in();
  Progress hear(Visitor& visitor);
  Verdict check_proof(const Visitor& visitor);

  const Listener& listener_;
  std::string secret_;
  std::function<Verdict(const Hello&)> judge_;
  std::list<Visitor> visitors_;          // the oldest first
  std::map<std::string, int> refusals_;  // what was said, and how often
};

}  // namespace rw::net
