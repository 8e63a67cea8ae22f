//! Products by cuBLASLt on a GPU, against f64 sums: every direction, both write modes, painted outputs, strides, and
//! the same bits from a second run and from the table that the first one leaves.
#![cfg(hz_cuda)]

use std::ptr::NonNull;

use horizon::base::master::{round, widen};
use horizon::device::DeviceSpan;
use horizon::ops::cuda::matmul::Products;
use horizon::ops::cuda::product::{Direction, Product};
use horizon::ops::cuda::table::Table;
use horizon::ops::cuda::workspace::PRODUCTS_BYTES;
use horizon::sys::cuda::cublaslt::CublasLt;
use horizon::sys::cuda::{self, DeviceMemory, Stream, device_count, need_device, set_device};

mod reference;
use reference::Random;

/// `(n, k, m, padding of rows, reason)`.
const SIZES: [(usize, usize, usize, usize, &str); 6] = [
    (1, 8, 8, 0, "the smallest vectors"),
    (2, 64, 72, 8, "rows further apart than they are long"),
    (33, 1024, 40, 0, "many terms for few results: where sums might be split"),
    (127, 96, 264, 16, "tails of every tile"),
    (256, 512, 384, 0, "whole tiles"),
    (5, 40, 33, 7, "an odd width in a wider row"),
];

struct Buffer(DeviceMemory);

impl Buffer {
    fn new(bytes: &[u8], stream: &Stream) -> Self {
        let memory = DeviceMemory::take(bytes.len()).unwrap();
        let from = NonNull::new(bytes.as_ptr().cast_mut()).unwrap();
        // SAFETY: both ends are as long as stated, and the stream is waited for before either goes.
        unsafe {
            cuda::copy(memory.base(), from, bytes.len(), cuda::Direction::HostToDevice, stream).unwrap()
        };
        stream.synchronize().unwrap();
        Buffer(memory)
    }

    fn span(&self) -> DeviceSpan {
        // SAFETY: device memory that outlives the products of this test.
        unsafe { DeviceSpan::new(self.0.base(), self.0.bytes()) }
    }

    fn read(&self, stream: &Stream) -> Vec<u8> {
        let mut bytes = vec![0u8; self.0.bytes()];
        let to = NonNull::new(bytes.as_mut_ptr()).unwrap();
        // SAFETY: the vector is as long as the memory and is not touched before the stream has passed.
        unsafe { cuda::copy(to, self.0.base(), bytes.len(), cuda::Direction::DeviceToHost, stream).unwrap() };
        stream.synchronize().unwrap();
        bytes
    }
}

/// bf16 bytes of values that bf16 holds exactly.
fn bf16_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| round(*value).to_ne_bytes()).collect()
}

struct Case {
    product: Product,
    x: Vec<f32>,
    dout: Vec<f32>,
    weight: Vec<f32>,
    /// What the output holds before, NaN where a product overwrites.
    before: Vec<f32>,
    /// Forward's residual is another matrix than its output.
    apart: bool,
}

impl Case {
    fn is_f32(&self) -> bool {
        self.product.direction == Direction::BackwardWeight
    }

    fn bytes(&self, values: &[f32]) -> Vec<u8> {
        if self.is_f32() {
            values.iter().flat_map(|value| value.to_ne_bytes()).collect()
        } else {
            bf16_bytes(values)
        }
    }

    fn run(&self, products: &Products, stream: &Stream) -> Vec<u8> {
        let [x, dout, weight] =
            [&self.x, &self.dout, &self.weight].map(|v| Buffer::new(&bf16_bytes(v), stream));
        let out = Buffer::new(&self.bytes(&self.before), stream);
        match self.product.direction {
            Direction::Forward => {
                let painted = Buffer::new(&self.bytes(&vec![f32::NAN; self.before.len()]), stream);
                let target = if self.apart { &painted } else { &out };
                let residual = self.product.add.then(|| out.span());
                products
                    .forward(target.span(), x.span(), weight.span(), residual, &self.product, stream)
                    .unwrap();
                return target.read(stream);
            }
            Direction::BackwardInput => {
                products
                    .backward_input(out.span(), dout.span(), weight.span(), &self.product, stream)
                    .unwrap();
            }
            Direction::BackwardWeight => {
                products.backward_weight(out.span(), dout.span(), x.span(), &self.product, stream).unwrap();
            }
        }
        out.read(stream)
    }

    /// For every element of the output its place, the sum that belongs there and the sum of magnitudes.
    fn truth(&self) -> Vec<(usize, f64, f64)> {
        let Product { direction, n, k, m, x_stride, out_stride, add } = self.product;
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
                    let term = f64::from(a) * f64::from(b);
                    (sum, size) = (sum + term, size + term.abs());
                }
                truth.push((at, sum, size));
            }
        }
        truth
    }

    /// Within one rounding of the result's type of a sum made in f32.
    fn check(&self, bytes: &[u8]) {
        let found: Vec<f32> = if self.is_f32() {
            bytes.chunks_exact(4).map(|b| f32::from_ne_bytes(b.try_into().unwrap())).collect()
        } else {
            bytes.chunks_exact(2).map(|b| widen(u16::from_ne_bytes(b.try_into().unwrap()))).collect()
        };
        let rounding = if self.is_f32() { 2f64.powi(-24) } else { 2f64.powi(-8) };
        let terms = self.product.n.max(self.product.k).max(self.product.m) as f64;
        for (at, truth, size) in self.truth() {
            let allowed = rounding * truth.abs() + terms * 2f64.powi(-23) * size;
            let error = (f64::from(found[at]) - truth).abs();
            assert!(
                error <= allowed,
                "{:?} at {at}: {} for {truth}, off by {error:e}",
                self.product,
                found[at]
            );
        }
    }
}

#[test]
fn products_agree_with_f64_and_with_themselves() {
    if device_count().unwrap() == 0 {
        let must = std::env::var_os("HZ_REQUIRE_GPU").is_some_and(|value| value == "1");
        let why = need_device(0).unwrap_err();
        assert!(!must, "HZ_REQUIRE_GPU=1, but {why}");
        return println!("skipped: {why}");
    }
    set_device(0).unwrap();
    let stream = Stream::new().unwrap();
    let library = CublasLt::open().unwrap();
    let workspace = Buffer(DeviceMemory::take(PRODUCTS_BYTES).unwrap());
    let products = Products::new(library.clone(), 0, Table::default(), workspace.span()).unwrap();
    let mut random = Random::new(11);
    let mut results = Vec::new();
    for (n, k, m, padding, _) in SIZES {
        let (x_stride, out_stride) = (k + padding, m + padding);
        for direction in [Direction::Forward, Direction::BackwardInput, Direction::BackwardWeight] {
            for (add, apart) in [(false, false), (true, false), (true, true)] {
                if apart && direction != Direction::Forward {
                    continue;
                }
                let product = Product { direction, add, n, k, m, x_stride, out_stride };
                let length = match direction {
                    Direction::Forward => n * out_stride,
                    Direction::BackwardInput => n * x_stride,
                    Direction::BackwardWeight => m * k,
                };
                let case = Case {
                    product,
                    x: random.bf16s(n * x_stride, 1.0),
                    dout: random.bf16s(n * out_stride, 1.0),
                    weight: random.bf16s(m * k, 1.0),
                    before: if add { random.bf16s(length, 3.0) } else { vec![f32::NAN; length] },
                    apart,
                };
                let bytes = case.run(&products, &stream);
                case.check(&bytes);
                assert_eq!(case.run(&products, &stream), bytes, "{product:?}: another run, other bits");
                results.push((case, bytes));
            }
        }
    }
    let table = Table::from_json(&products.choices().to_json(), "the first run's").unwrap();
    assert_eq!(table.iter().count(), SIZES.len() * 6);
    let again = Products::new(library, 0, table.clone(), workspace.span()).unwrap();
    for (case, bytes) in &results {
        assert_eq!(&case.run(&again, &stream), bytes, "{:?}: other bits by the table", case.product);
    }
    assert_eq!(again.choices(), table);
}
