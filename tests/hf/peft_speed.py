#!/usr/bin/env python3
"""Tokens per second and peak memory of LoRA by PEFT and PyTorch on one GPU, at the settings of `ropewalk bench window`.

    python3 tests/hf/peft_speed.py [--checkpointing]
    ropewalk bench window --only pose --targets 131072 --batches 1 --lora-rank 8 [--recompute]

LLaMA's 7B shape with random bf16 weights, rank 8 on every linear layer, one sample of 2048 tokens whose positions PoSE
spreads over 131,072, AdamW. Needs torch with a GPU, transformers and peft.
"""
import argparse
import statistics
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

WINDOW, TARGET, VOCAB, SEED = 2048, 131072, 32000, 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpointing", action="store_true", help="recompute every block in backward")
    parser.add_argument("--steps", type=int, default=10)
    o = parser.parse_args()
    torch.manual_seed(SEED)
    config = LlamaConfig(hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, intermediate_size=11008,
                         vocab_size=VOCAB, max_position_embeddings=TARGET,
                         rope_parameters={"rope_type": "linear", "factor": TARGET / WINDOW, "rope_theta": 10000.0})
    with torch.device("cuda"):
        model = LlamaForCausalLM._from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa")
    model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear"))
    if o.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)
    full = torch.full((1, 1, 1, 1), True, device="cuda").expand(1, 1, WINDOW, WINDOW).tril()  # positions jump: say what is seen
    times = []
    for step in range(o.steps + 3):
        ids = torch.randint(VOCAB, (1, WINDOW), device="cuda")
        skip = int(torch.randint(TARGET - WINDOW, (1,)))
        positions = torch.arange(WINDOW, device="cuda")
        positions = torch.where(positions < WINDOW // 2, positions, positions + skip)[None]
        torch.cuda.synchronize()
        begin = time.perf_counter()
        model(input_ids=ids, position_ids=positions, attention_mask=full, labels=ids, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    seconds = statistics.median(times[3:])
    print(f"PEFT{', gradient checkpointing' if o.checkpointing else ''}: {seconds:.3f} s a step, {WINDOW / seconds:,.0f} tok/s, "
          f"peak {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB (allocated)")


if __name__ == "__main__":
    main()
