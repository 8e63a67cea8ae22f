//! Device memory for tests: an allocation followed by a guard.

use std::alloc::{Layout, alloc, dealloc};
use std::ptr::NonNull;

use horizon::base::master;
use horizon::device::DeviceSpan;

const GUARD: usize = 256;
const GUARD_BYTE: u8 = 0xa5;
/// Bytes of 0xff are NaN in f32, f64 and bf16.
const POISON: u8 = 0xff;

/// Memory for kernels. Writing past its end fails the test when the memory is dropped.
pub struct Memory {
    base: NonNull<u8>,
    bytes: usize,
    backing: Backing,
}

/// The owner of the memory.
enum Backing {
    Host,
    Cuda { _memory: horizon::sys::cuda::DeviceMemory },
}

impl Memory {
    /// Poisoned memory: elements that are not written stay NaN.
    pub fn poisoned(bytes: usize) -> Self {
        let layout = Layout::from_size_align(bytes + GUARD, 256).expect("a size");
        // SAFETY: the size is not zero, because of the guard.
        let base = NonNull::new(unsafe { alloc(layout) }).expect("memory");
        // SAFETY: the allocation holds bytes + GUARD bytes.
        unsafe {
            base.write_bytes(POISON, bytes);
            base.add(bytes).write_bytes(GUARD_BYTE, GUARD);
        }
        Memory { base, bytes, backing: Backing::Host }
    }

    /// Memory with these bytes.
    pub fn of(bytes: impl ExactSizeIterator<Item = u8>) -> Self {
        let memory = Memory::poisoned(bytes.len());
        for (at, byte) in bytes.enumerate() {
            // SAFETY: the iterator has as many bytes as the memory.
            unsafe { memory.base.add(at).write(byte) };
        }
        memory
    }

    /// Copies the memory to the current CUDA device.
    pub fn moved_to_cuda(self) -> Self {
        use horizon::sys::cuda::{DeviceMemory, Direction, Stream, copy};
        let (all, stream) = (self.bytes + GUARD, Stream::default_stream());
        let memory = DeviceMemory::take(all).expect("device memory");
        // SAFETY: both sides have `all` bytes and outlive the copy, which is waited for below.
        unsafe { copy(memory.base(), self.base, all, Direction::HostToDevice, &stream) }.expect("a copy");
        stream.synchronize().expect("a copy");
        Memory { base: memory.base(), bytes: self.bytes, backing: Backing::Cuda { _memory: memory } }
    }

    /// Reads bytes of the memory or of its guard.
    fn read(&self, from: usize, bytes: usize) -> Vec<u8> {
        match self.backing {
            // SAFETY: within the allocation, and no kernel runs while a test reads.
            Backing::Host => {
                unsafe { std::slice::from_raw_parts(self.base.as_ptr().add(from), bytes) }.to_vec()
            }
            Backing::Cuda { .. } => {
                use horizon::sys::cuda::{Direction, Stream, copy};
                // The default CUDA stream waits for the kernels, which run on it or on a CUDA stream that
                // waited for them.
                let (mut read, stream) = (vec![0u8; bytes], Stream::default_stream());
                let to = NonNull::new(read.as_mut_ptr()).expect("a vector");
                // SAFETY: within the memory; the vector has `bytes` bytes and is not used before the copy is
                // done.
                let copied =
                    unsafe { copy(to, self.base.add(from), bytes, Direction::DeviceToHost, &stream) };
                copied.and_then(|()| stream.synchronize()).expect("a copy");
                read
            }
        }
    }

    pub fn f32s(values: &[f32]) -> Self {
        Memory::of(values.iter().flat_map(|v| v.to_ne_bytes()).collect::<Vec<_>>().into_iter())
    }

    pub fn f64s(values: &[f64]) -> Self {
        Memory::of(values.iter().flat_map(|v| v.to_ne_bytes()).collect::<Vec<_>>().into_iter())
    }

    pub fn i32s(values: &[i32]) -> Self {
        Memory::of(values.iter().flat_map(|v| v.to_ne_bytes()).collect::<Vec<_>>().into_iter())
    }

    /// Memory with bf16 numbers. The values must be exact in bf16, or NaN.
    pub fn bf16s(values: &[f32]) -> Self {
        let exact = values.iter().all(|&v| v.is_nan() || master::widen(master::round(v)) == v);
        assert!(exact, "a value is not exact in bf16");
        let bits = values.iter().flat_map(|&v| master::round(v).to_ne_bytes());
        Memory::of(bits.collect::<Vec<_>>().into_iter())
    }

    pub fn span(&self) -> DeviceSpan {
        // SAFETY: the allocation is initialised and outlives the test's use of the span.
        unsafe { DeviceSpan::new(self.base, self.bytes) }
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.read(0, self.bytes)
    }

    pub fn read_f32(&self) -> Vec<f32> {
        self.bytes().chunks_exact(4).map(|b| f32::from_ne_bytes(b.try_into().expect("4 bytes"))).collect()
    }

    pub fn read_f64(&self) -> Vec<f64> {
        self.bytes().chunks_exact(8).map(|b| f64::from_ne_bytes(b.try_into().expect("8 bytes"))).collect()
    }

    pub fn read_u16(&self) -> Vec<u16> {
        self.bytes().chunks_exact(2).map(|b| u16::from_ne_bytes(b.try_into().expect("2 bytes"))).collect()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let whole = self.read(self.bytes, GUARD).iter().all(|&byte| byte == GUARD_BYTE);
        match &self.backing {
            Backing::Host => {
                let layout = Layout::from_size_align(self.bytes + GUARD, 256).expect("as before");
                // SAFETY: allocated in `poisoned` with this layout.
                unsafe { dealloc(self.base.as_ptr(), layout) };
            }
            Backing::Cuda { .. } => {}
        }
        assert!(
            whole || std::thread::panicking(),
            "bytes after a memory of {} bytes were written",
            self.bytes
        );
    }
}

/// Runs a computation once per variant, checks that all results are bit-equal, and returns those of
/// the first.
pub fn same_bits<V: Copy + std::fmt::Display>(
    variants: impl IntoIterator<Item = V>,
    run: impl Fn(V) -> Vec<Memory>,
) -> Vec<Memory> {
    let mut variants = variants.into_iter();
    let first = run(variants.next().expect("a variant"));
    for variant in variants {
        for (result, (one, other)) in first.iter().zip(&run(variant)).enumerate() {
            assert!(one.bytes() == other.bytes(), "result {result} differs in variant {variant}");
        }
    }
    first
}
