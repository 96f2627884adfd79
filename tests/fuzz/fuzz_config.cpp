// config.json: the model's shape and its whole RoPE recipe. What is read must be written and read back the same.
#include <cstdio>
#include <cstdlib>

#include "fuzz.h"
#include "nn/config.h"

void fuzz_one(std::string_view input) {
  const rw::ModelConfig config = rw::model_config_from_json(std::string(input));
  const auto scaling = rw::make_rope_scaling(config.rope);
  scaling->parameter_specs();
  scaling->query_scale(0, 3);
  if (scaling->parameter_specs().empty()) {
    scaling->table({.length = 100});
    scaling->table({.length = config.rope.max_position_embeddings});
  }
  const std::string text = rw::model_config_to_json(config, "float32");
  const rw::ModelConfig again = rw::model_config_from_json(text);
  if (rw::model_config_to_json(again, "float32") != text) {
    std::fprintf(stderr, "fuzz: the config does not read back: %s\n", text.c_str());
    std::abort();
  }
}

std::vector<std::string> fuzz_seeds() {
  std::vector<std::string> seeds;
  for (
      const char* rope :
      {"null", R"({"rope_type":"linear","factor":4.0})", R"({"type":"dynamic","factor":2.0})",
       R"({"rope_type":"ntk","factor":8})",
       R"({"rope_type":"yarn","factor":4,"original_max_position_embeddings":64,"beta_fast":32,"beta_slow":1,"mscale":1.0,"attention_factor":1.1,"truncate":false})",
       R"({"rope_type":"llama3","factor":8,"low_freq_factor":1,"high_freq_factor":4,"original_max_position_embeddings":64})",
       R"({"rope_type":"longrope","short_factor":[1,1.5],"long_factor":[2,4],"original_max_position_embeddings":64})",
       R"({"rope_type":"abf","base":500000})", R"({"rope_type":"e2","factor":0})",
       R"({"rope_type":"clex","max_factor":16,"param_factor":1,"act":"tanh","time_dt":0.1,"log_scale":true})"}) {
    seeds.push_back(
        std::string(
            R"({"model_type":"llama","vocab_size":99,"hidden_size":8,"intermediate_size":16,"num_hidden_layers":2,)") +
        R"("num_attention_heads":2,"num_key_value_heads":1,"rms_norm_eps":1e-5,"tie_word_embeddings":true,"rope_theta":10000.0,)" +
        R"("max_position_embeddings":256,"bos_token_id":1,"eos_token_id":[2,3],"rope_scaling":)" + rope + "}");
  }
  return seeds;
}
