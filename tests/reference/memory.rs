//! Device memory for tests: an allocation with a guard behind it.

use std::alloc::{Layout, alloc, dealloc};
use std::ptr::NonNull;
use std::sync::Arc;

use horizon::base::master;
use horizon::device::DeviceSpan;
use horizon::host::Pool;
use horizon::ops::cpu::CpuKernels;

const GUARD: usize = 256;
const GUARD_BYTE: u8 = 0xa5;
/// As f32, f64 and bf16: a NaN.
const PAINT: u8 = 0xff;

/// Memory that kernels run in. Writing behind its end fails the test when it is dropped.
pub struct Memory {
    base: NonNull<u8>,
    bytes: usize,
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
        Memory { base, bytes }
    }

    fn of(bytes: impl ExactSizeIterator<Item = u8>) -> Self {
        let memory = Memory::painted(bytes.len());
        for (at, byte) in bytes.enumerate() {
            // SAFETY: the iterator is as long as the memory.
            unsafe { memory.base.add(at).write(byte) };
        }
        memory
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

    /// Values that are exact in bf16.
    pub fn bf16s(values: &[f32]) -> Self {
        let exact = values.iter().all(|&v| master::widen(master::round(v)) == v);
        assert!(exact, "a test weight is not a bf16");
        let bits = values.iter().flat_map(|&v| master::round(v).to_ne_bytes());
        Memory::of(bits.collect::<Vec<_>>().into_iter())
    }

    pub fn span(&self) -> DeviceSpan {
        // SAFETY: the allocation is initialised and outlives what a test does with the span.
        unsafe { DeviceSpan::new(self.base, self.bytes) }
    }

    pub fn bytes(&self) -> Vec<u8> {
        // SAFETY: no kernel runs while a test reads.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.bytes) }.to_vec()
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
        // SAFETY: the guard lies behind the memory, in the same allocation.
        let guard = unsafe { std::slice::from_raw_parts(self.base.as_ptr().add(self.bytes), GUARD) };
        let whole = guard.iter().all(|&byte| byte == GUARD_BYTE);
        // SAFETY: allocated in `painted` with this very layout.
        unsafe {
            dealloc(self.base.as_ptr(), Layout::from_size_align(self.bytes + GUARD, 256).expect("as before"))
        };
        assert!(whole || std::thread::panicking(), "something wrote behind {} bytes", self.bytes);
    }
}

/// Runs a computation on 1, 2 and 4 threads, holds that all its results have the same bits, and gives them.
pub fn on_any_threads(run: impl Fn(&CpuKernels) -> Vec<Memory>) -> Vec<Memory> {
    let on = |threads: usize| run(&CpuKernels::new(Arc::new(Pool::new(threads).expect("a pool"))));
    let one = on(1);
    for threads in [2, 4] {
        for (result, (one, other)) in one.iter().zip(&on(threads)).enumerate() {
            assert!(one.bytes() == other.bytes(), "result {result} differs on {threads} threads");
        }
    }
    one
}
