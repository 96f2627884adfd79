#include "nn/parallel/data_parallel.h"

#include <algorithm>

namespace rw {
namespace {
constexpr int64_t kAlign = 64;  // elements, as in the arena: a part begins where a 16-byte access may
}

DataParallel::DataParallel(Communicator& comm, ParamArena& arena, int64_t bucket_bytes)
    : comm_(comm), arena_(arena), bucket_(std::max<int64_t>(1, bucket_bytes / size_of(arena.master_dtype()))) {
  check(!arena.memory().split_master && !arena.memory().bf16_gradients, "parallel",
        "split masters and bf16 gradients are for one process, expected a plain arena for ", comm.size(), " ranks");
  check(!arena.memory().host_state && arena.memory().moments == MomentFormat::f32, "parallel",
        "masters on the host and moments in few bits are for one process, expected a plain arena for ", comm.size(),
        " ranks");
  arena.settle();
  const int64_t total = arena.master().numel();
  for (const auto& other : comm.gather({static_cast<double>(total), static_cast<double>(arena.master().dtype())})) {
    check(other[0] == static_cast<double>(total) && other[1] == static_cast<double>(arena.master().dtype()), "parallel",
          "the ranks have different models: ", total, " elements here, ", other[0], " there");
  }
  part_ = total / comm.size() / kAlign * kAlign;
  for (int r = 0; r < comm.size(); ++r) begins_.push_back(r * part_);
  begins_.push_back(total);
  arena.own(begin(), end());
  share_weights();
}

void DataParallel::share_weights() {
  comm_.fork();
  comm_.broadcast(arena_.master(), 0);
  if (arena_.frozen().defined()) comm_.broadcast(arena_.frozen(), 0);
  comm_.join();
  arena_.refresh();
}

void DataParallel::start() {
  announced_ = false;
  low_ = waiting_ = high_ = arena_.grad().numel();
}

void DataParallel::ready(size_t first, size_t last) {
  const int64_t begin = arena_.offset_from(first), end = arena_.offset_from(last);
  if (!announced_) low_ = waiting_ = high_ = end;
  check(end == low_ && begin <= end, "parallel", "gradients [", begin, ", ", end, ") are announced after those from ",
        low_, " on");
  announced_ = true;
  low_ = begin;
  if (waiting_ - low_ < bucket_) return;
  comm_.fork();
  reduce(low_, waiting_);
  waiting_ = low_;
}

void DataParallel::finish() {
  comm_.fork();
  reduce(0, waiting_);
  reduce(high_, arena_.grad().numel());
  comm_.join();
  low_ = waiting_ = 0;
}

void DataParallel::reduce(int64_t from, int64_t to) {
  comm_.begin_group();
  for (int r = 0; r < comm_.size(); ++r) {
    const int64_t b = std::max(from, begins_[static_cast<size_t>(r)]),
                  e = std::min(to, begins_[static_cast<size_t>(r) + 1]);
    if (b < e) comm_.reduce(arena_.grad().slice(b, e), r);
  }
  comm_.end_group();
}

void DataParallel::sum(std::initializer_list<Tensor> values) {
  comm_.fork();
  comm_.begin_group();
  for (const Tensor& t : values) comm_.all_reduce(t);
  comm_.end_group();
  comm_.join();
}

void DataParallel::gather_weights() {
  const int64_t even = part_ * comm_.size(), total = arena_.master().numel();
  comm_.fork();
  comm_.begin_group();
  comm_.all_gather(arena_.compute().slice(0, even));
  if (even < total) comm_.broadcast(arena_.compute().slice(even, total), comm_.size() - 1);
  if (!arena_.compute().aliases(arena_.master())) {
    for (const ParamArena::Segment& s : arena_.segments()) {
      if (!s.reads_master) continue;
      for (int r = 0; r < comm_.size(); ++r) {
        const int64_t b = std::max(s.offset, begins_[static_cast<size_t>(r)]),
                      e = std::min(s.offset + s.numel, begins_[static_cast<size_t>(r) + 1]);
        if (b < e) comm_.broadcast(arena_.master().slice(b, e), r);
      }
    }
  }
  comm_.end_group();
  comm_.join();
  arena_.touch();
}

namespace {
std::vector<int64_t> lengths(const std::vector<int64_t>& begins) {
  std::vector<int64_t> n;
  for (size_t r = 0; r + 1 < begins.size(); ++r) n.push_back(begins[r + 1] - begins[r]);
  return n;
}
}  // namespace

void DataParallel::gather_master() {
  if (arena_.compute().aliases(arena_.master())) return;  // gather_weights() has done it
  comm_.gather_to_root(arena_.master().slice(begin(), end()), arena_.master(), lengths(begins_));
}

WholeMoments DataParallel::gather_moments() {
  WholeMoments all;
  for (const auto& [part, whole] : {std::pair{arena_.m(), &all.m}, std::pair{arena_.v(), &all.v}}) {
    if (comm_.root()) *whole = Tensor::empty(arena_.master().shape(), part.dtype());
    comm_.gather_to_root(part, *whole, lengths(begins_));
  }
  return all;
}

}  // namespace rw
