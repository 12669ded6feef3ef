"""Tensor names of the authors of Flux (Black Forest Labs) and SD 3 (Stability), and llama.cpp's names of T5."""

from .tables import Row, table

_FLUX = """
    x_embedder                                             img_in
    context_embedder                                       txt_in
    time_text_embed.timestep_embedder.linear_1             time_in.in_layer
    time_text_embed.timestep_embedder.linear_2             time_in.out_layer
    time_text_embed.guidance_embedder.linear_1             guidance_in.in_layer
    time_text_embed.guidance_embedder.linear_2             guidance_in.out_layer
    time_text_embed.text_embedder.linear_1                 vector_in.in_layer
    time_text_embed.text_embedder.linear_2                 vector_in.out_layer
    transformer_blocks.{i}.norm1.linear                    double_blocks.{i}.img_mod.lin
    transformer_blocks.{i}.norm1_context.linear            double_blocks.{i}.txt_mod.lin
    transformer_blocks.{i}.attn.to_q + transformer_blocks.{i}.attn.to_k + transformer_blocks.{i}.attn.to_v  double_blocks.{i}.img_attn.qkv
    transformer_blocks.{i}.attn.add_q_proj + transformer_blocks.{i}.attn.add_k_proj + transformer_blocks.{i}.attn.add_v_proj  double_blocks.{i}.txt_attn.qkv
    transformer_blocks.{i}.attn.norm_q.weight              double_blocks.{i}.img_attn.norm.query_norm.scale
    transformer_blocks.{i}.attn.norm_k.weight              double_blocks.{i}.img_attn.norm.key_norm.scale
    transformer_blocks.{i}.attn.norm_added_q.weight        double_blocks.{i}.txt_attn.norm.query_norm.scale
    transformer_blocks.{i}.attn.norm_added_k.weight        double_blocks.{i}.txt_attn.norm.key_norm.scale
    transformer_blocks.{i}.attn.to_out.0                   double_blocks.{i}.img_attn.proj
    transformer_blocks.{i}.attn.to_add_out                 double_blocks.{i}.txt_attn.proj
    transformer_blocks.{i}.ff.net.0.proj                   double_blocks.{i}.img_mlp.0
    transformer_blocks.{i}.ff.net.2                        double_blocks.{i}.img_mlp.2
    transformer_blocks.{i}.ff_context.net.0.proj           double_blocks.{i}.txt_mlp.0
    transformer_blocks.{i}.ff_context.net.2                double_blocks.{i}.txt_mlp.2
    single_transformer_blocks.{i}.norm.linear              single_blocks.{i}.modulation.lin
    single_transformer_blocks.{i}.attn.to_q + single_transformer_blocks.{i}.attn.to_k + single_transformer_blocks.{i}.attn.to_v + single_transformer_blocks.{i}.proj_mlp  single_blocks.{i}.linear1
    single_transformer_blocks.{i}.attn.norm_q.weight       single_blocks.{i}.norm.query_norm.scale
    single_transformer_blocks.{i}.attn.norm_k.weight       single_blocks.{i}.norm.key_norm.scale
    single_transformer_blocks.{i}.proj_out                 single_blocks.{i}.linear2
    norm_out.linear                                        final_layer.adaLN_modulation.1  halves swapped
    proj_out                                               final_layer.linear
"""  # noqa: E501  a table
_SD3 = """
    pos_embed.pos_embed                                    pos_embed
    pos_embed.proj                                         x_embedder.proj
    context_embedder                                       context_embedder
    time_text_embed.timestep_embedder.linear_1             t_embedder.mlp.0
    time_text_embed.timestep_embedder.linear_2             t_embedder.mlp.2
    time_text_embed.text_embedder.linear_1                 y_embedder.mlp.0
    time_text_embed.text_embedder.linear_2                 y_embedder.mlp.2
    transformer_blocks.{i}.norm1.linear                    joint_blocks.{i}.x_block.adaLN_modulation.1
    transformer_blocks.{i}.norm1_context.linear            joint_blocks.{i}.context_block.adaLN_modulation.1
    transformer_blocks.{i}.attn.to_q + transformer_blocks.{i}.attn.to_k + transformer_blocks.{i}.attn.to_v  joint_blocks.{i}.x_block.attn.qkv
    transformer_blocks.{i}.attn.add_q_proj + transformer_blocks.{i}.attn.add_k_proj + transformer_blocks.{i}.attn.add_v_proj  joint_blocks.{i}.context_block.attn.qkv
    transformer_blocks.{i}.attn2.to_q + transformer_blocks.{i}.attn2.to_k + transformer_blocks.{i}.attn2.to_v  joint_blocks.{i}.x_block.attn2.qkv
    transformer_blocks.{i}.attn.norm_q                     joint_blocks.{i}.x_block.attn.ln_q
    transformer_blocks.{i}.attn.norm_k                     joint_blocks.{i}.x_block.attn.ln_k
    transformer_blocks.{i}.attn.norm_added_q               joint_blocks.{i}.context_block.attn.ln_q
    transformer_blocks.{i}.attn.norm_added_k               joint_blocks.{i}.context_block.attn.ln_k
    transformer_blocks.{i}.attn2.norm_q                    joint_blocks.{i}.x_block.attn2.ln_q
    transformer_blocks.{i}.attn2.norm_k                    joint_blocks.{i}.x_block.attn2.ln_k
    transformer_blocks.{i}.attn.to_out.0                   joint_blocks.{i}.x_block.attn.proj
    transformer_blocks.{i}.attn.to_add_out                 joint_blocks.{i}.context_block.attn.proj
    transformer_blocks.{i}.attn2.to_out.0                  joint_blocks.{i}.x_block.attn2.proj
    transformer_blocks.{i}.ff.net.0.proj                   joint_blocks.{i}.x_block.mlp.fc1
    transformer_blocks.{i}.ff.net.2                        joint_blocks.{i}.x_block.mlp.fc2
    transformer_blocks.{i}.ff_context.net.0.proj           joint_blocks.{i}.context_block.mlp.fc1
    transformer_blocks.{i}.ff_context.net.2                joint_blocks.{i}.context_block.mlp.fc2
    norm_out.linear                                        final_layer.adaLN_modulation.1  halves swapped
    proj_out                                               final_layer.linear
"""  # noqa: E501  a table
_T5 = """
    shared                                                              token_embd
    encoder.final_layer_norm                                            enc.output_norm
    encoder.block.{i}.layer.0.layer_norm                                enc.blk.{i}.attn_norm
    encoder.block.{i}.layer.0.SelfAttention.q                           enc.blk.{i}.attn_q
    encoder.block.{i}.layer.0.SelfAttention.k                           enc.blk.{i}.attn_k
    encoder.block.{i}.layer.0.SelfAttention.v                           enc.blk.{i}.attn_v
    encoder.block.{i}.layer.0.SelfAttention.o                           enc.blk.{i}.attn_o
    encoder.block.{i}.layer.0.SelfAttention.relative_attention_bias     enc.blk.{i}.attn_rel_b
    encoder.block.{i}.layer.1.layer_norm                                enc.blk.{i}.ffn_norm
    encoder.block.{i}.layer.1.DenseReluDense.wo                         enc.blk.{i}.ffn_down
"""
_T5_GATED = """
    encoder.block.{i}.layer.1.DenseReluDense.wi_0                       enc.blk.{i}.ffn_gate
    encoder.block.{i}.layer.1.DenseReluDense.wi_1                       enc.blk.{i}.ffn_up
"""
_T5_PLAIN = """
    encoder.block.{i}.layer.1.DenseReluDense.wi                         enc.blk.{i}.ffn_up
"""


def flux(blocks: int) -> tuple[Row, ...]:
    """`FluxTransformer2DModel` with at most `blocks` blocks of a kind. A block's first projections are one matrix."""
    return table(_FLUX, blocks)


def sd3(blocks: int) -> tuple[Row, ...]:
    """`SD3Transformer2DModel`. The last block's text stream has only a scale and a shift, in the other order."""
    last = f"transformer_blocks.{blocks - 1}.norm1_context.linear"
    rows = table(_SD3, blocks)
    return tuple(Row(r.ours, r.theirs, "halves swapped") if r.ours == (last,) else r for r in rows)


def t5(blocks: int, *, gated: bool) -> tuple[Row, ...]:
    """`T5EncoderModel` in llama.cpp's names, as in GGUF files. T5 1.1 is gated."""
    return (*table(_T5, blocks), *table(_T5_GATED if gated else _T5_PLAIN, blocks))
