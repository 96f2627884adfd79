// The memory of a training step by formulas.
#include "nn/memory_plan.h"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <tuple>

#include "autograd/ops/loss.h"
#include "nn/causal_lm.h"
#include "nn/host_state.h"

namespace rw {
namespace {

constexpr const char* kOp = "memory";

/// A linear layer, as the tape sees it.
struct Layer {
  bool keeps_x = false;      // for the gradient of its weight or of its adapter
  int64_t adapter_rows = 0;  // P r: width of the adapter's inner product
};

/// The sizes that the formulas speak of.
struct Sizes {
  int64_t rows, e, stat, layers;    // M = B T; bytes of a value; of a norm's or a row's statistic
  int64_t c, q, o, f, g, heads, v;  // C; (H+2K) D; H D; F; 2 with a gate, else 1; H; V
  Layer qkv, out, up, down;         // of one block
  bool whole_weights = true;        // everything is trained
  bool embeddings = true;           // the embedding is trained
  bool first_norm = true;           // the first norm is trained, or what it reads
  bool dropout = false;
  int64_t whole_weight = 0;  // bytes of the largest weight that is kept in blocks
  int64_t chunk = 0, pairs = 0;

  /// Of a row: what attention gives, and its statistics.
  int64_t attention_output() const { return e * o + stat * heads; }
};

class Plan {
 public:
  void add(const std::string& name, const std::string& formula, int64_t bytes) {
    if (bytes > 0) terms.push_back({name, formula, bytes});
  }
  int64_t sum() const {
    int64_t s = 0;
    for (const MemoryTerm& t : terms) s += t.bytes;
    return s;
  }
  std::vector<MemoryTerm> terms;
};

/// What is there all the time, on the device and beside it.
struct Places {
  Plan device, host;
  bool cuda = false;
  Plan& beside() { return cuda ? host : device; }  // the CPU has one memory
};

/// `again`: its input is recomputed for the gradient of its weight.
Layer layer_of(const Linear& linear, const ModelConfig& c, bool again) {
  Layer l;
  l.keeps_x = (!c.adapter && !again) || linear.has_adapter();
  if (c.adapter) l.adapter_rows = static_cast<int64_t>(linear.adapted_parts().size()) * c.adapter->rank;
  return l;
}

Sizes sizes_of(const MemoryTask& task, const CausalLm& declared) {
  const ModelConfig& c = declared.config();
  const Block& block = declared.blocks().at(0);
  Sizes s{};
  s.rows = task.batch * task.length;
  s.e = size_of(task.compute);
  s.stat = task.compute == DType::f64 ? 8 : 4;
  s.layers = c.num_hidden_layers;
  s.c = c.hidden_size;
  s.q = (c.num_attention_heads + 2 * c.num_key_value_heads) * c.head_dim;
  s.o = c.num_attention_heads * c.head_dim;
  s.f = c.intermediate_size;
  s.g = c.block.gated ? 2 : 1;
  s.heads = c.num_attention_heads;
  s.v = c.vocab_size;
  const bool again = task.choice.recompute_inputs, norms = again && c.block.norm == NormKind::rms;
  s.qkv = layer_of(block.attention().qkv(), c, norms);
  s.out = layer_of(block.attention().output(), c, false);
  s.up = layer_of(block.mlp().up(), c, norms);
  s.down = layer_of(block.mlp().down(), c, again);
  s.whole_weights = !c.adapter;
  s.embeddings = !c.adapter || c.adapter->embeddings;
  s.first_norm = s.embeddings || (c.adapter && c.adapter->norms);
  s.dropout = c.adapter && c.adapter->dropout > 0;
  for (const Linear* l :
       {&block.attention().qkv(), &block.attention().output(), &block.mlp().up(), &block.mlp().down()})
    if (l->in_blocks()) s.whole_weight = std::max(s.whole_weight, s.e * l->rows() * l->inputs());
  s.chunk = std::min(s.rows, loss_chunk_rows(s.v, task.compute, task.cuda));
  s.pairs = c.head_dim / 2;
  return s;
}

/// Of the flat tensors (trained, padding included), of what is frozen, and of frozen matrices in blocks.
struct Counts {
  int64_t trained = 0, frozen = 0, blocks = 0;  // elements, elements, bytes
};
Counts counts_of(const CausalLm& declared) {
  Counts c;
  for (const ParamArena::Segment& s : declared.arena().segments()) {
    if (s.format) {
      const BlockMatrix m{.format = *s.format, .rows = s.spec.shape[0], .columns = s.spec.shape[1]};
      c.blocks += m.bytes();
      continue;
    }
    int64_t& n = s.trainable || s.reads_master ? c.trained : c.frozen;
    if (!s.joined) n = (n + 63) / 64 * 64;
    n += s.numel;
  }
  return c;
}

/// Weights, gradients, moments: what is there all the time.
void add_parameters(const MemoryTask& task, const CausalLm& declared, Places& places) {
  const auto [trained, frozen, blocks] = counts_of(declared);
  const bool half = task.compute == DType::bf16, split = task.arena.split_master, host = task.choice.offload_optimizer;
  const int64_t master = task.compute == DType::f64 ? 8 : 4, e = size_of(task.compute);
  const int64_t gradient = task.arena.bf16_gradients ? 2 : master;
  Plan &device = places.device, &state = host ? places.beside() : device;
  if (host) device.add("weights that are trained", cat(e, " N"), trained * e);
  else
    device.add("weights that are trained",
               half ? (split ? "4 N (split masters)" : "6 N (f32 master, bf16 copy)") : cat(master, " N"),
               trained * (half && !split ? 6 : master));
  device.add("gradients", cat(gradient, " N"), trained * gradient);
  if (task.arena.moments == MomentFormat::int8)
    state.add("AdamW's moments", "2 N + 8 N / 64", trained * 2 + (trained + 63) / 64 * 8);
  else {
    const int64_t each = task.arena.moments == MomentFormat::bf16 ? 2 : master;
    state.add("AdamW's moments", cat(2 * each, " N"), trained * 2 * each);
  }
  if (host) {
    state.add("master weights", cat(master, " N"), trained * master);
    state.add("gradients on the host", cat(gradient, " N"), trained * gradient);
    if (e != master)
      state.add("weights on their way back", "3 parts of 2^24", 3 * e * std::min(trained, HostState::kPart));
  }
  device.add("weights that are frozen", cat(e, " N_frozen"), frozen * e);
  device.add("weights in blocks", "bits of the format and scales", blocks);
}

/// Of one block, in bytes a row: what its nodes keep for backward, and of that what the MLP's inner nodes keep.
struct Kept {
  int64_t all = 0, inner = 0;
};
Kept kept_by_block(const Sizes& s, bool first, bool tiled) {
  const auto x = [&](const Layer& l, int64_t width) { return l.keeps_x ? width : 0; };
  Kept k;
  const int64_t inner = s.e * (s.g * s.f + x(s.down, s.f) + s.up.adapter_rows + s.down.adapter_rows);
  const int64_t out_x = s.dropout && s.out.adapter_rows > 0 ? s.o : 0;  // without dropout it is what attention keeps
  const bool norm_kept = !first || s.first_norm;
  k.all = s.e * ((norm_kept ? s.c : 0) + x(s.qkv, s.c) + s.q + s.o + out_x + s.c + s.qkv.adapter_rows +
                 s.out.adapter_rows) +
          s.stat * (2 + s.heads);
  if (tiled) {
    k.all += s.e * s.c;  // the MLP's input
  } else {
    k.inner = inner;
    k.all += s.e * x(s.up, s.c) + inner;
  }
  return k;
}

/// What the MLP's tile, or the MLP as a whole, takes in backward beside what is kept.
int64_t mlp_backward(const Sizes& s, int64_t tile) {
  const int64_t whole = s.e * (s.c + s.f + s.g * s.f) - (s.down.keeps_x ? s.e * s.f : 0);
  // A weight in blocks is made whole when the gradients inside the MLP are gone.
  const int64_t weight = std::max<int64_t>(0, s.whole_weight + s.rows * s.e * (s.c - s.f - s.g * s.f));
  if (tile == 0 || tile >= s.rows) return s.rows * whole + weight;
  const Kept all = kept_by_block(s, false, false), outer = kept_by_block(s, false, true);
  const int64_t inside = all.all - outer.all + s.e * s.c - (s.up.keeps_x ? s.e * s.c : 0);
  // The gradients of the tiles' inputs and of what they give, and of one tile its activations and gradients.
  return s.rows * s.e * 2 * s.c + s.whole_weight +
         tile * (inside + s.e * (s.f + s.g * s.f) - (s.down.keeps_x ? s.e * s.f : 0));
}

void add_step(const MemoryTask& task, const Sizes& s, Places& places) {
  Plan& plan = places.device;
  // ids, targets and positions of this micro-batch and of the next one, and the table of angles.
  plan.add("inputs", "2 M (4 + 4 + 4)", 2 * s.rows * 12);
  plan.add("angles", "2 T_tables D/2", 2 * s.rows * s.pairs * s.stat);
  if (task.choice.keep_attention)
    plan.add("attention's outputs of blocks", "layers M (e H D + 4 H)", s.layers * s.rows * s.attention_output());
  const bool tiled = task.choice.mlp_tile > 0 && task.choice.mlp_tile < s.rows;
  if (task.choice.recompute && task.choice.offload_activations) {
    plan.add("inputs of two blocks", "e M C 2", s.e * s.rows * s.c * std::min<int64_t>(2, s.layers));
    places.beside().add("inputs of blocks on the host", "e M C (layers - 1)", s.e * s.rows * s.c * (s.layers - 1));
    return;
  }
  if (task.choice.recompute) {
    plan.add("inputs of blocks", "e M C layers", s.e * s.rows * s.c * s.layers);
    return;
  }
  plan.add("activations of blocks",
           task.choice.recompute_inputs
               ? "layers M (e (2 C + (H+2K) D + H D + 2 F) + 4 (2 + H)), and inputs that are kept"
           : tiled ? "layers M (e (5 C + (H+2K) D + H D) + 4 (2 + H))"
                   : "layers M (e (4 C + (H+2K) D + H D + 3 F) + 4 (2 + H))",
           s.rows * (kept_by_block(s, true, tiled).all + (s.layers - 1) * kept_by_block(s, false, tiled).all));
}

Plan in_loss(const MemoryTask& task, const Sizes& s) {
  Plan plan;
  plan.add("final norm", "e M 2 C + 4 M", s.e * s.rows * 2 * s.c + s.stat * s.rows);
  plan.add("gradient of the head's input", "e M C", s.e * s.rows * s.c);
  const bool head = s.whole_weights || (s.embeddings && task.model.tie_word_embeddings);
  plan.add("gradient of the head, before it is added", "4 V C", head ? s.stat * s.v * s.c : 0);
  plan.add("logits of a tile", cat("e V ", s.chunk), s.e * s.v * s.chunk);
  plan.add("loss of each token", "4 M", s.stat * s.rows);
  return plan;
}

Plan in_backward(const MemoryTask& task, const Sizes& s) {
  Plan plan;
  const bool tiled = task.choice.mlp_tile > 0 && task.choice.mlp_tile < s.rows;
  plan.add("gradient of the stream", "e M C", s.e * s.rows * s.c);
  const int64_t kept_before = task.choice.keep_attention ? s.attention_output() : 0;
  if (task.choice.recompute)
    plan.add("one block once more",
             kept_before > 0 ? "what it keeps without recomputation beside its input and attention's output"
                             : "what it keeps without recomputation beside its input",
             s.rows * (kept_by_block(s, false, tiled).all - s.e * s.c - kept_before));
  plan.add(tiled ? "one tile of the MLP and its gradients" : "gradients inside the MLP",
           tiled ? "e M C, tile e 5 F" : "e M 2 F (3 F where down's input is not kept)",
           mlp_backward(s, tiled ? task.choice.mlp_tile : 0) - s.e * s.rows * s.c);
  if (task.cuda) plan.add("attention's statistics", "8 M H", 8 * s.rows * s.heads);
  return plan;
}

/// Of attention's backward pass in one pass (sm90_fuses in autograd/ops/attention_sm90_fused.cu).
int64_t query_sums(const MemoryTask& task, const Sizes& s) {
  const ModelConfig& c = task.model;
  const bool windowed =
      !c.layers.empty() && std::all_of(c.layers.begin(), c.layers.end(), [](const auto& l) { return l.window > 0; });
  const int64_t dim = c.head_dim;
  if (!task.cuda || task.compute != DType::bf16 || task.length < 2048 || dim > 128 || windowed) return 0;
  if (c.block.soft_cap > 0) return 0;
  return 4 * s.rows * s.heads * (dim <= 64 ? 64 : 128);
}

/// Of a recomputed block, when its MLP is done: the MLP's part is gone, and attention's gradients are there.
Plan in_attention(const MemoryTask& task, const Sizes& s) {
  Plan plan;
  plan.add("gradient of the stream", "e M C", s.e * s.rows * s.c);
  const bool kept = task.choice.keep_attention;
  plan.add(
      "one block's attention once more", kept ? "e M (C + (H+2K) D) + 4 M" : "e M (C + (H+2K) D + H D) + 4 M (1 + H)",
      s.rows *
          (s.e * ((s.qkv.keeps_x ? s.c : 0) + s.q + s.qkv.adapter_rows) + s.stat + (kept ? 0 : s.attention_output())));
  plan.add("gradients of attention's output, q, k and v", "e M (H D + (H+2K) D)", s.rows * s.e * (s.o + s.q));
  plan.add("f32 sums of q's gradient", "4 M H D, D 64 or 128", query_sums(task, s));
  if (task.cuda) plan.add("attention's statistics", "8 M H", 8 * s.rows * s.heads);
  return plan;
}

}  // namespace

bool memory_is_planned(const ModelConfig& c) { return !c.block.parallel && c.block.norm_place == NormPlace::before; }

MemoryPlan plan_memory(const MemoryTask& task) {
  check(task.batch >= 1 && task.length >= 1, kOp, "a batch of ", task.batch, " samples of ", task.length, " tokens");
  const std::unique_ptr<const CausalLm> declared = CausalLm::declare(task.model);
  check(memory_is_planned(declared->config()), kOp,
        "blocks with norms after attention and MLP, or with the two side by side, are not planned");
  check(task.choice.recompute || !(task.choice.offload_activations || task.choice.keep_attention), kOp,
        "inputs on the host and attention's outputs that are kept are those of recomputed blocks");
  const Sizes s = sizes_of(task, *declared);
  Places common{.device = {}, .host = {}, .cuda = task.cuda};
  add_parameters(task, *declared, common);
  add_step(task, s, common);
  MemoryPlan plan{.moment = "in the loss",
                  .terms = common.device.terms,
                  .host_terms = common.host.terms,
                  .host_bytes = common.host.sum()};
  Plan most = in_loss(task, s);
  const auto consider = [&](const char* moment, Plan other) {
    if (other.sum() <= most.sum()) return;
    most = std::move(other);
    plan.moment = moment;
  };
  consider("in the backward pass of the last block", in_backward(task, s));
  if (task.choice.recompute) consider("in the backward pass of the last attention", in_attention(task, s));
  plan.terms.insert(plan.terms.end(), most.terms.begin(), most.terms.end());
  for (const MemoryTerm& t : plan.terms) plan.bytes += t.bytes;
  return plan;
}

MemoryChoice choose_memory(MemoryTask task, int64_t limit, bool native, bool host) {
  const int64_t rows = task.batch * task.length;
  const MemoryChoice stated = task.choice;
  int64_t least = INT64_MAX;
  struct Kind {
    MemoryChoice choice;
    bool whole = true, tiles = true;  // without tiles, and in tiles
  };
  const Kind kinds[] = {{{}, true, false},
                        {{.recompute_inputs = true}, true, false},
                        {{}, false, true},
                        {{.recompute = true, .keep_attention = true}},
                        {{.recompute = true}},
                        {{.recompute = true, .offload_activations = true, .keep_attention = true}},
                        {{.recompute = true, .offload_activations = true}}};
  const auto choices = [&] {
    std::vector<MemoryChoice> out;
    for (const bool optimizer : {false, true}) {
      for (const Kind& kind : kinds) {
        for (const int64_t tile : {0, 16384, 4096, 1024, 256, 64}) {
          MemoryChoice choice = kind.choice;
          choice.mlp_tile = tile;
          choice.offload_optimizer = optimizer;
          if (tile >= rows || !(tile > 0 ? kind.tiles : kind.whole)) continue;
          if (!native && (tile > 0 || choice.recompute_inputs)) continue;
          const bool inputs = choice.offload_activations;
          if (stated.offload_optimizer > optimizer || stated.offload_activations > inputs) continue;
          if (!(task.cuda && host) && (optimizer > stated.offload_optimizer || inputs > stated.offload_activations))
            continue;
          out.push_back(choice);
        }
      }
    }
    // Products of few rows are slow: small tiles come after what else there is without more on the host.
    const auto place = [](const MemoryChoice& c) {
      return std::tuple{c.offload_optimizer, c.offload_activations, c.mlp_tile > 0 && c.mlp_tile < 1024};
    };
    std::stable_sort(out.begin(), out.end(), [&](const auto& a, const auto& b) { return place(a) < place(b); });
    return out;
  }();
  for (const MemoryChoice& choice : choices) {
    task.choice = choice;
    const int64_t bytes = plan_memory(task).bytes;
    if (bytes <= limit) return choice;
    least = std::min(least, bytes);
  }
  fail(kOp, "a step of ", task.batch, " x ", task.length, " tokens takes ", memory_text(least),
       " at the least, the limit is ", memory_text(limit),
       ": use a smaller --batch or --window, --small-state, --moments int8, or --lora-rank", " with --lora-base nf4");
}

MomentFormat moment_format(const std::string& name) {
  if (name == "bf16") return MomentFormat::bf16;
  if (name == "int8") return MomentFormat::int8;
  check(name == "f32", "memory_plan", "moments: expected f32, bf16 or int8, got '", name, "'");
  return MomentFormat::f32;
}

std::optional<BlockFormat> base_format(const std::string& name, bool double_scales) {
  if (name == "int8") return BlockFormat{BlockCode::int8, double_scales};
  if (name == "nf4") return BlockFormat{BlockCode::nf4, double_scales};
  check(name == "native", "memory_plan", "frozen base: expected native, int8 or nf4, got '", name, "'");
  return std::nullopt;
}

int64_t memory_size(const std::string& text) {
  double value = 0;
  const char* end = text.data() + text.size();
  const auto result = std::from_chars(text.data(), end, value);
  std::string unit(result.ptr, end);
  for (const char* tail : {"iB", "B", "b"}) {
    if (unit.size() > 1 && unit.ends_with(tail)) unit.resize(unit.size() - std::string(tail).size());
  }
  const std::string units = "KMGT";
  const size_t power = unit.empty() ? 0 : units.find(unit) == std::string::npos ? 99 : units.find(unit) + 1;
  const double bytes = value * static_cast<double>(int64_t{1} << (10 * (power > 4 ? 0 : power)));
  check(result.ec == std::errc() && power <= 4 && unit.size() <= 1 && bytes >= 1 && bytes < 9e18, kOp,
        "a size of memory is a number with K, M, G or T behind it, as 24G, got '", text.substr(0, 40), "'");
  return static_cast<int64_t>(bytes);
}

std::string memory_text(int64_t bytes) {
  char text[40];
  const auto b = static_cast<double>(bytes);
  if (bytes >= int64_t{1} << 30) std::snprintf(text, sizeof text, "%.2f GiB", b / 1073741824.0);
  else std::snprintf(text, sizeof text, "%.2f MiB", b / 1048576.0);
  return text;
}

}  // namespace rw
