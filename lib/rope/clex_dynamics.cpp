// The right-hand side of CLEX and its products with a vector (METHODS 4.5):
//
//   x = z + ln theta_NTK,   p = x U,   s = act(p),   f = s W + xi
//   r = act'(p) * (W a),    a^T df/dz = U r,   a^T df/dU = x r^T,   a^T df/dW = s a^T
#define EIGEN_DONT_PARALLELIZE  // the products are too small
#include <Eigen/Core>
#include <algorithm>
#include <cmath>

#include "rope/clex.h"

namespace rw {
namespace {

template <class T>
using Vector = Eigen::Map<Eigen::Array<T, Eigen::Dynamic, 1>>;
template <class T>
using AlignedVector = Eigen::Map<Eigen::Array<T, Eigen::Dynamic, 1>, Eigen::AlignedMax>;
template <class T>
using ConstVector = Eigen::Map<const Eigen::Matrix<T, Eigen::Dynamic, 1>>;
/// Columns are the rows of what is stored.
template <class T>
using Columns = Eigen::Map<Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic>>;
template <class T>
using ConstColumns = Eigen::Map<const Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic>>;

template <class T>
std::vector<T> transposed(const std::vector<T>& m, int64_t rows, int64_t columns) {
  std::vector<T> t(m.size());
  Columns<T>(t.data(), rows, columns) = ConstColumns<T>(m.data(), columns, rows).transpose();
  return t;
}

/// to [columns] += x [rows] m [rows, columns]. Along rows of m: every sum is in
/// order, and vectors of them stay in registers.
template <class T>
void add_product(const T* x, const std::vector<T>& m, int64_t rows, int64_t columns, T* to) {
  Vector<T>(to, columns).matrix().noalias() += ConstColumns<T>(m.data(), columns, rows) * ConstVector<T>(x, rows);
}

/// p -> act(p) in place, and slope = act'(p). By way of an aligned buffer: Eigen computes exp and tanh of what stands before
/// the first aligned address by another formula, and the bits would depend on where `p` lies.
template <class T>
void activate(bool silu, int64_t count, T* p, T* slope) {
  constexpr int64_t kBlock = 64;
  alignas(64) T values[kBlock], slopes[kBlock];
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t n = std::min(kBlock, count - begin);
    std::copy_n(p + begin, n, values);
    AlignedVector<T> s(values, n), d(slopes, n);
    if (silu) {  // with s = p sigmoid(p): s' = sigmoid + s (1 - sigmoid)
      d = (T(1) + (-s).exp()).inverse();
      s *= d;
      d += s * (T(1) - d);
    } else {
      s = s.tanh();
      d = T(1) - s.square();
    }
    std::copy_n(values, n, p + begin);
    std::copy_n(slopes, n, slope + begin);
  }
}

}  // namespace

template <class T>
ClexDynamics<T>::ClexDynamics(int64_t rotary_dim, double base, const ClexRope& record, const std::vector<T>& up,
                              const std::vector<T>& down)
    : pairs_(rotary_dim / 2),
      hidden_(pairs_ > 0 ? static_cast<int64_t>(up.size()) / pairs_ : 0),
      silu_(record.act == ClexAct::silu),
      paper_prior_(record.prior == ClexPrior::paper),
      ntk_input_(record.ntk_input),
      up_(up),
      down_(down) {
  check(rotary_dim > 2 && rotary_dim % 2 == 0, "clex", "the rotary dimension must be even and above 2, got ",
        rotary_dim);
  check(up.size() == down.size() && !up.empty() && static_cast<int64_t>(up.size()) == hidden_ * pairs_, "clex",
        "up and down need the same multiple of ", pairs_, " numbers, got ", up.size(), " and ", down.size());
  up_t_ = transposed(up_, pairs_, hidden_);
  down_t_ = transposed(down_, hidden_, pairs_);
  const double d = static_cast<double>(rotary_dim);
  const double log_base = std::log(record.input_base > 0 ? record.input_base : base);
  for (int64_t i = 0; i < pairs_; ++i) {
    const double twice = 2 * static_cast<double>(i);
    log_base_.push_back(static_cast<T>(-(twice / d) * log_base));
    slope_.push_back(static_cast<T>(twice / (d - 2)));
  }
  record_.resize(static_cast<size_t>(record_size()));
  back_.resize(static_cast<size_t>(hidden_));
}

template <class T>
void ClexDynamics<T>::hidden_layer(double t, const T* z, T* record) const {
  const T s = static_cast<T>(t < 1 ? 1.0 : paper_prior_ ? t : 2 * t - 1);
  const T log_s = std::log(s);
  for (int64_t i = 0; i < pairs_; ++i) {
    const auto at = static_cast<size_t>(i);
    record[i] = ntk_input_ ? z[i] + (log_base_[at] - slope_[at] * log_s) : z[i];
  }
  T* const active = record + pairs_;
  std::fill_n(active, hidden_, T(0));
  add_product(record, up_, pairs_, hidden_, active);
  activate(silu_, hidden_, active, active + hidden_);
}

template <class T>
void ClexDynamics<T>::output_layer(double t, const T* record, T* dz) const {
  // xi = -slope s'(t) / s(t); below t = 1 the published code keeps s = 1 and the factor s' = 2
  const T rate = static_cast<T>(paper_prior_ ? 1 / std::max(1.0, t) : 2 / (t < 1 ? 1.0 : 2 * t - 1));
  for (size_t i = 0; i < slope_.size(); ++i) dz[i] = -slope_[i] * rate;
  add_product(record + pairs_, down_, hidden_, pairs_, dz);
}

template <class T>
void ClexDynamics<T>::f_recorded(double t, const T* z, T* dz, T* record) const {
  hidden_layer(t, z, record);
  output_layer(t, record, dz);
}

template <class T>
void ClexDynamics<T>::vjp_recorded(const T* a, T* a_dfdz, T* record) const {
  std::fill(back_.begin(), back_.end(), T(0));
  add_product(a, down_t_, pairs_, hidden_, back_.data());
  T* r = record + pairs_ + hidden_;
  for (size_t j = 0; j < back_.size(); ++j) r[j] *= back_[j];
  std::fill(a_dfdz, a_dfdz + pairs_, T(0));
  add_product(r, up_t_, hidden_, pairs_, a_dfdz);
}

/// Two products of matrices, whose inner dimension is the evaluations.
template <class T>
void ClexDynamics<T>::vjp_of_parameters(int64_t count, const T* records, const T* a, T* a_dfdp) const {
  const ConstColumns<T> record(records, record_size(), count), seeds(a, pairs_, count);
  const auto x = record.topRows(pairs_), active = record.middleRows(pairs_, hidden_), r = record.bottomRows(hidden_);
  Columns<T>(a_dfdp, hidden_, pairs_).noalias() += r * x.transpose();
  Columns<T>(a_dfdp + pairs_ * hidden_, pairs_, hidden_).noalias() += seeds * active.transpose();
}

template <class T>
void ClexDynamics<T>::f(double t, const T* z, T* dz) const {
  f_recorded(t, z, dz, record_.data());
}

template <class T>
void ClexDynamics<T>::vjp(double t, const T* z, const T* a, T* a_dfdz, T* a_dfdp) const {
  hidden_layer(t, z, record_.data());
  vjp_recorded(a, a_dfdz, record_.data());
  vjp_of_parameters(1, record_.data(), a, a_dfdp);
}

template <class T>
void ClexDynamics<T>::f_and_vjp(double t, const T* z, const T* a, T* dz, T* a_dfdz, T* a_dfdp) const {
  f_recorded(t, z, dz, record_.data());
  vjp_recorded(a, a_dfdz, record_.data());
  vjp_of_parameters(1, record_.data(), a, a_dfdp);
}

template class ClexDynamics<float>;
template class ClexDynamics<double>;

}  // namespace rw
