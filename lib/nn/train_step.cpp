#include "nn/train_step.h"

#include <cmath>
#include <cstring>

#include "autograd/tape.h"
#include "nn/cuda_graph.h"
#include "tensor/cuda.h"

namespace rw {

/// Device copies of the inputs, the recorded work, and the way back for results.
class TrainStep::Gpu {
 public:
  static constexpr int kResults = 8;
  Gpu(bool use_graph, Device where)
      : graph(use_graph),
        device(where),
        nll(Tensor::zeros({1}, DType::f64, where)),
        results(cuda::make_staging(2 * sizeof(double), kResults)) {}

  /// Sends the input through pinned memory. True if it has the shape of the last one.
  bool upload(const StepInput& in, const RopeTable& table) {
    const Tensor frequencies = table.inv_freq.value().to(kCpu).to(DType::f64);
    const bool same = ids.defined() && ids.shape() == in.ids.shape() && positions.shape() == in.positions.shape() &&
                      inv_freq.shape() == frequencies.shape() && scale == table.attention_scale &&
                      weights.defined() == in.weights.defined();
    if (!same) {
      const MemoryTag tag("input");
      recorded.reset();
      ids = Tensor::empty(in.ids.shape(), DType::i32, device);
      targets = Tensor::empty(in.ids.shape(), DType::i32, device);
      weights = in.weights.defined() ? Tensor::empty(in.ids.shape(), DType::f32, device) : Tensor();
      positions = Tensor::empty(in.positions.shape(), DType::f32, device);
      inv_freq = Tensor::empty(frequencies.shape(), DType::f64, device);
      scale = table.attention_scale;
      inputs = cuda::make_staging(3 * ids.bytes() + positions.bytes() + inv_freq.bytes() + 80, 3);
    }
    int slot = 0;
    char* host = static_cast<char*>(inputs->next(slot));
    int64_t offset = 0;
    const auto send = [&](const Tensor& from, const Tensor& to) {
      std::memcpy(host + offset, from.raw(), static_cast<size_t>(to.bytes()));
      inputs->to_device(slot, offset, to);
      offset += (to.bytes() + 15) / 16 * 16;
    };
    send(in.ids, ids);
    send(in.targets, targets);
    if (weights.defined()) send(in.weights, weights);
    send(in.positions, positions);
    send(frequencies, inv_freq);
    inputs->mark(slot);
    return same;
  }

  bool graph;
  Device device;
  Tensor ids, targets, weights, positions, inv_freq;  // on the device; weights may be undefined
  double scale = 0;
  Tensor nll;  // f64 [1]: of all micro-batches since the last update
  std::unique_ptr<cuda::Staging> inputs, results;
  std::unique_ptr<cuda::RecordedWork> recorded;
};

TrainStep::TrainStep(Llama& model, AdamW& optimizer, bool graph) : model_(model), optimizer_(optimizer) {
  if (model.device().is_cuda()) gpu_ = std::make_unique<Gpu>(graph, model.device());
}
TrainStep::~TrainStep() = default;

void TrainStep::add(const StepInput& in) {
  check(in.ids.defined() && in.ids.rank() == 2 && in.ids.dtype() == DType::i32, "train_step", "ids must be i32 [B, T]");
  check_shape("train_step", "targets", in.targets, in.ids.shape());
  check(in.positions.rank() == 2 && in.positions.size(1) == in.ids.size(1), "train_step",
        "positions must be f32 [B, T], got ", in.positions.shape(), " for ids ", in.ids.shape());
  if (in.weights.defined()) check_shape("train_step", "weights", in.weights, in.ids.shape());
  weight_ += in.weight > 0 ? in.weight : static_cast<double>(in.scored);
  replayed_ = false;
  const bool learned = !in.t.empty() || !model_.scaling().parameter_specs().empty();
  if (!gpu_ || learned || !model_.scaling().query_scale(0, 1).empty()) {
    const RopeAngles angles = model_.angles(in.positions, in.context, in.t);
    const Var loss = model_.loss(in.ids.to(model_.device()), in.targets.to(model_.device()), angles,
                                 in.weights.defined() ? in.weights.to(model_.device()) : Tensor());
    backward(loss);
    if (gpu_) {
      cuda::accumulate(gpu_->nll.raw(), DType::f64, loss.value().raw(), loss.dtype(), 1);
    } else {
      nll_ += loss.item();
    }
    return;
  }
  Gpu& g = *gpu_;
  RopeContext context = in.context;
  if (context.length == 0) context.length = in.ids.size(1);
  const bool same = g.upload(in, model_.scaling().table(context));
  const auto work = [&] {
    const RopeAngles angles = rope_angles(g.positions, Var(g.inv_freq), g.scale, model_.dtype(), g.device);
    const Var loss = model_.loss(g.ids, g.targets, angles, g.weights);
    backward(loss);
    cuda::accumulate(g.nll.raw(), DType::f64, loss.value().raw(), loss.dtype(), 1);
  };
  if (!g.graph || !same) return work();  // the first of a shape: fills the memory pool and chooses products
  if (!g.recorded) g.recorded = cuda::record_work(g.device, work);
  g.recorded->replay();
  replayed_ = true;
}

void TrainStep::update(double lr, double clip) {
  check(weight_ > 0, "train_step", "update() without a scored token");
  Pending p;
  p.scale = 1 / weight_;
  if (gpu_) {
    check(pending() < Gpu::kResults, "train_step", "ask for result(): ", pending(), " are waiting");
    const Tensor square = optimizer_.enqueue(lr, p.scale, clip);
    gpu_->results->next(p.slot);
    gpu_->results->from_device(p.slot, 0, gpu_->nll);
    gpu_->results->from_device(p.slot, sizeof(double), square);
    gpu_->results->mark(p.slot);
    gpu_->nll.zero();
  } else {
    p.nll = nll_;
    p.norm = optimizer_.step(lr, p.scale, clip);
  }
  nll_ = 0;
  weight_ = 0;
  results_.push_back(p);
}

StepResult TrainStep::result() {
  check(!results_.empty(), "train_step", "result() without an update()");
  Pending p = results_.front();
  results_.pop_front();
  if (gpu_) {
    const double* values = static_cast<const double*>(gpu_->results->wait(p.slot));
    p.nll = values[0];
    p.norm = std::sqrt(values[1]) * p.scale;
  }
  return {p.nll * p.scale, p.norm};
}

}  // namespace rw
