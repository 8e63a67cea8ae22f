//! References for ops: a plain f64 forward of every op, memory for kernels, sizes with reasons,
//! comparisons.
//!
//! Nothing here is fast or depends on how the kernels work. Gradients are not written down: tests
//! take central differences of these forward functions.

pub mod compare;
pub mod cuda;
pub mod decoder;
pub mod device;
pub mod memory;
pub mod rows;

use horizon::base::{Dims, Shape};
use horizon::ops::{Activation, QueryScaling, Rotation};

/// `(rows, columns, reason)` for ops on rows.
pub const SIZES: &[(usize, usize, &str)] = &[
    (1, 1, "the smallest"),
    (1, 64, "one row, whole vectors"),
    (3, 8, "one vector of 16 bytes"),
    (2, 31, "a row shorter than the lanes of a sum"),
    (31, 33, "one element more than the lanes"),
    (33, 127, "one element less than whole lanes"),
    (64, 96, "exactly one row tile"),
    (65, 160, "one row more than a row tile"),
    (127, 65, "one row less than two row tiles, one column more than a column tile"),
    (129, 257, "one row more than two row tiles, one column more than a tile of column sums"),
    (127, 264, "one vector more than a tile of column sums"),
];

/// Random numbers from a printed seed (splitmix64, Steele et al. 2014).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        println!("seed {seed}");
        Random(seed)
    }

    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.bits() % end as u64) as usize
    }

    /// Uniform in −scale … scale; exact in f32.
    pub fn f32s(&mut self, count: usize, scale: f32) -> Vec<f32> {
        (0..count).map(|_| ((self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * scale).collect()
    }

    /// As [`Random::f32s`]; exact in bf16.
    pub fn bf16s(&mut self, count: usize, scale: f32) -> Vec<f32> {
        use horizon::base::master;
        self.f32s(count, scale).into_iter().map(|x| master::widen(master::round(x))).collect()
    }

    /// Up to `count` indices below `end`; all indices if there are at most `count`.
    pub fn sample(&mut self, end: usize, count: usize) -> Vec<usize> {
        if end <= count { (0..end).collect() } else { (0..count).map(|_| self.below(end)).collect() }
    }
}

/// Converts to f64.
pub fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

pub fn embed(table: &[f64], tokens: &[i32], c: usize) -> Vec<f64> {
    tokens.iter().flat_map(|&token| table[token as usize * c..][..c].iter().copied()).collect()
}

/// The factors of an RMSNorm: `offset` + weight.
pub fn gain(weight: &[f64], offset: f32) -> Vec<f64> {
    weight.iter().map(|weight| f64::from(offset) + weight).collect()
}

/// Returns the output, and `rstd` = 1/√(mean(x²) + eps) of every row.
pub fn rmsnorm(x: &[f64], weight: &[f64], eps: f64, c: usize) -> (Vec<f64>, Vec<f64>) {
    let rstd: Vec<f64> = x
        .chunks_exact(c)
        .map(|x| 1.0 / (x.iter().map(|x| x * x).sum::<f64>() / c as f64 + eps).sqrt())
        .collect();
    let out = x.iter().enumerate().map(|(i, x)| x * rstd[i / c] * weight[i % c]).collect();
    (out, rstd)
}

/// `x [n, k] · weightᵀ`, `weight [m, k]`.
pub fn matmul(x: &[f64], weight: &[f64], k: usize) -> Vec<f64> {
    x.chunks_exact(k)
        .flat_map(|x| weight.chunks_exact(k).map(move |w| x.iter().zip(w).map(|(x, w)| x * w).sum()))
        .collect()
}

/// theta^(−2i/D) for D/2 pairs.
pub fn frequencies(theta: f64, d: usize) -> Vec<f32> {
    (0..d / 2).map(|i| theta.powf(-2.0 * i as f64 / d as f64) as f32).collect()
}

/// RoPE of query and key heads, by the f32 angle position · `inv_freq`; `direction` is 1 for
/// forward, −1 for backward.
pub fn rope(
    qkv: &[f64],
    starts: &[i32],
    shape: Shape,
    (rotation, inv_freq): (&Rotation, &[f32]),
    dims: &Dims,
    direction: f64,
) -> Vec<f64> {
    let (d, half, mut out) = (dims.d, rotation.r / 2, qkv.to_vec());
    for (n, &start) in starts.iter().enumerate() {
        let position = (n % shape.t) as i32 - start;
        let of_queries = rotation.queries.map_or(1.0, |QueryScaling { beta, positions }| {
            1.0 + f64::from(beta) * (1.0 + f64::from(position / positions as i32)).ln()
        });
        for head in 0..dims.h + dims.g {
            let factor = f64::from(rotation.factor) * if head < dims.h { of_queries } else { 1.0 };
            for (i, frequency) in inv_freq.iter().enumerate() {
                let angle = direction * f64::from(position as f32 * frequency);
                let first = n * dims.qkv() + head * d;
                let pair = if rotation.interleaved { [2 * i, 2 * i + 1] } else { [i, i + half] };
                let [low, high] = pair.map(|at| factor * qkv[first + at]);
                out[first + pair[0]] = low * angle.cos() - high * angle.sin();
                out[first + pair[1]] = high * angle.cos() + low * angle.sin();
            }
        }
    }
    out
}

/// `x` with `bias [c]` added to every row.
pub fn bias(x: &[f64], bias: &[f64]) -> Vec<f64> {
    x.iter().enumerate().map(|(i, x)| x + bias[i % bias.len()]).collect()
}

/// Returns `qkv` with normalised queries and keys, and `rstd`: of the queries of all rows, followed
/// by that of the keys. The length of a weight is that of the vectors that are normalised.
pub fn qk_norm(qkv: &[f64], weights: [&[f64]; 2], eps: f64, dims: &Dims) -> (Vec<f64>, Vec<f64>) {
    let Dims { h, g, d, .. } = *dims;
    let (mut out, mut rstd) = (qkv.to_vec(), [Vec::new(), Vec::new()]);
    for row in out.chunks_exact_mut(dims.qkv()) {
        let (queries, rest) = row.split_at_mut(h * d);
        let both = [queries, &mut rest[..g * d]];
        for ((x, weight), rstd) in both.into_iter().zip(weights).zip(&mut rstd) {
            for x in x.chunks_exact_mut(weight.len()) {
                let (normed, scale) = rmsnorm(x, weight, eps, weight.len());
                x.copy_from_slice(&normed);
                rstd.extend(scale);
            }
        }
    }
    (out, rstd.concat())
}

/// Rounding of stored values: that of a naive version, or [`exact`].
pub type Store = fn(f64) -> f64;

/// No rounding.
pub fn exact(value: f64) -> f64 {
    value
}

/// One row of one head of attention: its keys, e^(score − largest) of each, their sum, and the
/// log-sum-exp.
struct Softmax {
    keys: std::ops::Range<usize>,
    kv: usize,
    powers: Vec<f64>,
    sum: f64,
    lse: f64,
}

/// The rows of packed queries, keys and values.
struct Packed<'a> {
    qkv: &'a [f64],
    starts: &'a [i32],
    scale: f64,
    /// 0 means no window.
    window: usize,
    shape: Shape,
    dims: &'a Dims,
}

impl Packed<'_> {
    fn query(&self, n: usize, head: usize) -> &[f64] {
        &self.qkv[n * self.dims.qkv() + head * self.dims.d..][..self.dims.d]
    }

    fn key(&self, n: usize, kv: usize) -> &[f64] {
        self.query(n, self.dims.h + kv)
    }

    fn value(&self, n: usize, kv: usize) -> &[f64] {
        self.query(n, self.dims.h + self.dims.g + kv)
    }

    fn softmax(&self, n: usize, head: usize) -> Softmax {
        let kv = head / (self.dims.h / self.dims.g);
        let sequence = n / self.shape.t * self.shape.t;
        let window = if self.window == 0 { n + 1 } else { self.window };
        let keys = (sequence + self.starts[n] as usize).max((n + 1).saturating_sub(window))..n + 1;
        let q = self.query(n, head);
        let scores: Vec<f64> = keys.clone().map(|key| dot(q, self.key(key, kv)) * self.scale).collect();
        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let powers: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
        let sum: f64 = powers.iter().sum();
        Softmax { keys, kv, powers, sum, lse: largest + sum.ln() }
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add_scaled(out: &mut [f64], by: f64, x: &[f64]) {
    out.iter_mut().zip(x).for_each(|(out, x)| *out += by * x);
}

/// Returns the output `[N, H·D]` and the log-sum-exp `[H, N]`. Exponentials are stored before they
/// multiply values.
pub fn attention_in(
    store: Store,
    qkv: &[f64],
    starts: &[i32],
    (scale, window): (f64, usize),
    shape: Shape,
    dims: &Dims,
) -> (Vec<f64>, Vec<f64>) {
    let packed = Packed { qkv, starts, scale, window, shape, dims };
    let (mut out, mut lse) = (Vec::new(), vec![0.0; dims.h * shape.n()]);
    for n in 0..shape.n() {
        for head in 0..dims.h {
            let softmax = packed.softmax(n, head);
            let mut row = vec![0.0; dims.d];
            for (key, power) in softmax.keys.zip(&softmax.powers) {
                add_scaled(&mut row, store(*power), packed.value(key, softmax.kv));
            }
            out.extend(row.iter().map(|sum| store(sum / softmax.sum)));
            lse[head * shape.n() + n] = softmax.lse;
        }
    }
    (out, lse)
}

pub fn attention(
    qkv: &[f64],
    starts: &[i32],
    (scale, window): (f64, usize),
    shape: Shape,
    dims: &Dims,
) -> (Vec<f64>, Vec<f64>) {
    attention_in(exact, qkv, starts, (scale, window), shape, dims)
}

/// The gradient `[N, (H+2G)·D]`. Only used to estimate the error of a naive version; the truth
/// comes from central differences. Probabilities and the gradients of scores are stored before they
/// enter a matmul.
pub fn attention_backward_in(
    store: Store,
    qkv: &[f64],
    dout: &[f64],
    starts: &[i32],
    (scale, window): (f64, usize),
    shape: Shape,
    dims: &Dims,
) -> Vec<f64> {
    let (packed, d) = (Packed { qkv, starts, scale, window, shape, dims }, dims.d);
    let (out, _) = attention_in(store, qkv, starts, (scale, window), shape, dims);
    let mut dqkv = vec![0.0; qkv.len()];
    for n in 0..shape.n() {
        for head in 0..dims.h {
            let softmax = packed.softmax(n, head);
            let at = n * dims.attention_width() + head * d;
            let (dout, delta) = (&dout[at..][..d], dot(&dout[at..][..d], &out[at..][..d]));
            for (key, power) in softmax.keys.zip(&softmax.powers) {
                let p = power / softmax.sum;
                let ds = store(p * (dot(dout, packed.value(key, softmax.kv)) - delta)) * packed.scale;
                let block = |row: usize, column: usize| row * dims.qkv() + column * d;
                add_scaled(&mut dqkv[block(n, head)..][..d], ds, packed.key(key, softmax.kv));
                add_scaled(&mut dqkv[block(key, dims.h + softmax.kv)..][..d], ds, packed.query(n, head));
                add_scaled(&mut dqkv[block(key, dims.h + dims.g + softmax.kv)..][..d], store(p), dout);
            }
        }
    }
    dqkv.iter_mut().for_each(|value| *value = store(*value));
    dqkv
}

/// activation(gate) · up.
pub fn glu(activation: Activation, gate_up: &[f64], f: usize) -> Vec<f64> {
    let activate = |x: f64| match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::GeluTanh => {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
        }
    };
    gate_up.chunks_exact(2 * f).flat_map(|row| (0..f).map(|i| activate(row[i]) * row[f + i])).collect()
}

/// Σ weight · nll over rows whose target is not −100.
pub fn cross_entropy(logits: &[f64], targets: &[i32], weights: &[f64], v: usize) -> f64 {
    let rows = logits.chunks_exact(v).zip(targets).zip(weights);
    rows.filter(|((_, target), _)| **target != -100)
        .map(|((logits, &target), weight)| {
            let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = logits.iter().map(|x| (x - largest).exp()).sum();
            weight * (largest + sum.ln() - logits[target as usize])
        })
        .sum()
}
