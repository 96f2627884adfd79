#include "nn/train_step.h"

#include <cmath>
#include <cstring>
#include <exception>

#include "autograd/tape.h"
#include "nn/cuda_graph.h"
#include "nn/learned_frequencies.h"
#include "nn/parallel/data_parallel.h"
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
  bool upload(const StepInput& in, const RopeTable& table, const Tensor& dropout_words) {
    const Tensor frequencies = table.inv_freq.value().to(kCpu).to(DType::f64);
    const bool same = ids.defined() && ids.shape() == in.ids.shape() && positions.shape() == in.positions.shape() &&
                      inv_freq.shape() == frequencies.shape() && scale == table.attention_scale &&
                      weights.defined() == in.weights.defined() && drops == in.dropout.has_value();
    if (!same) {
      const MemoryTag tag("input");
      recorded[0].reset();
      recorded[1].reset();
      ids = Tensor::empty(in.ids.shape(), DType::i32, device);
      targets = Tensor::empty(in.ids.shape(), DType::i32, device);
      weights = in.weights.defined() ? Tensor::empty(in.ids.shape(), DType::f32, device) : Tensor();
      positions = Tensor::empty(in.positions.shape(), DType::f32, device);
      inv_freq = Tensor::empty(frequencies.shape(), DType::f64, device);
      if (learned) learned->resize(frequencies.shape());
      scale = table.attention_scale;
      drops = in.dropout.has_value();
      inputs = cuda::make_staging(3 * ids.bytes() + positions.bytes() + inv_freq.bytes() + 96, 3);
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
    if (in.dropout) send(CausalLm::words_of(*in.dropout), dropout_words);
    inputs->mark(slot);
    return same;
  }

  bool graph;
  Device device;
  Tensor ids, targets, weights, positions, inv_freq;  // on the device; weights may be undefined
  std::unique_ptr<LearnedFrequencies> learned;        // if the model has them and steps may be replayed
  bool unfinished = false;                            // their parameters lack the last micro-batch's gradient
  double scale = 0;
  bool drops = false;  // with dropout
  Tensor nll;          // f64 [1]: of all micro-batches since the last update
  std::unique_ptr<cuda::Staging> inputs, results;
  // Without and with the sums over ranks. The second one to be made works in the first one's memory.
  std::unique_ptr<cuda::RecordedWork> recorded[2];
};

TrainStep::TrainStep(CausalLm& model, AdamW& optimizer, bool graph, DataParallel* parallel)
    : model_(model), optimizer_(optimizer), parallel_(parallel) {
  if (model.device().is_cuda()) gpu_ = std::make_unique<Gpu>(graph, model.device());
  const bool learns = !model.scaling().parameter_specs().empty();
  if (gpu_ && graph && learns && !parallel) {
    gpu_->learned = std::make_unique<LearnedFrequencies>(model);
    // So the host solves for the next step while the others are updated.
    optimizer.set_early(gpu_->learned->begin(), [this] { gpu_->learned->fetch(); });
  }
  if (!parallel_) return;
  check(&parallel->arena() == &optimizer.arena(), "train_step", "the ranks share another model's arena");
  optimizer.set_norm_sum([this](const Tensor& square) {
    if (gpu_) {
      parallel_->sum({square, gpu_->nll});
    } else {
      parallel_->sum({square});
    }
  });
}
TrainStep::~TrainStep() {
  if (parallel_) optimizer_.set_norm_sum({});
  if (gpu_ && gpu_->learned) optimizer_.set_early(0, {});
}

namespace {
/// Runs `work`, a forward and backward pass, in which gradients go to `receiver` as backward leaves them: to be added
/// up over the ranks (DataParallel), or to the host (HostState).
template <class Receiver, class Work>
void with_receiver(CausalLm& model, Receiver& receiver, const Work& work) {
  receiver.start();
  model.set_gradient_hook([&](size_t first, size_t last) { receiver.ready(first, last); });
  try {
    work();
  } catch (...) {
    model.set_gradient_hook({});
    throw;
  }
  model.set_gradient_hook({});
  receiver.finish();
}

/// A pass that ends by an exception leaves nothing on the thread's tape: its markers would call what is gone by then.
class CleanTape {
 public:
  CleanTape() : exceptions_(std::uncaught_exceptions()) {}
  ~CleanTape() {
    if (std::uncaught_exceptions() > exceptions_) Tape::current().clear();
  }
  CleanTape(const CleanTape&) = delete;
  CleanTape& operator=(const CleanTape&) = delete;

 private:
  int exceptions_;
};

/// Ends the dropout of a micro-batch.
class DropoutUse {
 public:
  explicit DropoutUse(CausalLm& model) : model_(model) {}
  ~DropoutUse() { model_.set_dropout(std::nullopt); }
  DropoutUse(const DropoutUse&) = delete;
  DropoutUse& operator=(const DropoutUse&) = delete;

 private:
  CausalLm& model_;
};

/// Calls f, while it lives, once a backward pass has the whole gradient of inv_freq.
class FrequencyHook {
 public:
  FrequencyHook(CausalLm& model, std::function<void()> f) : model_(model) { model.set_frequency_hook(std::move(f)); }
  ~FrequencyHook() { model_.set_frequency_hook({}); }
  FrequencyHook(const FrequencyHook&) = delete;
  FrequencyHook& operator=(const FrequencyHook&) = delete;

 private:
  CausalLm& model_;
};
}  // namespace

/// Waits for the gradient of learned frequencies, and takes it on to their parameters while the GPU ends its replay.
void TrainStep::finish_backward() {
  if (!gpu_ || !gpu_->unfinished) return;
  gpu_->unfinished = false;
  gpu_->learned->backward();
}

void TrainStep::add(const StepInput& in, bool last) {
  check(!reduced_, "train_step", "add() after the last micro-batch of an update");
  if (parallel_) parallel_->comm().check_alive();
  check(in.ids.defined() && in.ids.rank() == 2 && in.ids.dtype() == DType::i32, "train_step", "ids must be i32 [B, T]");
  check_shape("train_step", "targets", in.targets, in.ids.shape());
  check(in.positions.rank() == 2 && in.positions.size(1) == in.ids.size(1), "train_step",
        "positions must be f32 [B, T], got ", in.positions.shape(), " for ids ", in.ids.shape());
  if (in.weights.defined()) check_shape("train_step", "weights", in.weights, in.ids.shape());
  weight_ += in.weight > 0 ? in.weight : static_cast<double>(in.scored);
  scored_ += in.scored;
  replayed_ = false;
  finish_backward();
  reduced_ = (parallel_ || optimizer_.host()) && last;
  check(in.dropout.has_value() == model_.has_dropout(), "train_step",
        model_.has_dropout() ? "the model's adapters have dropout: the input must say which masks"
                             : "the input names dropout masks of a model that has none");
  const DropoutUse dropout(model_);
  const CleanTape clean;
  forward_backward(in, reduced_);
  if (optimizer_.host() && reduced_) optimizer_.host()->set_sent();
}

void TrainStep::forward_backward(const StepInput& in, bool reduce) {
  const auto run = [&](const auto& work) {
    if (reduce && optimizer_.host()) {
      with_receiver(model_, *optimizer_.host(), work);
    } else if (reduce) {
      with_receiver(model_, *parallel_, work);
    } else {
      work();
    }
  };
  const bool learned = !in.t.empty() || !model_.scaling().parameter_specs().empty();
  const bool host_solves = gpu_ && gpu_->learned && in.context.training && !in.t.empty();
  if (!gpu_ || (learned && !host_solves) || !model_.scaling().query_scale(0, 1).empty()) {
    Var loss;
    model_.set_dropout(in.dropout);
    run([&] {
      const RopeAngles angles = model_.angles(in.positions, in.context, in.t);
      loss = model_.loss(in.ids.to(model_.device()), in.targets.to(model_.device()), angles,
                         in.weights.defined() ? in.weights.to(model_.device()) : Tensor());
      backward(loss);
    });
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
  model_.set_dropout(in.dropout, /*send=*/false);
  const bool same =
      g.upload(in, learned ? g.learned->solve(in.t, context) : model_.scaling().table(context), model_.dropout_words());
  const auto work = [&] {
    run([&] {
      const Var inv_freq = learned ? g.learned->leaf(g.inv_freq) : Var(g.inv_freq);
      const RopeAngles angles = rope_angles(g.positions, inv_freq, g.scale, model_.dtype(), g.device);
      const FrequencyHook hook(model_, learned ? [&g] { g.learned->fetch_gradient(); } : std::function<void()>());
      const Var loss = model_.loss(g.ids, g.targets, angles, g.weights);
      backward(loss);
      cuda::accumulate(g.nll.raw(), DType::f64, loss.value().raw(), loss.dtype(), 1);
    });
  };
  if (!g.graph || !same) {  // the first of a shape: fills the memory pool and chooses products
    work();
  } else {
    auto& recorded = g.recorded[reduce];
    if (!recorded) recorded = cuda::record_work(g.device, work, g.recorded[!reduce].get());
    recorded->replay();
    replayed_ = true;
  }
  g.unfinished = learned;
}

int64_t TrainStep::update(double lr, double clip) {
  finish_backward();
  if (parallel_) {
    if (!reduced_) {
      parallel_->start();
      parallel_->finish();
    }
    const double own[3] = {weight_, static_cast<double>(scored_), nll_};
    double all[3] = {};
    for (const auto& rank : parallel_->comm().gather({own, own + 3})) {
      for (size_t i = 0; i < 3; ++i) all[i] += rank[i];
    }
    weight_ = all[0];
    scored_ = static_cast<int64_t>(all[1]);
    nll_ = all[2];
  }
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
  if (parallel_) parallel_->gather_weights();
  const int64_t scored = scored_;
  nll_ = 0;
  weight_ = 0;
  scored_ = 0;
  reduced_ = false;
  results_.push_back(p);
  return scored;
}

StepResult TrainStep::result() {
  check(!results_.empty(), "train_step", "result() without an update()");
  Pending p = results_.front();
  results_.pop_front();
  if (gpu_) {
    const double* values = static_cast<const double*>(gpu_->results->wait(p.slot));
    if (parallel_) parallel_->comm().check_alive();
    p.nll = values[0];
    p.norm = std::sqrt(values[1]) * p.scale;
  }
  return {p.nll * p.scale, p.norm};
}

}  // namespace rw
