"""Settings of models of transformers so small that a test builds them at once."""

LLAMA = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
         "intermediate_size": 12, "attention_bias": True, "tie_word_embeddings": False}  # fmt: skip
GPT2 = {"vocab_size": 20, "n_positions": 24, "n_embd": 8, "n_layer": 2, "n_head": 2, "bos_token_id": 0, "eos_token_id": 0}
VIT = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 12, "image_size": 8,
       "patch_size": 4}  # fmt: skip
