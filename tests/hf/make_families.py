#!/usr/bin/env python3
"""Tiny random models of every family, with logits, loss and gradients as transformers computes them in float64.

  python3 tests/hf/make_families.py tests/data/families [--seed 1]        (torch on a CPU, transformers 5)

OUT/FAMILY/{config.json, model.safetensors} is a folder as save_pretrained writes it. expect.safetensors has ids i64 [2,T],
positions i64 [2,T] (contiguous, and with a jump), logits [2,T,V], loss [1] (mean over ids[:,1:]) and grad.NAME of every
parameter; where the family takes it, yarn.json is the config with YaRN by 4 and logits.yarn what it gives.
"""
import argparse
import json
import os

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error")
import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

COMMON = dict(vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
              max_position_embeddings=32, bos_token_id=1, eos_token_id=2, pad_token_id=None)
GROUPED = dict(COMMON, num_key_value_heads=2)
GEMMA = dict(GROUPED, head_dim=16, sliding_window=7, query_pre_attn_scalar=20)
FAMILIES = {
    "llama": dict(GROUPED, model_type="llama", tie_word_embeddings=False),
    "llama_bias": dict(GROUPED, model_type="llama", attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
    "mistral": dict(GROUPED, model_type="mistral", sliding_window=None, head_dim=12),
    "mistral_window": dict(GROUPED, model_type="mistral", sliding_window=7),
    "qwen2": dict(GROUPED, model_type="qwen2", tie_word_embeddings=True),
    "qwen2_window": dict(GROUPED, model_type="qwen2", use_sliding_window=True, sliding_window=7, max_window_layers=1),
    "qwen3": dict(GROUPED, model_type="qwen3", head_dim=12),
    "gpt_neox": dict(COMMON, model_type="gpt_neox", rotary_pct=0.5, use_parallel_residual=True, hidden_act="gelu"),
    "gpt_neox_sequential": dict(COMMON, model_type="gpt_neox", rotary_pct=1.0, use_parallel_residual=False),
    "gptj": dict(vocab_size=61, n_embd=32, n_inner=None, n_layer=2, n_head=4, n_positions=32, rotary_dim=4,
                 model_type="gptj", bos_token_id=1, eos_token_id=2),
    "phi3": dict(GROUPED, model_type="phi3", pad_token_id=0),
    "olmo2": dict(GROUPED, model_type="olmo2"),
    "smollm3": dict(GROUPED, model_type="smollm3", no_rope_layers=[1, 0], pad_token_id=0),
    "stablelm": dict(GROUPED, model_type="stablelm", partial_rotary_factor=0.5, use_qkv_bias=True),
    "stablelm_parallel": dict(GROUPED, model_type="stablelm", partial_rotary_factor=0.5, use_parallel_residual=True),
    "gemma2": dict(GEMMA, model_type="gemma2", attn_logit_softcapping=50.0, final_logit_softcapping=30.0),
    "gemma3": dict(GEMMA, model_type="gemma3_text", layer_types=["sliding_attention", "full_attention"]),
}
WITHOUT_YARN = ("gptj", "gemma3_text", "phi3")  # no recipe in the config, one for each layer type, LongRoPE alone
T = 24


def logits_of(model, ids, positions):
    model.config._attn_implementation = "eager"
    return model(input_ids=ids, position_ids=positions, attention_mask=torch.ones_like(ids), use_cache=False).logits


def randomise(model):
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() > 1:
                p.normal_(0, 0.35 if "embed" in name or "wte" in name else p.shape[-1] ** -0.5)
            elif name.endswith("bias"):
                p.normal_(0, 0.1)
            else:
                p.add_(0.1 * torch.randn_like(p))


def with_yarn(model, model_type, fields, config, ids, positions, folder):
    recipe = dict(config.rope_parameters, rope_type="yarn", factor=4.0, original_max_position_embeddings=32)
    extended = AutoConfig.for_model(model_type, **dict(fields, rope_parameters=recipe, max_position_embeddings=128))
    other = AutoModelForCausalLM.from_config(extended, attn_implementation="eager", dtype=torch.float32).double().eval()
    other.load_state_dict(model.state_dict(), strict=False)
    extended.architectures = model.config.architectures
    with open(os.path.join(folder, "yarn.json"), "w") as f:
        json.dump(json.loads(extended.to_json_string(use_diff=False)), f, indent=1)
    with torch.no_grad():
        return logits_of(other, ids, positions).float()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("out")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    for name, given in FAMILIES.items():
        folder = os.path.join(options.out, name)
        fields = dict(given)
        model_type = fields.pop("model_type")
        torch.manual_seed(options.seed * 1000 + len(name))
        config = AutoConfig.for_model(model_type, **fields)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32)
        randomise(model)
        model.save_pretrained(folder)
        model = model.double().eval()
        ids = torch.randint(3, 61, (2, T))
        positions = torch.arange(T)[None].repeat(2, 1)
        positions[1, T // 2:] += 8  # GPT-J has a table of 32 positions
        logits = logits_of(model, ids, positions)
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, 61), ids[:, 1:].reshape(-1))
        loss.backward()
        out = {"ids": ids, "positions": positions, "logits": logits.detach().float(), "loss": loss.detach().float()[None]}
        out.update({"grad." + n: p.grad.float().contiguous() for n, p in model.named_parameters() if p.grad is not None})
        if model_type not in WITHOUT_YARN:
            out["logits.yarn"] = with_yarn(model, model_type, fields, config, ids, positions, folder)
        save_file(out, os.path.join(folder, "expect.safetensors"),
                  metadata={"transformers": transformers.__version__, "seed": str(options.seed)})
        if os.path.exists(folder + "/generation_config.json"):
            os.remove(folder + "/generation_config.json")
        print(f"{name:20s} loss {loss.item():.4f}  largest logit {logits.abs().max():.3g}")


if __name__ == "__main__":
    main()
