// Whether the backward pass on a GPU may add up gradients by float atomics, in the order in which blocks happen to
// come.
#pragma once

namespace rw {

/// Off at first: every backward adds in a fixed order, and a second run gives the same bits. On, these leave out the
/// pass or the waiting that the order costs: the gradients of an embedding (no sort of the ids) and dQ of attention
/// (made together with dK and dV where it took a pass of its own, or without waiting for turns). docs/kernels.md says
/// how, and what stays as it is.
///
/// The price: gradients differ in their last bits from run to run, and so, after some steps, does everything that is
/// trained; a resumed run no longer repeats an uninterrupted one. Errors against exact arithmetic are no larger.
///
/// For the whole process, from the next backward on; a recorded CUDA graph keeps what it was recorded with. The CPU
/// knows no difference. Thread safety: any thread, any time.
void set_fast_atomics(bool on);
bool fast_atomics();

}  // namespace rw
