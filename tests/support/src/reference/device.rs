//! The devices that ops are tested on: the CPU always, and a GPU if there is one, otherwise the
//! CUDA kernels on the emulated device if they can be built. With `HZ_REQUIRE_GPU=1` a missing GPU
//! is a failure.

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
    /// The reference, with f32 activations.
    Cpu,
    /// The CUDA kernels, with bf16 activations.
    Cuda(Box<Cuda>),
}

/// The expected values of a result, and the allowed error.
pub struct Expected<'a> {
    /// The exact values.
    pub truth: &'a [f64],
    /// The results of a naive version that stores bf16; by default the exact values rounded to
    /// bf16.
    pub naive: Option<&'a [f64]>,
    /// Number of elements whose errors are compared together.
    pub width: usize,
    /// Allowed multiple of the naive version's error: 2 forward, 3 backward.
    pub factor: f64,
    /// Bounds of [`close`] for f32 activations: relative, and relative to the largest value.
    pub f32: (f64, f64),
}

impl Device {
    /// All available devices. Prints which ones are skipped.
    pub fn all() -> Vec<Device> {
        let cuda = Cuda::all().map(|cuda| Device::Cuda(Box::new(cuda)));
        std::iter::once(Device::Cpu).chain(cuda).collect()
    }

    /// CUDA devices with wgmma attention.
    pub fn by_wgmma() -> Vec<Device> {
        Cuda::by_wgmma().map(|cuda| Device::Cuda(Box::new(cuda))).collect()
    }

    pub fn is_cpu(&self) -> bool {
        matches!(self, Device::Cpu)
    }

    /// The name in messages.
    pub fn name(&self) -> &'static str {
        match self {
            Device::Cpu => "cpu",
            Device::Cuda(cuda) => cuda.name(),
        }
    }

    /// Returns true if rows may have this many columns: CUDA requires whole vectors of 16 bytes.
    pub fn takes_columns(&self, columns: usize) -> bool {
        self.is_cpu() || columns.is_multiple_of(8)
    }

    /// Returns true if heads may have this size.
    pub fn takes_heads(&self, d: usize) -> bool {
        self.is_cpu() || HEAD_DIMS.contains(&d)
    }

    /// The dtype of activations.
    pub fn activation_dtype(&self) -> DType {
        match self {
            Device::Cpu => CpuKernels::ACTIVATION_DTYPE,
            Device::Cuda(cuda) => cuda.kernels().activation_dtype(),
        }
    }

    /// Rounds values to the dtype of activations.
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

    /// Memory with activations; the values must be [`Device::stored`] ones.
    pub fn activations(&self, values: &[f32]) -> Memory {
        self.here(match self.activation_dtype() {
            DType::F32 => Memory::f32s(values),
            DType::Bf16 => Memory::bf16s(values),
        })
    }

    pub fn poisoned_activations(&self, elements: usize) -> Memory {
        self.poisoned(elements * self.activation_dtype().bytes())
    }

    pub fn poisoned(&self, bytes: usize) -> Memory {
        self.here(Memory::poisoned(bytes))
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

    /// Reads activations.
    pub fn read(&self, memory: &Memory) -> Vec<f32> {
        match self.activation_dtype() {
            DType::F32 => memory.read_f32(),
            DType::Bf16 => memory.read_u16().into_iter().map(master::widen).collect(),
        }
    }

    /// Runs a computation with 1, 2 and 4 threads, or under several schedules of the device, checks
    /// that all results are bit-equal, and returns them.
    pub fn run(&self, run: impl Fn(&dyn Kernels) -> Vec<Memory>) -> Vec<Memory> {
        match self {
            Device::Cpu => same_bits([1, 2, 4], |threads| {
                run(&CpuKernels::new(Arc::new(Pool::new(threads).expect("a pool"))))
            }),
            Device::Cuda(cuda) => same_bits(cuda.schedules(), |schedule| cuda.run(schedule, &run)),
        }
    }

    /// Runs a computation once.
    pub fn run_once(&self, run: impl Fn(&dyn Kernels) -> Vec<Memory>) -> Vec<Memory> {
        match self {
            Device::Cpu => run(&CpuKernels::new(Arc::new(Pool::new(2).expect("a pool")))),
            Device::Cuda(cuda) => cuda.run(cuda.schedules()[0], run),
        }
    }

    /// Checks activations against the expected values.
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

/// Rounds a number to bf16, ties to even, as the kernels do.
pub fn stored_bf16(value: f64) -> f64 {
    f64::from(half::bf16::from_f64(value).to_f32())
}
