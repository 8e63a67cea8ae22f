//! Attention against its f64 reference.

use horizon::base::{Dims, Shape};
use horizon::ops::{AttentionBackward, AttentionForward, Heads};
use support::reference::compare::{gradient_of, inner, judged};
use support::reference::decoder::documents;
use support::reference::device::{Device, Expected, stored_bf16};
use support::reference::memory::Memory;
use support::reference::rows::{DocumentRows, Rows};
use support::reference::{Random, attention, attention_backward_in, attention_in, wide};
use support::spans;

/// `(b, t, h, g, d, reason)`.
const SIZES: &[(usize, usize, usize, usize, usize, &str)] = &[
    (1, 1, 1, 1, 2, "the smallest"),
    (2, 2, 2, 1, 4, "MQA: one key head for all query heads"),
    (2, 31, 4, 2, 6, "GQA, less than a block"),
    (1, 33, 3, 3, 16, "MHA: as many key heads as query heads"),
    (1, 64, 2, 1, 8, "exactly one block of queries"),
    (2, 127, 2, 2, 10, "one row less than two blocks"),
    (1, 200, 4, 1, 12, "blocks of keys above the diagonal"),
    (1, 321, 2, 1, 32, "three blocks of keys and a tail"),
    (1, 1, 1, 1, 64, "the smallest on CUDA"),
    (2, 33, 4, 2, 64, "two sequences within a tile of tensor cores"),
    (1, 65, 2, 1, 96, "one row more than a tile of queries"),
    (2, 97, 2, 2, 128, "sequences that end within tiles"),
    (1, 40, 2, 1, 256, "the largest heads, whose keys and values take two kernels"),
];

/// Windows: none, the row alone, a few rows, across a block of keys, wider than most sequences.
const WINDOWS: &[usize] = &[0, 1, 5, 70, 150];

struct Case {
    shape: Shape,
    dims: Dims,
    qkv: Vec<f32>,
    starts: Vec<i32>,
    scale: f32,
    window: usize,
    reason: &'static str,
}

impl Case {
    fn n(&self) -> usize {
        self.shape.n()
    }

    /// Returns `out` and `lse`, and `dqkv` if `dout` is given.
    fn run(&self, device: &Device, dout: Option<&[f32]>) -> Vec<Memory> {
        let Case { shape, dims, scale, window, .. } = *self;
        let (n, qkv) = (self.n(), device.activations(&self.qkv));
        let heads = Heads::from(&dims);
        let dout = dout.map(|dout| device.activations(dout));
        let documents = DocumentRows::new(device, shape, &self.starts);
        let Rows { doc_start, doc_end, .. } = documents.rows();
        device.run(|k| {
            let out = device.poisoned_activations(n * dims.attention_width());
            let lse = device.poisoned(n * dims.h * 4);
            let (out_span, lse_span, qkv) = (out.span(), lse.span(), qkv.span());
            let forward = AttentionForward {
                out: out_span,
                lse: lse_span,
                qkv,
                doc_start,
                scale,
                window,
                shape,
                heads,
            };
            spans::run(k, &forward.into());
            let Some(dout) = &dout else { return vec![out, lse] };
            let dqkv = device.poisoned_activations(n * dims.qkv());
            let backward = AttentionBackward {
                dqkv: dqkv.span(),
                dout: dout.span(),
                out: out_span,
                lse: lse_span,
                qkv,
                doc_start,
                doc_end,
                scale,
                window,
                shape,
                heads,
            };
            spans::run(k, &backward.into());
            vec![out, lse, dqkv]
        })
    }
}

/// All devices, and additionally CUDA devices with wgmma attention.
fn devices() -> impl Iterator<Item = Device> {
    Device::all().into_iter().chain(Device::by_wgmma())
}

/// Every size with whole sequences and with documents, with a scale of 1/√D and another, and with
/// every window shorter than the sequence.
fn cases(device: &Device, random: &mut Random) -> Vec<Case> {
    let mut cases = Vec::new();
    for &(b, t, h, g, d, reason) in SIZES.iter().filter(|size| device.takes_heads(size.4)) {
        let (shape, dims) = (Shape { b, t }, Dims { c: 1, h, g, d, f: 1, v: 1, l: 1 });
        for &window in WINDOWS.iter().filter(|&&window| window < t) {
            for (factor, starts) in [(1.0, vec![0; shape.n()]), (0.6, documents(shape, random))] {
                let qkv = device.stored(random.f32s(shape.n() * dims.qkv(), 2.0));
                let scale = factor / (d as f32).sqrt();
                cases.push(Case { shape, dims, qkv, starts, scale, window, reason });
            }
        }
    }
    cases
}

#[test]
fn forward_agrees() {
    for device in devices() {
        let mut random = Random::new(8);
        for case in cases(&device, &mut random) {
            let Case { shape, dims, qkv, starts, scale, window, reason } = &case;
            let results = case.run(&device, None);
            let (out, lse) = attention(&wide(qkv), starts, (f64::from(*scale), *window), *shape, dims);
            let (naive, _) =
                attention_in(stored_bf16, &wide(qkv), starts, (f64::from(*scale), *window), *shape, dims);
            // Errors are compared per sixteen rows: in a row of few keys the naive version can be exact by
            // chance.
            let expected = Expected {
                truth: &out,
                naive: Some(&naive),
                width: 16 * dims.attention_width(),
                factor: 2.0,
                f32: (1e-5, 2e-6),
            };
            device.agrees(reason, &results[0], expected);
            // The rounding error of a score is relative to the sum of the magnitudes of its terms, since
            // terms may cancel. The log-sum-exp of these sums bounds the largest of them.
            let magnitudes: Vec<f64> = wide(qkv).iter().map(|x| x.abs()).collect();
            let (_, magnitude) = attention(&magnitudes, starts, (f64::from(*scale), *window), *shape, dims);
            let roundings = if device.is_cpu() { 4.0 } else { 8.0 };
            for (at, actual) in results[1].read_f32().into_iter().enumerate() {
                let allowed = roundings * 2f64.powi(-24) * (lse[at].abs() + magnitude[at]);
                let error = (f64::from(actual) - lse[at]).abs();
                assert!(error <= allowed, "{reason}: lse[{at}] is {actual}, expected {}", lse[at]);
            }
        }
    }
}

#[test]
fn backward_agrees() {
    for device in devices() {
        let mut random = Random::new(9);
        for case in cases(&device, &mut random) {
            let Case { shape, dims, qkv, starts, scale, window, reason } = &case;
            let dout = device.stored(random.f32s(case.n() * dims.attention_width(), 1.0));
            let results = case.run(&device, Some(&dout));
            if device.is_cpu() {
                gradient_of(reason, &results[2].read_f32(), &wide(qkv), 10, &mut random, |qkv| {
                    inner(&attention(qkv, starts, (f64::from(*scale), *window), *shape, dims).0, &dout)
                });
                continue;
            }
            let truth = wide(&case.run(&Device::Cpu, Some(&dout))[2].read_f32());
            let naive = attention_backward_in(
                stored_bf16,
                &wide(qkv),
                &wide(&dout),
                starts,
                (f64::from(*scale), *window),
                *shape,
                dims,
            );
            let actual = wide(&device.read(&results[2]));
            // Gradients of queries, keys and values have different magnitudes, so each is compared
            // separately.
            let (heads, d) =
                ([0..dims.h, dims.h..dims.h + dims.g, dims.h + dims.g..dims.h + 2 * dims.g], dims.d);
            for (heads, what) in heads.into_iter().zip(["dq", "dk", "dv"]) {
                let cut = |all: &[f64]| -> Vec<f64> {
                    let rows = all.chunks_exact(dims.qkv());
                    rows.flat_map(|row| row[heads.start * d..heads.end * d].to_vec()).collect()
                };
                let (truth, naive, width) = (cut(&truth), cut(&naive), 16 * heads.len() * d);
                judged(&format!("{reason}: {what}"), &cut(&actual), &truth, &naive, 3.0, width);
            }
        }
    }
}

/// Rows of other documents, before the window and after the query are never read: large numbers
/// there change nothing.
#[test]
fn nothing_outside_the_run_is_read() {
    for device in devices() {
        let mut random = Random::new(10);
        let (shape, dims) = (Shape { b: 1, t: 150 }, Dims { c: 1, h: 2, g: 1, d: 64, f: 1, v: 1, l: 1 });
        let mut starts = vec![0; 70];
        starts.resize(150, 70);
        let clean = device.stored(random.f32s(shape.n() * dims.qkv(), 1.0));
        let mut loud = clean.clone();
        for value in &mut loud[..70 * dims.qkv()] {
            *value *= 65536.0 * 65536.0;
        }
        let dout = device.stored(random.f32s(shape.n() * dims.attention_width(), 1.0));
        let behind = |row: usize, qkv: &[f32], starts: &[i32], window: usize| {
            let (qkv, starts, scale) = (qkv.to_vec(), starts.to_vec(), 0.125);
            let case = Case { shape, dims, qkv, starts, scale, window, reason: "rows outside the run" };
            let results = case.run(&device, Some(&dout));
            let (out, dqkv) = (device.read(&results[0]), device.read(&results[2]));
            [out[row * dims.attention_width()..].to_vec(), dqkv[row * dims.qkv()..].to_vec()]
        };
        assert_eq!(behind(70, &clean, &starts, 0), behind(70, &loud, &starts, 0), "{}", device.name());
        // Row 80 sees rows 70 and later with a window of 11, and row 69 with one of 12.
        let whole = vec![0; 150];
        assert_eq!(behind(80, &clean, &whole, 11)[0], behind(80, &loud, &whole, 11)[0], "{}", device.name());
        assert_ne!(behind(80, &clean, &whole, 12)[0], behind(80, &loud, &whole, 12)[0], "{}", device.name());
    }
}
