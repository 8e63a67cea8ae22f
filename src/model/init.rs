//! Random initial weights, as in GPT-2 (Radford et al. 2019, section 2.3).
//!
//! Matrices are normal with σ = 0.02, except that the projections that add to the residual stream
//! (`o_proj`, `down_proj`) have σ = 0.02/√(2L), so that its variance does not grow with depth.
//! Norms multiply by 1: their weights are 1, or 0 if 1 is added to them. Biases are 0.
//!
//! A tensor is written in blocks of [`FRESH_BLOCK`] elements, each from its own ChaCha sequence
//! (numbered like the block), because normal numbers consume a varying number of random words. A
//! value depends only on the seed, the tensor's name and the element: not on order, threads or
//! other tensors.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

use crate::base::hash::fnv1a;
use crate::model::{ModelConfig, TensorLayout};

/// Elements of a tensor drawn from one sequence of random numbers.
pub const FRESH_BLOCK: usize = 1 << 16;

/// σ of a matrix.
const DEVIATION: f64 = 0.02;

/// Writes `out.len()` initial values of a tensor, starting at element `first`.
///
/// # Panics
/// If `first` is not a multiple of [`FRESH_BLOCK`], or the tensor is shorter.
pub fn fresh_values(config: &ModelConfig, tensor: &TensorLayout, seed: u64, first: usize, out: &mut [f32]) {
    let elements = tensor.elements();
    assert!(
        first.is_multiple_of(FRESH_BLOCK),
        "element {first} of {} is not the start of a block",
        tensor.name
    );
    assert!(first + out.len() <= elements, "{} has {elements} elements", tensor.name);
    if tensor.shape.len() < 2 {
        let is_bias = tensor.name.ends_with(".bias");
        out.fill(if is_bias { 0.0 } else { 1.0 - config.norm_offset() });
        return;
    }
    let adds_to_residual =
        [".o_proj.weight", ".down_proj.weight"].iter().any(|end| tensor.name.ends_with(end));
    let deviation =
        if adds_to_residual { DEVIATION / (2.0 * config.dims.l as f64).sqrt() } else { DEVIATION };
    let mut rng = ChaCha8Rng::from_seed(key(seed, &tensor.name));
    for (block, values) in (first / FRESH_BLOCK..).zip(out.chunks_mut(FRESH_BLOCK)) {
        rng.set_stream(block as u64);
        rng.set_word_pos(0);
        for value in values {
            let normal: f64 = StandardNormal.sample(&mut rng);
            *value = (normal * deviation) as f32;
        }
    }
}

/// The generator's key: the seed and a hash of the name.
fn key(seed: u64, name: &str) -> [u8; 32] {
    let hash = fnv1a(name.as_bytes());
    let mut key = *b"................horizon.init.v1.";
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&hash.to_le_bytes());
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Biases, Layout, Norms, preset};
    use crate::ops::NormSpan;

    fn fresh(name: &str, seed: u64) -> Vec<f32> {
        fresh_of(&preset("tiny").unwrap(), name, seed)
    }

    fn fresh_of(config: &ModelConfig, name: &str, seed: u64) -> Vec<f32> {
        let layout = Layout::new(config);
        let (_, tensor) = layout.find(name).unwrap();
        let mut out = vec![f32::NAN; tensor.elements()];
        fresh_values(config, tensor, seed, 0, &mut out);
        out
    }

    fn mean_and_deviation(values: &[f32]) -> (f64, f64) {
        let n = values.len() as f64;
        let mean = values.iter().map(|&v| v as f64).sum::<f64>() / n;
        let square = values.iter().map(|&v| (v as f64 - mean).powi(2)).sum::<f64>() / n;
        (mean, square.sqrt())
    }

    #[test]
    fn standard_deviations_are_those_of_gpt2() {
        let layers = preset("tiny").unwrap().dims.l as f64;
        let closing = 0.02 / (2.0 * layers).sqrt();
        for (name, deviation) in [
            ("model.embed_tokens.weight", 0.02),
            ("model.layers.1.self_attn.q_proj.weight", 0.02),
            ("model.layers.1.mlp.up_proj.weight", 0.02),
            ("model.layers.2.self_attn.o_proj.weight", closing),
            ("model.layers.0.mlp.down_proj.weight", closing),
        ] {
            let values = fresh(name, 7);
            let (mean, found) = mean_and_deviation(&values);
            // Four standard errors of the mean and of the deviation.
            let error = 4.0 * deviation / (values.len() as f64).sqrt();
            assert!(mean.abs() < error, "{name}: mean {mean}");
            assert!((found - deviation).abs() < error, "{name}: σ {found}, expected {deviation}");
        }
    }

    #[test]
    fn norms_multiply_by_1_and_biases_add_0() {
        let config = preset("tiny").unwrap();
        let config = ModelConfig {
            norms: Norms::Around,
            qk_norm: Some(NormSpan::Head),
            biases: Biases { qkv: true, o: true, mlp: true },
            ..config
        };
        for (norms_plus_one, expected) in [(false, 1.0), (true, 0.0)] {
            let config = ModelConfig { norms_plus_one, ..config.clone() };
            let is = |name: &str, expected| fresh_of(&config, name, 7).iter().all(|&v| v == expected);
            let (norm, biases) = ("model.norm.weight", ["self_attn.o_proj.bias", "mlp.down_proj.bias"]);
            let norms = ["pre_feedforward_layernorm.weight", "self_attn.q_norm.weight"];
            let of_layer = |name: &str| format!("model.layers.1.{name}");
            assert!(is(norm, expected) && norms.iter().all(|name| is(&of_layer(name), expected)));
            assert!(biases.iter().all(|name| is(&of_layer(name), 0.0)));
        }
    }

    #[test]
    fn values_depend_on_seed_and_name() {
        let q0 = fresh("model.layers.0.self_attn.q_proj.weight", 1);
        assert_eq!(q0, fresh("model.layers.0.self_attn.q_proj.weight", 1));
        assert_ne!(q0, fresh("model.layers.1.self_attn.q_proj.weight", 1));
        assert_ne!(q0, fresh("model.layers.0.self_attn.q_proj.weight", 2));
    }

    #[test]
    fn blocks_written_separately_or_together_are_equal() {
        let (config, shape) = (preset("tiny").unwrap(), vec![5, FRESH_BLOCK / 2]);
        let tensor = TensorLayout { name: "model.embed_tokens.weight".to_owned(), shape, offset: 0 };
        let mut whole = vec![f32::NAN; tensor.elements()];
        fresh_values(&config, &tensor, 3, 0, &mut whole);
        for (block, values) in whole.chunks(FRESH_BLOCK).enumerate() {
            let mut alone = vec![f32::NAN; values.len()];
            fresh_values(&config, &tensor, 3, block * FRESH_BLOCK, &mut alone);
            assert_eq!(alone, values, "block {block}");
        }
        // Different blocks have different numbers.
        let (first, second) = whole.split_at(FRESH_BLOCK);
        let alike = first.iter().zip(second).filter(|(one, other)| one == other).count();
        assert!(alike < FRESH_BLOCK / 1000, "{alike} of {FRESH_BLOCK} values are equal in both blocks");
    }
}
