//! QK-norm against its f64 reference.

use horizon::base::Dims;
use horizon::ops::{Heads, NormSpan, QkNormBackward, QkNormForward, Write};
use support::reference::compare::{added, close, gradient_of, inner};
use support::reference::device::{Device, Expected};
use support::reference::memory::Memory;
use support::reference::{Random, gain, qk_norm, wide};
use support::spans;

const EPS: f32 = 1e-5;

/// `(n, h, g, d, reason)`.
const SIZES: &[(usize, usize, usize, usize, &str)] = &[
    (1, 1, 1, 2, "the smallest"),
    (31, 4, 2, 6, "GQA, less than a tile of rows"),
    (64, 3, 1, 34, "MQA, exactly a tile of rows, a head longer than the lanes of a sum"),
    (65, 2, 2, 64, "MHA, one row more than a tile"),
    (130, 4, 1, 10, "two tiles and a tail"),
    (33, 3, 1, 128, "large heads, an odd number of them"),
];

/// The columns that are normalised together, and the offset.
const OPTIONS: [(NormSpan, f32); 4] =
    [(NormSpan::Head, 0.0), (NormSpan::Head, 1.0), (NormSpan::AllHeads, 0.0), (NormSpan::AllHeads, 1.0)];

struct Case {
    span: NormSpan,
    offset: f32,
    n: usize,
    dims: Dims,
    qkv: Vec<f32>,
    weights: [Vec<f32>; 2],
    reason: &'static str,
}

impl Case {
    /// The expected `out` and `rstd`.
    fn truth(&self) -> (Vec<f64>, Vec<f64>) {
        let [q, k] = self.weights.each_ref().map(|weight| wide(weight));
        self.reference(&wide(&self.qkv), [&q, &k])
    }

    fn reference(&self, qkv: &[f64], weights: [&[f64]; 2]) -> (Vec<f64>, Vec<f64>) {
        let [q, k] = weights.map(|weight| gain(weight, self.offset));
        qk_norm(qkv, [&q, &k], f64::from(EPS), &self.dims)
    }

    /// Lengths of the weights of queries and keys.
    fn widths(&self) -> [usize; 2] {
        self.weights.each_ref().map(Vec::len)
    }

    /// The gradients, set or added to `before` as `write` says.
    fn backward(&self, device: &Device, dout: &[f32], before: &[Vec<f32>; 2], write: Write) -> Vec<Memory> {
        let Case { span, offset, n, .. } = *self;
        let rstd: Vec<f32> = self.truth().1.iter().map(|&r| r as f32).collect();
        let (qkv, rstd) = (device.activations(&self.qkv), device.f32s(&rstd));
        let weights = self.weights.each_ref().map(|weight| device.bf16s(weight));
        let [q_weight, k_weight] = weights.each_ref().map(Memory::span);
        let (dweight_write, heads) = (write, Heads::from(&self.dims));
        device.run(|k| {
            let dqkv = device.activations(dout);
            let dweights = before.each_ref().map(|before| match write {
                Write::Set => device.poisoned(before.len() * 4),
                Write::Add => device.f32s(before),
            });
            let [dq_weight, dk_weight] = dweights.each_ref().map(Memory::span);
            let backward = QkNormBackward {
                dqkv: dqkv.span(),
                dq_weight,
                dk_weight,
                qkv: qkv.span(),
                rstd: rstd.span(),
                q_weight,
                k_weight,
                span,
                offset,
                dweight_write,
                n,
                heads,
            };
            spans::run(k, &backward.into());
            let [dq, dk] = dweights;
            vec![dqkv, dq, dk]
        })
    }
}

fn cases(device: &Device, random: &mut Random) -> Vec<Case> {
    let mut cases = Vec::new();
    for &(n, h, g, d, reason) in SIZES.iter().filter(|size| device.takes_heads(size.3)) {
        let dims = Dims { c: 1, h, g, d, f: 1, v: 1, l: 1 };
        for (span, offset) in OPTIONS {
            let qkv = device.stored(random.f32s(n * dims.qkv(), 2.0));
            let weights = span.widths(&Heads::from(&dims)).map(|width| random.bf16s(width, 1.5));
            cases.push(Case { span, offset, n, dims, qkv, weights, reason });
        }
    }
    cases
}

#[test]
fn forward_agrees() {
    for device in Device::all() {
        let mut random = Random::new(31);
        for case in cases(&device, &mut random) {
            let Case { span, offset, n, dims, reason, .. } = case;
            let qkv = device.activations(&case.qkv);
            let weights = case.weights.each_ref().map(|weight| device.bf16s(weight));
            let [q_weight, k_weight] = weights.each_ref().map(Memory::span);
            let (eps, heads, qkv) = (EPS, Heads::from(&dims), qkv.span());
            let results = device.run(|k| {
                let out = device.poisoned_activations(n * dims.qkv());
                let rstd = device.poisoned(n * span.spans(&heads) * 4);
                let (out_span, rstd_span) = (out.span(), rstd.span());
                let forward = QkNormForward {
                    out: out_span,
                    rstd: rstd_span,
                    qkv,
                    q_weight,
                    k_weight,
                    span,
                    offset,
                    eps,
                    n,
                    heads,
                };
                spans::run(k, &forward.into());
                vec![out, rstd]
            });
            let (out, rstd) = case.truth();
            let width = dims.qkv();
            let expected = Expected { truth: &out, naive: None, width, factor: 2.0, f32: (2e-6, 0.0) };
            device.agrees(reason, &results[0], expected);
            close(reason, &results[1].read_f32(), &rstd, 2e-6, 0.0);
        }
    }
}

#[test]
fn backward_agrees() {
    for device in Device::all() {
        let mut random = Random::new(32);
        for case in cases(&device, &mut random) {
            let Case { n, dims, reason, .. } = case;
            let dout = device.stored(random.f32s(n * dims.qkv(), 1.0));
            let before = case.widths().map(|width| random.f32s(width, 1.0));
            let [set, sum] =
                [Write::Set, Write::Add].map(|write| case.backward(&device, &dout, &before, write));
            let [dq, dk] = [1, 2].map(|at| set[at].read_f32());
            if device.is_cpu() {
                let qkv64 = wide(&case.qkv);
                let [q64, k64] = case.weights.each_ref().map(|weight| wide(weight));
                let loss = |qkv: &[f64], q: &[f64], k: &[f64]| inner(&case.reference(qkv, [q, k]).0, &dout);
                let dqkv = device.read(&set[0]);
                gradient_of(reason, &dqkv, &qkv64, 60, &mut random, |qkv| loss(qkv, &q64, &k64));
                gradient_of(reason, &dq, &q64, 40, &mut random, |q| loss(&qkv64, q, &k64));
                gradient_of(reason, &dk, &k64, 40, &mut random, |k| loss(&qkv64, &q64, k));
            } else {
                let cpu = case.backward(&Device::Cpu, &dout, &before, Write::Set);
                let truth = wide(&cpu[0].read_f32());
                let width = dims.qkv();
                let expected = Expected { truth: &truth, naive: None, width, factor: 3.0, f32: (0.0, 0.0) };
                device.agrees(reason, &set[0], expected);
                for (found, cpu) in [&dq, &dk].into_iter().zip(&cpu[1..]) {
                    close(reason, found, &wide(&cpu.read_f32()), 1e-6, 2e-6);
                }
            }
            assert_eq!(sum[0].bytes(), set[0].bytes(), "dqkv differs");
            added(reason, &sum[1].read_f32(), &before[0], &dq);
            added(reason, &sum[2].read_f32(), &before[1], &dk);
        }
    }
}
