//! The whole decoder in f64, with tensors by name, and batches for it.

use std::collections::HashMap;

use horizon::base::{Dims, Shape};
use horizon::model::{ModelConfig, Norms};

use super::{Random, attention, bias, cross_entropy, embed, gain, glu, matmul, qk_norm, rmsnorm, rope};

/// One micro-batch.
pub struct Batch {
    pub shape: Shape,
    pub tokens: Vec<i32>,
    pub targets: Vec<i32>,
    pub weights: Vec<f32>,
    pub starts: Vec<i32>,
}

/// Document starts: in every other sequence one document, otherwise random documents.
pub fn documents(shape: Shape, random: &mut Random) -> Vec<i32> {
    let mut starts = Vec::new();
    for sequence in 0..shape.b {
        let mut start = 0;
        for t in 0..shape.t {
            if t > 0 && sequence % 2 == 0 && random.below(shape.t.min(40)) < 2 {
                start = t as i32;
            }
            starts.push(start);
        }
    }
    starts
}

impl Batch {
    /// Random tokens and targets, documents, ignored targets, weights 0.5 … 1.5.
    pub fn random(shape: Shape, v: usize, random: &mut Random) -> Self {
        let tokens = (0..shape.n()).map(|_| random.below(v) as i32).collect();
        let targets =
            (0..shape.n()).map(|n| if n % 5 == 3 { -100 } else { random.below(v) as i32 }).collect();
        let weights = random.f32s(shape.n(), 0.5).into_iter().map(|w| w + 1.0).collect();
        let starts = documents(shape, random);
        Batch { shape, tokens, targets, weights, starts }
    }

    /// Σ weights of the targets that are not ignored.
    pub fn weight(&self) -> f64 {
        let counted = self.targets.iter().zip(&self.weights).filter(|(target, _)| **target != -100);
        counted.map(|(_, weight)| f64::from(*weight)).sum()
    }
}

/// A decoder's tensors by their Hugging Face names.
pub type Tensors = HashMap<String, Vec<f64>>;

/// The boundary below the head, `[N, C]`.
fn last_boundary(config: &ModelConfig, tensors: &Tensors, batch: &Batch) -> Vec<f64> {
    let (shape, dims, eps) = (batch.shape, &config.dims, f64::from(config.norm_eps));
    let Dims { c, f, .. } = *dims;
    let factors = &config.multipliers;
    let mut x = embed(&tensors["model.embed_tokens.weight"], &batch.tokens, c);
    x.iter_mut().for_each(|x| *x *= f64::from(factors.embedding));
    for layer in 0..dims.l {
        let weight = |name: &str| &tensors[&format!("model.layers.{layer}.{name}.weight")][..];
        // Norms that the family does not have are left out.
        let norm = |x: &[f64], name: Option<&str>| match name {
            Some(name) => rmsnorm(x, &gain(weight(name), config.norm_offset()), eps, c).0,
            None => x.to_vec(),
        };
        // A matmul plus the bias, if the layer has one.
        let linear = |x: &[f64], name: &str, columns: usize| {
            let out = matmul(x, weight(name), columns);
            match tensors.get(&format!("model.layers.{layer}.{name}.bias")) {
                Some(values) => bias(&out, values),
                None => out,
            }
        };
        let [before_attention, after_attention, before_mlp, after_mlp] = match config.norms {
            Norms::Before => [Some("input_layernorm"), None, Some("post_attention_layernorm"), None],
            Norms::After => {
                [None, Some("post_attention_layernorm"), None, Some("post_feedforward_layernorm")]
            }
            Norms::Around => [
                Some("input_layernorm"),
                Some("post_attention_layernorm"),
                Some("pre_feedforward_layernorm"),
                Some("post_feedforward_layernorm"),
            ],
        };
        let normed = norm(&x, before_attention);
        let [q, k, v] = ["q", "k", "v"].map(|p| linear(&normed, &format!("self_attn.{p}_proj"), c));
        let (hd, gd) = (dims.attention_width(), dims.g * dims.d);
        let row = |n: usize| [&q[n * hd..][..hd], &k[n * gd..][..gd], &v[n * gd..][..gd]].concat();
        let mut qkv: Vec<f64> = (0..shape.n()).flat_map(row).collect();
        if config.qk_norm.is_some() {
            let [q, k] =
                ["q", "k"].map(|p| gain(weight(&format!("self_attn.{p}_norm")), config.norm_offset()));
            qkv = qk_norm(&qkv, [&q, &k], eps, dims).0;
        }
        let window = config.window_of(layer);
        if config.rope.rotates(layer) {
            let tables = config.rope.tables(dims.d, shape.t);
            let table = if window > 0 { tables.last() } else { tables.first() }.expect("a table");
            let rotation = config.rope.rotation(&dims.into(), window > 0);
            qkv = rope(&qkv, &batch.starts, shape, (&rotation, table), dims, 1.0);
        }
        let scale = f64::from(config.score_scale());
        let (attention_output, _) = attention(&qkv, &batch.starts, (scale, window), shape, dims);
        let mut branch = linear(&attention_output, "self_attn.o_proj", hd);
        branch.iter_mut().for_each(|y| *y *= f64::from(factors.residual));
        add(&mut x, &norm(&branch, after_attention));
        let normed = norm(&x, before_mlp);
        let [gate, up] = ["gate", "up"].map(|p| linear(&normed, &format!("mlp.{p}_proj"), c));
        let row = |n: usize| [&gate[n * f..][..f], &up[n * f..][..f]].concat();
        let gate_up: Vec<f64> = (0..shape.n()).flat_map(row).collect();
        let mut branch = linear(&glu(config.activation, &gate_up, f), "mlp.down_proj", f);
        branch.iter_mut().for_each(|y| *y *= f64::from(factors.residual));
        add(&mut x, &norm(&branch, after_mlp));
    }
    x
}

fn add(x: &mut [f64], y: &[f64]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

/// `[N, V]`.
pub fn logits(config: &ModelConfig, tensors: &Tensors, batch: &Batch) -> Vec<f64> {
    let x = last_boundary(config, tensors, batch);
    let c = config.dims.c;
    let weight = gain(&tensors["model.norm.weight"], config.norm_offset());
    let (normed, _) = rmsnorm(&x, &weight, f64::from(config.norm_eps), c);
    let lm = if config.tied { "model.embed_tokens.weight" } else { "lm_head.weight" };
    let scale = f64::from(config.multipliers.logits);
    matmul(&normed, &tensors[lm], c).into_iter().map(|logit| scale * logit).collect()
}

/// Σ weight · nll of a micro-batch.
pub fn loss(config: &ModelConfig, tensors: &Tensors, batch: &Batch) -> f64 {
    let weights = super::wide(&batch.weights);
    cross_entropy(&logits(config, tensors, batch), &batch.targets, &weights, config.dims.v)
}
