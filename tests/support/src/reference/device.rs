//! The devices that an operation is tested on: the CPU always, and a GPU where one is, or else our CUDA kernels on the
//! emulated device wherever they are built. `HZ_REQUIRE_GPU=1` makes the lack of one a failure.

use std::sync::Arc;

use horizon::base::{DType, master};
use horizon::host::Pool;
use horizon::ops::Kernels;
use horizon::ops::cpu::CpuKernels;
use horizon::ops::cuda::workspace::HEAD_DIMS;

use super::compare::{close, judged};
use super::cuda::Cuda;
use super::memory::{Memory, same_bits};
use super::wide;

/// A device under test.
pub enum Device {
    /// The reference, of f32 storage.
    Cpu,
    /// Our kernels, of bf16 storage.
    Cuda(Box<Cuda>),
}

/// What a result answers to.
pub struct Expected<'a> {
    /// What is right.
    pub truth: &'a [f64],
    /// What a plain version of the storage's precision gives; unless given, the truth rounded.
    pub naive: Option<&'a [f64]>,
    /// How many elements are judged together.
    pub width: usize,
    /// How many times the naive version's error is allowed: 2 forward, 3 backward.
    pub factor: f64,
    /// What [`close`] allows where storage is f32: relative, and absolute over the largest.
    pub f32: (f64, f64),
}

impl Device {
    /// All devices that are there. What is not is said.
    pub fn all() -> Vec<Device> {
        let cuda = Cuda::all().map(|cuda| Device::Cuda(Box::new(cuda)));
        std::iter::once(Device::Cpu).chain(cuda).collect()
    }

    /// Those of CUDA where attention is by wgmma.
    pub fn by_wgmma() -> Vec<Device> {
        Cuda::by_wgmma().map(|cuda| Device::Cuda(Box::new(cuda))).collect()
    }

    pub fn is_cpu(&self) -> bool {
        matches!(self, Device::Cpu)
    }

    /// For messages.
    pub fn name(&self) -> &'static str {
        match self {
            Device::Cpu => "cpu",
            Device::Cuda(cuda) => cuda.name(),
        }
    }

    /// Whether rows may have this many columns: CUDA's are whole vectors of 16 bytes.
    pub fn takes_columns(&self, columns: usize) -> bool {
        self.is_cpu() || columns.is_multiple_of(8)
    }

    /// Whether heads may have this size.
    pub fn takes_heads(&self, d: usize) -> bool {
        self.is_cpu() || HEAD_DIMS.contains(&d)
    }

    /// The type of activations.
    pub fn activation_dtype(&self) -> DType {
        match self {
            Device::Cpu => CpuKernels::ACTIVATION_DTYPE,
            Device::Cuda(cuda) => cuda.kernels().activation_dtype(),
        }
    }

    /// The values as storage holds them.
    pub fn stored(&self, mut values: Vec<f32>) -> Vec<f32> {
        if self.activation_dtype() == DType::Bf16 {
            values.iter_mut().for_each(|value| *value = master::widen(master::round(*value)));
        }
        values
    }

    fn here(&self, memory: Memory) -> Memory {
        match self {
            Device::Cpu => memory,
            Device::Cuda(cuda) => cuda.here(memory),
        }
    }

    /// Activations of values that are [`Device::stored`].
    pub fn activations(&self, values: &[f32]) -> Memory {
        self.here(match self.activation_dtype() {
            DType::F32 => Memory::f32s(values),
            DType::Bf16 => Memory::bf16s(values),
        })
    }

    pub fn painted_activations(&self, elements: usize) -> Memory {
        self.painted(elements * self.activation_dtype().bytes())
    }

    pub fn painted(&self, bytes: usize) -> Memory {
        self.here(Memory::painted(bytes))
    }

    pub fn bytes(&self, bytes: &[u8]) -> Memory {
        self.here(Memory::of(bytes.iter().copied()))
    }

    pub fn bf16s(&self, values: &[f32]) -> Memory {
        self.here(Memory::bf16s(values))
    }

    pub fn f32s(&self, values: &[f32]) -> Memory {
        self.here(Memory::f32s(values))
    }

    pub fn f64s(&self, values: &[f64]) -> Memory {
        self.here(Memory::f64s(values))
    }

    pub fn i32s(&self, values: &[i32]) -> Memory {
        self.here(Memory::i32s(values))
    }

    /// The values of activations.
    pub fn read(&self, memory: &Memory) -> Vec<f32> {
        match self.activation_dtype() {
            DType::F32 => memory.read_f32(),
            DType::Bf16 => memory.read_u16().into_iter().map(master::widen).collect(),
        }
    }

    /// Runs a computation on 1, 2 and 4 threads, or under several schedules of the device's threads, holds that all
    /// give the same bits, and gives the results.
    pub fn run(&self, run: impl Fn(&dyn Kernels) -> Vec<Memory>) -> Vec<Memory> {
        match self {
            Device::Cpu => same_bits([1, 2, 4], |threads| {
                run(&CpuKernels::new(Arc::new(Pool::new(threads).expect("a pool"))))
            }),
            Device::Cuda(cuda) => same_bits(cuda.schedules(), |schedule| cuda.run(schedule, &run)),
        }
    }

    /// Runs a computation in one way alone.
    pub fn run_once(&self, run: impl Fn(&dyn Kernels) -> Vec<Memory>) -> Vec<Memory> {
        match self {
            Device::Cpu => run(&CpuKernels::new(Arc::new(Pool::new(2).expect("a pool")))),
            Device::Cuda(cuda) => cuda.run(cuda.schedules()[0], run),
        }
    }

    /// Holds activations against what they should be.
    pub fn agrees(&self, what: &str, memory: &Memory, expected: Expected) {
        let Expected { truth, naive, width, factor, f32: (relative, absolute) } = expected;
        let (what, actual) = (&format!("{}: {what}", self.name()), self.read(memory));
        match self.activation_dtype() {
            DType::F32 => close(what, &actual, truth, relative, absolute),
            DType::Bf16 => {
                let rounded: Vec<f64>;
                let naive = match naive {
                    Some(naive) => naive,
                    None => {
                        rounded = truth.iter().map(|&t| stored_bf16(t)).collect();
                        &rounded
                    }
                };
                judged(what, &wide(&actual), truth, naive, factor, width);
            }
        }
    }
}

/// A number as bf16 holds it, ties to even as kernels round.
pub fn stored_bf16(value: f64) -> f64 {
    f64::from(half::bf16::from_f64(value).to_f32())
}
