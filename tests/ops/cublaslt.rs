//! GEMMs by cuBLASLt against f64 sums: every direction, both write modes, poisoned outputs,
//! strides, and the same bits from a second run and from the table that the first run returns. Uses
//! the emulated library in builds with kernels, and NVIDIA's if there is a GPU.

use horizon::base::master::widen;
use horizon::ops::cuda::gemm::{Direction, Gemm};
use horizon::ops::cuda::matmul::Gemms;
use horizon::ops::cuda::table::Table;
use horizon::ops::cuda::workspace::GEMM_BYTES;
use horizon::sys::cuda::Stream;
use horizon::sys::cuda::cublaslt::Handle;
use support::reference::Random;
use support::reference::cuda::Cuda;
use support::reference::memory::Memory;

/// `(n, k, m, padding of rows, reason)`.
const SIZES: [(usize, usize, usize, usize, &str); 6] = [
    (1, 8, 8, 0, "the smallest vectors"),
    (2, 64, 72, 8, "gaps between rows"),
    (33, 1024, 40, 0, "many terms for few results, where split-K would be chosen"),
    (127, 96, 264, 16, "tails of every tile"),
    (128, 256, 256, 0, "whole tiles"),
    (5, 40, 33, 7, "an odd width with gaps between rows"),
];

struct Case {
    gemm: Gemm,
    scale: f32,
    x: Vec<f32>,
    dout: Vec<f32>,
    weight: Vec<f32>,
    /// The previous contents of the output, NaN where a GEMM overwrites.
    before: Vec<f32>,
    /// True if forward's residual is another matrix than its output.
    separate: bool,
    bias: Vec<f32>,
}

impl Case {
    fn is_f32(&self) -> bool {
        self.gemm.direction == Direction::BackwardWeight
    }

    fn output(&self, cuda: &Cuda, values: &[f32]) -> Memory {
        cuda.here(if self.is_f32() { Memory::f32s(values) } else { Memory::bf16s(values) })
    }

    fn run(&self, cuda: &Cuda, gemms: &Gemms, stream: &Stream) -> Vec<u8> {
        let gemm = &self.gemm;
        let [x, dout, weight] = [&self.x, &self.dout, &self.weight].map(|v| cuda.here(Memory::bf16s(v)));
        let out = self.output(cuda, &self.before);
        let (poisoned, bias) =
            (self.output(cuda, &vec![f32::NAN; self.before.len()]), cuda.here(Memory::bf16s(&self.bias)));
        let target = if self.separate { &poisoned } else { &out };
        let (a, b) = match gemm.direction {
            Direction::Forward => (&weight, &x),
            Direction::BackwardInput => (&weight, &dout),
            Direction::BackwardWeight => (&x, &dout),
        };
        let matrices = [target, a, b].map(Memory::span);
        let addends = [gemm.add.then(|| out.span()), gemm.bias.then(|| bias.span())];
        // SAFETY: only this test uses the operands; they are as long as the GEMM says and outlive it:
        // `bytes` waits for the CUDA stream.
        unsafe { gemms.multiply(gemm, matrices, self.scale, addends, stream) }.unwrap();
        target.bytes()
    }

    /// For every element of the output: its index, the expected sum and the sum of magnitudes.
    fn truth(&self) -> Vec<(usize, f64, f64)> {
        let Gemm { direction, n, k, m, x_stride, out_stride, add, bias } = self.gemm;
        let (rows, columns, depth, stride) = match direction {
            Direction::Forward => (n, m, k, out_stride),
            Direction::BackwardInput => (n, k, m, x_stride),
            Direction::BackwardWeight => (m, k, n, k),
        };
        let mut truth = Vec::new();
        for row in 0..rows {
            for column in 0..columns {
                let at = row * stride + column;
                let mut sum = if add { f64::from(self.before[at]) } else { 0.0 };
                let mut size = sum.abs();
                if bias {
                    (sum, size) =
                        (sum + f64::from(self.bias[column]), size + f64::from(self.bias[column].abs()));
                }
                for t in 0..depth {
                    let (a, b) = match direction {
                        Direction::Forward => (self.x[row * x_stride + t], self.weight[column * k + t]),
                        Direction::BackwardInput => {
                            (self.dout[row * out_stride + t], self.weight[t * k + column])
                        }
                        Direction::BackwardWeight => {
                            (self.dout[t * out_stride + row], self.x[t * x_stride + column])
                        }
                    };
                    let term = f64::from(self.scale) * f64::from(a) * f64::from(b);
                    (sum, size) = (sum + term, size + term.abs());
                }
                truth.push((at, sum, size));
            }
        }
        truth
    }

    /// Checks that results differ from f64 by at most one rounding of the result and those of an
    /// f32 sum.
    fn check(&self, bytes: &[u8]) {
        let found: Vec<f32> = if self.is_f32() {
            bytes.chunks_exact(4).map(|b| f32::from_ne_bytes(b.try_into().unwrap())).collect()
        } else {
            bytes.chunks_exact(2).map(|b| widen(u16::from_ne_bytes(b.try_into().unwrap()))).collect()
        };
        let rounding = if self.is_f32() { 2f64.powi(-24) } else { 2f64.powi(-8) };
        let terms = self.gemm.n.max(self.gemm.k).max(self.gemm.m) as f64;
        for (at, truth, size) in self.truth() {
            let allowed = rounding * truth.abs() + terms * 2f64.powi(-23) * size;
            let error = (f64::from(found[at]) - truth).abs();
            assert!(error <= allowed, "{:?} at {at}: {} for {truth}, off by {error:e}", self.gemm, found[at]);
        }
    }
}

#[test]
fn gemms_agree_with_f64_and_are_reproducible() {
    Cuda::all().for_each(|cuda| check(&cuda));
}

fn check(cuda: &Cuda) {
    let stream = Stream::default_stream();
    let workspace = cuda.here(Memory::poisoned(GEMM_BYTES));
    let make = |table| {
        let handle = Handle::new(cuda.library.clone()).unwrap();
        Gemms::new(handle, cuda.device.clone(), table, workspace.span()).unwrap()
    };
    let gemms = make(Table::default());
    let mut random = Random::new(11);
    let mut results = Vec::new();
    for (n, k, m, padding, _) in SIZES {
        let (x_stride, out_stride) = (k + padding, m + padding);
        for direction in [Direction::Forward, Direction::BackwardInput, Direction::BackwardWeight] {
            for (add, separate, bias, scale) in [
                (false, false, false, 1.0),
                (true, false, false, 0.22),
                (true, true, false, 1.0),
                (false, false, true, 1.0),
                (true, true, true, 0.22),
            ] {
                if (separate || bias) && direction != Direction::Forward {
                    continue;
                }
                let gemm = Gemm { direction, add, bias, n, k, m, x_stride, out_stride };
                let length = match direction {
                    Direction::Forward => n * out_stride,
                    Direction::BackwardInput => n * x_stride,
                    Direction::BackwardWeight => m * k,
                };
                let case = Case {
                    gemm,
                    scale,
                    x: random.bf16s(n * x_stride, 1.0),
                    dout: random.bf16s(n * out_stride, 1.0),
                    weight: random.bf16s(m * k, 1.0),
                    before: if add { random.bf16s(length, 3.0) } else { vec![f32::NAN; length] },
                    separate,
                    bias: random.bf16s(m, 3.0),
                };
                let bytes = case.run(cuda, &gemms, &stream);
                case.check(&bytes);
                assert_eq!(case.run(cuda, &gemms, &stream), bytes, "{gemm:?}: a second run gives other bits");
                results.push((case, bytes));
            }
        }
    }
    // The second has a bias.
    for at in [0, 3] {
        the_fastest_algorithm_is_chosen(cuda, &gemms, &make, &results[at].0, &stream);
    }
    let table = Table::from_json(&gemms.choices().to_json(), "the first run's").unwrap();
    assert_eq!(table.iter().count(), SIZES.len() * 8);
    let again = make(table.clone());
    for (case, bytes) in &results {
        assert_eq!(&case.run(cuda, &again, &stream), bytes, "{:?}: the table gives other bits", case.gemm);
    }
    assert_eq!(again.choices(), table);
}

/// Uses a fake clock that runs every algorithm and returns the shortest time for the second.
fn the_fastest_algorithm_is_chosen(
    cuda: &Cuda,
    gemms: &Gemms,
    make: &impl Fn(Table) -> Gemms,
    case: &Case,
    stream: &Stream,
) {
    let operands = [Memory::bf16s(&case.before), Memory::bf16s(&case.weight), Memory::bf16s(&case.x)];
    let operands = operands.map(|memory| cuda.here(memory));
    let spans = [operands[0].span(), operands[1].span(), operands[2].span()];
    let mut times = vec![];
    let mut clock = |run: &dyn Fn() -> horizon::base::Result<()>| {
        run()?;
        times.push([30, 10, 20].get(times.len()).copied().unwrap_or(40));
        Ok(*times.last().expect("just pushed"))
    };
    // SAFETY: as for `multiply`.
    let (key, choice) = unsafe { gemms.fastest(&case.gemm, 4, spans, stream, &mut clock) }.unwrap();
    assert!(!times.is_empty() && times.len() <= 4);
    assert!(cuda.is_gpu() || times.len() == 3, "the emulated library has three algorithms: {times:?}");
    let first = gemms.choices().get(&key).expect("it was prepared");
    assert_eq!(choice != first, times.len() > 1, "the second algorithm is chosen if there is one");
    let mut table = Table::default();
    table.insert(key.clone(), choice);
    let tabled = make(table);
    case.check(&case.run(cuda, &tabled, stream));
    assert_eq!(tabled.choices().get(&key), Some(choice));
}
