"""PyTorch's attention at the shapes of attention_bench: TFLOP/s, causal bf16, median of 21. FLOPs as there."""
import statistics
import sys

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

ROWS = [(64, 32, 32, 1024), (64, 32, 32, 4096), (64, 32, 32, 8192), (64, 32, 32, 16384), (64, 32, 32, 32768),
        (128, 16, 16, 1024), (128, 16, 16, 2048), (128, 16, 16, 4096), (128, 16, 16, 8192), (128, 16, 16, 16384),
        (128, 16, 16, 32768), (128, 32, 8, 4096), (128, 32, 8, 8192), (128, 32, 8, 16384), (128, 32, 8, 32768),
        (64, 32, 4, 2048), (64, 12, 12, 8192), (64, 12, 12, 1024), (128, 4, 4, 2048), (48, 6, 6, 256)]


def median_ms(f, repeats=21):
    for _ in range(3):
        f()
    times = []
    for _ in range(repeats):
        a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        a.record()
        f()
        b.record()
        b.synchronize()
        times.append(a.elapsed_time(b))
    return statistics.median(times)


for name, backend in (("flash", SDPBackend.FLASH_ATTENTION), ("cudnn", SDPBackend.CUDNN_ATTENTION)):
    if len(sys.argv) > 1 and name not in sys.argv[1:]:
        continue
    print(f"PyTorch {name}\n{'hd, heads/kv, T':24s} {'B':>4s} {'fwd':>8s} {'bwd':>8s} {'fwd+bwd':>8s}")
    for d, h, k, t in ROWS:
        b = 1 if h == 4 else max(32768 // t, 1)  # few heads: one sample
        q = torch.randn(b, t, h, d, device="cuda", dtype=torch.bfloat16).transpose(1, 2).requires_grad_()
        kk, v = (torch.randn(b, t, k, d, device="cuda", dtype=torch.bfloat16).transpose(1, 2).requires_grad_() for _ in range(2))
        g = torch.randn(b, t, h, d, device="cuda", dtype=torch.bfloat16).transpose(1, 2)
        run = lambda: F.scaled_dot_product_attention(q, kk, v, is_causal=True, enable_gqa=h != k)
        try:
            with sdpa_kernel(backend):
                with torch.no_grad():
                    fwd = median_ms(run)
                o = run()
                bwd = median_ms(lambda: torch.autograd.grad(o, (q, kk, v), g, retain_graph=True))
                both = median_ms(lambda: torch.autograd.grad(run(), (q, kk, v), g))
        except RuntimeError as e:
            print(f"{d}, {h}/{k}, {t}: {str(e).splitlines()[0]}")
            continue
        flops = 2.0 * b * h * t * t * d
        print(f"{f'{d}, {h}/{k}, {t}':24s} {b:4d} {flops / fwd * 1e-9:8.1f} {2.5 * flops / bwd * 1e-9:8.1f} {3.5 * flops / both * 1e-9:8.1f}", flush=True)
