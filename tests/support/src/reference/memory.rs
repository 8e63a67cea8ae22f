//! Device memory for tests: an allocation with a guard behind it.

use std::alloc::{Layout, alloc, dealloc};
use std::ptr::NonNull;

use horizon::base::master;
use horizon::device::DeviceSpan;

const GUARD: usize = 256;
const GUARD_BYTE: u8 = 0xa5;
/// As f32, f64 and bf16: a NaN.
const PAINT: u8 = 0xff;

/// Memory that kernels run in. Writing behind its end fails the test when it is dropped.
pub struct Memory {
    base: NonNull<u8>,
    bytes: usize,
    place: Backing,
}

/// Where memory is, and what gives it back.
enum Backing {
    Host,
    Cuda { _memory: horizon::sys::cuda::DeviceMemory },
}

impl Memory {
    /// Painted: what is not written stays NaN.
    pub fn painted(bytes: usize) -> Self {
        let layout = Layout::from_size_align(bytes + GUARD, 256).expect("a size");
        // SAFETY: the size is not zero, there is a guard.
        let base = NonNull::new(unsafe { alloc(layout) }).expect("memory");
        // SAFETY: the allocation holds bytes + GUARD bytes.
        unsafe {
            base.write_bytes(PAINT, bytes);
            base.add(bytes).write_bytes(GUARD_BYTE, GUARD);
        }
        Memory { base, bytes, place: Backing::Host }
    }

    /// These bytes.
    pub fn of(bytes: impl ExactSizeIterator<Item = u8>) -> Self {
        let memory = Memory::painted(bytes.len());
        for (at, byte) in bytes.enumerate() {
            // SAFETY: the iterator is as long as the memory.
            unsafe { memory.base.add(at).write(byte) };
        }
        memory
    }

    /// The same, in the memory of the current CUDA device.
    pub fn moved_to_cuda(self) -> Self {
        use horizon::sys::cuda::{DeviceMemory, Direction, Stream, copy};
        let (all, stream) = (self.bytes + GUARD, Stream::default_stream());
        let memory = DeviceMemory::take(all).expect("device memory");
        // SAFETY: both ends are as long as stated; the stream is waited for before either can go.
        unsafe { copy(memory.base(), self.base, all, Direction::HostToDevice, &stream) }.expect("a copy");
        stream.synchronize().expect("a copy");
        Memory { base: memory.base(), bytes: self.bytes, place: Backing::Cuda { _memory: memory } }
    }

    /// Some of what is there, and of the guard.
    fn read(&self, from: usize, bytes: usize) -> Vec<u8> {
        match self.place {
            // SAFETY: within the allocation, and no kernel runs while a test reads.
            Backing::Host => {
                unsafe { std::slice::from_raw_parts(self.base.as_ptr().add(from), bytes) }.to_vec()
            }
            Backing::Cuda { .. } => {
                use horizon::sys::cuda::{Direction, Stream, copy};
                // The default stream waits for the kernels, which are on it or on a stream that waited for them.
                let (mut read, stream) = (vec![0u8; bytes], Stream::default_stream());
                let to = NonNull::new(read.as_mut_ptr()).expect("a vector");
                // SAFETY: within the memory; the vector is as long, and not touched before the stream has passed.
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

    /// Values that are exact in bf16, or NaN.
    pub fn bf16s(values: &[f32]) -> Self {
        let exact = values.iter().all(|&v| v.is_nan() || master::widen(master::round(v)) == v);
        assert!(exact, "a test weight is not a bf16");
        let bits = values.iter().flat_map(|&v| master::round(v).to_ne_bytes());
        Memory::of(bits.collect::<Vec<_>>().into_iter())
    }

    pub fn span(&self) -> DeviceSpan {
        // SAFETY: the allocation is initialised and outlives what a test does with the span.
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
        match &self.place {
            Backing::Host => {
                let layout = Layout::from_size_align(self.bytes + GUARD, 256).expect("as before");
                // SAFETY: allocated in `of` with this very layout.
                unsafe { dealloc(self.base.as_ptr(), layout) };
            }
            Backing::Cuda { .. } => {}
        }
        assert!(whole || std::thread::panicking(), "something wrote behind {} bytes", self.bytes);
    }
}

/// Runs a computation in several ways, holds that all give the same bits, and gives the first way's results.
pub fn same_bits<W: Copy + std::fmt::Display>(
    ways: impl IntoIterator<Item = W>,
    run: impl Fn(W) -> Vec<Memory>,
) -> Vec<Memory> {
    let mut ways = ways.into_iter();
    let first = run(ways.next().expect("a way to run"));
    for way in ways {
        for (result, (one, other)) in first.iter().zip(&run(way)).enumerate() {
            assert!(one.bytes() == other.bytes(), "result {result} has other bits in way {way}");
        }
    }
    first
}
