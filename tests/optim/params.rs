//! Parameters for the tests of AdamW.

use horizon::base::{DType, master};
use horizon::host::{Arena, HostSpan, Isa, MemoryKind};
use horizon::optim::{Master, Optimizer, Spans};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use support::spans::{read_master, set, write_master};

/// Parameters in separate memory, with poisoned bytes around each span.
pub struct Params {
    pub arena: Arena,
    pub spans: Spans,
    pub weights: HostSpan,
    pub residual: HostSpan,
    pub m: HostSpan,
    pub v: HostSpan,
}

pub const POISON: u8 = 0xA5;

impl Params {
    /// `n` parameters in spans that start `offset` elements after a page border.
    pub fn new(n: usize, offset: usize, gradient_dtype: DType) -> Params {
        let stride = ((n + offset + 64) * 4).next_multiple_of(4096);
        let arena = Arena::take(5 * stride, MemoryKind::Plain).unwrap();
        let whole = arena.whole();
        set(whole, &vec![POISON; whole.bytes()]);
        let span = |at: usize, size: usize| whole.subspan(at * stride + offset * size, n * size);
        let (weights, residual, m, v) = (span(0, 2), span(1, 2), span(3, 4), span(4, 4));
        let spans = Spans {
            master: Master::Split { weights, residual },
            gradient: span(2, gradient_dtype.bytes()),
            gradient_dtype,
            optimizer: Optimizer::AdamW { moments: DType::F32 },
            state: [m, v],
        };
        Params { arena, spans, weights, residual, m, v }
    }

    /// Values of all magnitudes that occur in training, and some beyond.
    pub fn random(n: usize, offset: usize, gradient_dtype: DType, seed: u64) -> Params {
        let params = Params::new(n, offset, gradient_dtype);
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut values = |low: i32, high: i32, signed: bool| -> Vec<f32> {
            (0..n)
                .map(|_| {
                    let magnitude =
                        random.random_range(1.0f32..2.0) * 2f32.powi(random.random_range(low..high));
                    if signed && random.random() { -magnitude } else { magnitude }
                })
                .collect()
        };
        write_master(params.weights, params.residual, &values(-20, 4, true));
        set(params.m, &values(-30, 2, true));
        set(params.v, &values(-60, 4, false));
        params.set_gradient(&values(-24, 6, true));
        params
    }

    /// The same parameters with bf16 moments, rounded to nearest.
    pub fn compact(&self) -> Spans {
        let n = self.spans.elements();
        let halve = |span: HostSpan| {
            let half = span.subspan(0, 2 * n);
            set(half, &numbers(span).into_iter().map(master::round).collect::<Vec<u16>>());
            half
        };
        let optimizer = Optimizer::AdamW { moments: DType::Bf16 };
        Spans { optimizer, state: [halve(self.m), halve(self.v)], ..self.spans }
    }

    pub fn set_gradient(&self, values: &[f32]) {
        match self.spans.gradient_dtype {
            DType::F32 => set(self.spans.gradient, values),
            DType::Bf16 => {
                let rounded: Vec<u16> = values.iter().map(|value| master::round(*value)).collect();
                set(self.spans.gradient, &rounded);
            }
        }
    }

    pub fn master(&self) -> Vec<f32> {
        read_master(self.weights, self.residual)
    }

    /// All bytes of the memory, including those around the spans.
    pub fn bytes(&self) -> Vec<u8> {
        support::spans::numbers(self.arena.whole())
    }
}

pub fn numbers(span: HostSpan) -> Vec<f32> {
    support::spans::numbers(span)
}

pub fn isas() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| {
        if !isa.is_here() {
            eprintln!("skipped: this processor does not have {isa}");
        }
        isa.is_here()
    })
}

pub const BOTH: [DType; 2] = [DType::Bf16, DType::F32];
