"""Small models of every family that GGUF knows, with tokenizers of both kinds, for gguf_package.py and llama_cpp.py.

build(ropewalk, work) makes, in folder `work`, a tokenizer of each kind from the built-in stories' words, a random model of each family, trains
it for some steps with ropewalk, and sets a RoPE recipe that extends its window of 64 tokens. It gives [(name, folder)].
"""
import json
import os
import shutil
import subprocess

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error")
WINDOW = 64
SIZES = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             max_position_embeddings=WINDOW, pad_token_id=None)
SIZES_MHA = {k: v for k, v in SIZES.items() if k != "num_key_value_heads"}
GEMMA = dict(SIZES, head_dim=16, query_pre_attn_scalar=16, sliding_window=32)
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": WINDOW}
LINEAR = {"rope_type": "linear", "factor": 4.0}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": WINDOW}
LONG = {"rope_type": "longrope", "factor": 4.0, "original_max_position_embeddings": WINDOW,
        "short_factor": [1.0 + 0.05 * i for i in range(8)], "long_factor": [1.0 + 0.5 * i for i in range(8)]}
# name: model_type, tokenizer, fields, recipe, and the method that trains it ("": plain training of the base)
MODELS = {
    "llama-linear": ("llama", "spm", SIZES, LINEAR),
    "llama-yarn": ("llama", "bpe", SIZES, YARN),
    "llama-llama3": ("llama", "bpe", SIZES, LLAMA3),
    "llama-longrope": ("llama", "spm", SIZES, LONG),
    "llama-clex-frozen": ("llama", "bpe", SIZES, "clex"),
    "llama-dynamic-frozen": ("llama", "spm", SIZES, "dynamic"),
    "mistral-yarn": ("mistral", "spm", dict(SIZES, sliding_window=None, head_dim=16), YARN),
    "qwen2-yarn": ("qwen2", "bpe", dict(SIZES, tie_word_embeddings=True), YARN),
    "qwen3-yarn": ("qwen3", "bpe", dict(SIZES, head_dim=24), YARN),
    "gpt_neox-linear": ("gpt_neox", "bpe", dict(SIZES_MHA, rotary_pct=0.5, hidden_act="gelu"), LINEAR),
    "phi3-longrope": ("phi3", "spm", dict(SIZES, pad_token_id=0, original_max_position_embeddings=WINDOW), LONG),
    "olmo2-yarn": ("olmo2", "bpe", SIZES, YARN),
    "smollm3-linear": ("smollm3", "bpe", dict(SIZES, num_hidden_layers=4, pad_token_id=0), LINEAR),
    "stablelm-linear": ("stablelm", "bpe", dict(SIZES, partial_rotary_factor=0.5, use_qkv_bias=True), LINEAR),
    "gemma2-linear": ("gemma2", "spm", GEMMA, LINEAR),
    "gemma3-linear": ("gemma3_text", "spm", dict(GEMMA, num_hidden_layers=6), LINEAR),
}
TEXT = ("Once upon a time, a little dog named Tim lived in the old house near the river. Every day he went to the park with "
        "his friend Lily, and they saw many birds, 12 boats and a big red ball. \"Let's play!\" said Lily. Tim was happy. "
        "Then it rained, so they ran home, and mother made soup for them. The next day the sun was back in the sky.\n")


def run(program, *words):
    done = subprocess.run([program, "--device", "cpu", "--quiet", *map(str, words)], capture_output=True)
    if done.returncode:
        raise SystemExit(f"ropewalk {' '.join(map(str, words))}: {done.stderr.decode()}")
    return done.stdout


def tokenizers(program):
    import sentencepiece

    with open("text.txt", "w") as f:
        f.write(TEXT * 40)
    run(program, "tokenizer", "train", "--data", "text.txt", "--vocab", 400, "--out", "bpe")
    os.makedirs("spm", exist_ok=True)
    sentencepiece.SentencePieceTrainer.train(
        input="text.txt", model_prefix="spm/tokenizer", model_type="bpe", vocab_size=400, byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, minloglevel=2)
    with open("spm/tokenizer_config.json", "w") as f:
        json.dump({"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
                   "add_bos_token": True, "add_eos_token": False}, f)


def make_base(folder, model_type, kind, fields, recipe):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(len(folder))
    extra = {}
    if model_type == "phi3":  # its config wants the recipe from the beginning
        extra = dict(rope_parameters=dict(recipe, rope_theta=10000.0), max_position_embeddings=4 * WINDOW)
    config = AutoConfig.for_model(model_type, **dict(fields, vocab_size=400, bos_token_id=1, eos_token_id=2, **extra))
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.normal_(0, 0.35 if "embed" in name else p.shape[-1] ** -0.5) if p.dim() > 1 else p.add_(0.1 * torch.randn_like(p))
    model.save_pretrained(folder)
    for name in os.listdir(kind):
        if name.startswith("tokenizer"):
            shutil.copy(os.path.join(kind, name), folder)
    generation = os.path.join(folder, "generation_config.json")
    if os.path.exists(generation):
        os.remove(generation)


def set_recipe(folder, recipe):
    path = os.path.join(folder, "config.json")
    config = json.load(open(path))
    if config["model_type"] == "gemma3_text":  # one recipe for each type of layer
        local = {"rope_type": "default", "rope_theta": 10000.0}
        config["rope_parameters"] = {"full_attention": dict(recipe, rope_theta=1000000.0), "sliding_attention": local}
    elif config["model_type"] != "phi3":
        theta = (config.get("rope_parameters") or {}).get("rope_theta", config.get("rope_theta", 10000.0))
        partial = {k: v for k, v in (config.get("rope_parameters") or {}).items() if k == "partial_rotary_factor"}
        config["rope_parameters"] = dict(recipe, rope_theta=theta, **partial)
    config["max_position_embeddings"] = 4 * WINDOW
    json.dump(config, open(path, "w"), indent=1)


def build(program, work, only=""):
    """The folders, made anew."""
    os.makedirs(work, exist_ok=True)
    os.chdir(work)
    tokenizers(program)
    made = []
    for name, (model_type, kind, fields, recipe) in MODELS.items():
        if only and only not in name:
            continue
        for folder in (name, name + "-base", name + "-method"):
            shutil.rmtree(folder, ignore_errors=True)
        base = name + "-base"
        make_base(base, model_type, kind, fields, recipe)
        train = ["train", "--data", "text.txt", "--overwrite", "--batch", 4, "--lr", "3e-3"]
        run(program, *train, "--from", base, "--out", name, "--window", WINDOW - 1, "--steps", 30)
        if recipe == "clex":
            run(program, *train, "--from", name, "--out", name + "-method", "--method", "clex", "--max-factor", 8, "--steps", 10)
        elif recipe == "dynamic":
            shutil.copytree(name, name + "-method")
            set_recipe(name + "-method", {"rope_type": "dynamic", "factor": 2.0})
        if isinstance(recipe, str):
            shutil.rmtree(name)
            run(program, "convert", "freeze", "--model", name + "-method", "--length", 3 * WINDOW, "--out", name)
        else:
            set_recipe(name, recipe)
        made.append((name, os.path.abspath(name)))
    return made
