//! Fault injection for CUDA's calls: the n-th fails, or streams are held up at random, as a slow link or a slow kernel would.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use horizon::base::Result;
use horizon::device::cuda::{Calls, Properties};
use horizon::host::HostSpan;
use horizon::sys::cuda_status::{self, Presence};
use parking_lot::Mutex;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Faults to inject.
#[derive(Clone, Copy, Debug, Default)]
pub struct Injection {
    /// The call that fails instead of being made, counted from 1.
    pub failing: Option<u64>,
    /// The seed by which streams are held up.
    pub delays: Option<u64>,
}

/// Calls of `C` with faults injected.
#[derive(Debug)]
pub struct FaultInjector<C: Calls> {
    inner: C,
    injection: Injection,
    /// Shared with the test, which the device does not outlive.
    pub calls: Arc<AtomicU64>,
    delays: Mutex<Option<Delays<C>>>,
}

/// A stream waits for a word that a thread raises some time later: no kernel and no callback is needed.
#[derive(Debug)]
struct Delays<C: Calls> {
    random: ChaCha8Rng,
    word: Arc<C::Pinned>,
    asked: Arc<AtomicU32>,
}

impl<C: Calls> FaultInjector<C> {
    pub fn new(inner: C, injection: Injection) -> Self {
        FaultInjector { inner, injection, calls: Arc::default(), delays: Mutex::new(None) }
    }

    /// Counts a call, or fails it.
    fn count(&self, what: &str) -> Result<()> {
        let number = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        match self.injection.failing {
            Some(failing) if failing == number => {
                let text = format!("call {number} was made to fail");
                Err(cuda_status::error(cuda_status::LAUNCH_FAILURE, what, text))
            }
            _ => Ok(()),
        }
    }

    /// Holds a stream up, perhaps.
    fn delay(&self, stream: &C::Stream) -> Result<()> {
        let Some(seed) = self.injection.delays else { return Ok(()) };
        let mut delays = self.delays.lock();
        if delays.is_none() {
            *delays = Some(Delays::start(&self.inner, seed)?);
        }
        let Delays { random, word, asked } = delays.as_mut().expect("started just now");
        if !random.random_bool(0.2) {
            return Ok(());
        }
        let value = asked.fetch_add(1, Ordering::AcqRel) + 1;
        // SAFETY: the word stays until the thread that raises it has ended, after the last wait was over.
        unsafe { self.inner.wait_word(stream, word, 0, value) }
    }
}

impl<C: Calls> Delays<C> {
    fn start(calls: &C, seed: u64) -> Result<Self> {
        let word = Arc::new(calls.take_pinned(4)?);
        let base = calls.pinned_base(&word).as_ptr() as usize;
        // SAFETY: aligned, ours, and used atomically from here on.
        let raised = unsafe { AtomicU32::from_ptr(base as *mut u32) };
        raised.store(0, Ordering::Release);
        let asked = Arc::new(AtomicU32::new(0));
        let (ask, keep) = (Arc::downgrade(&asked), word.clone());
        thread::spawn(move || {
            let mut random = ChaCha8Rng::seed_from_u64(seed ^ 1);
            // SAFETY: `keep` holds the memory as long as this thread runs.
            let raised = unsafe { AtomicU32::from_ptr(base as *mut u32) };
            while let Some(asked) = ask.upgrade() {
                thread::sleep(Duration::from_micros(random.random_range(5..300)));
                let now = raised.load(Ordering::Relaxed);
                if now < asked.load(Ordering::Acquire) {
                    raised.store(now + 1, Ordering::Release);
                }
            }
            drop(keep);
        });
        Ok(Delays { random: ChaCha8Rng::seed_from_u64(seed), word, asked })
    }
}

impl<C: Calls> Calls for FaultInjector<C> {
    type Stream = C::Stream;
    type Event = C::Event;
    type Memory = C::Memory;
    type Pinned = C::Pinned;

    fn presence(&self) -> Result<Presence> {
        self.inner.presence()
    }

    fn properties(&self, device: usize) -> Result<Properties> {
        self.count("read properties")?;
        self.inner.properties(device)
    }

    fn select(&self, device: usize) -> Result<()> {
        self.inner.select(device)
    }

    fn memory_free(&self) -> Result<usize> {
        self.count("read the free memory")?;
        self.inner.memory_free()
    }

    fn take_memory(&self, bytes: usize) -> Result<C::Memory> {
        self.count("take device memory")?;
        self.inner.take_memory(bytes)
    }

    fn memory_base(&self, memory: &C::Memory) -> NonNull<u8> {
        self.inner.memory_base(memory)
    }

    fn take_pinned(&self, bytes: usize) -> Result<C::Pinned> {
        self.count("take page-locked memory")?;
        self.inner.take_pinned(bytes)
    }

    fn pinned_base(&self, pinned: &C::Pinned) -> NonNull<u8> {
        self.inner.pinned_base(pinned)
    }

    unsafe fn register(&self, pages: HostSpan) -> Result<()> {
        self.count("page-lock memory")?;
        // SAFETY: the caller's word, passed on.
        unsafe { self.inner.register(pages) }
    }

    unsafe fn unregister(&self, pages: HostSpan) -> Result<()> {
        // SAFETY: what was registered through this is registered there.
        unsafe { self.inner.unregister(pages) }
    }

    fn new_stream(&self) -> Result<C::Stream> {
        self.count("make a stream")?;
        self.inner.new_stream()
    }

    fn synchronize_stream(&self, stream: &C::Stream) -> Result<()> {
        self.inner.synchronize_stream(stream)
    }

    fn new_event(&self, timing: bool) -> Result<C::Event> {
        self.inner.new_event(timing)
    }

    fn record(&self, event: &C::Event, stream: &C::Stream) -> Result<()> {
        self.count("record an event")?;
        self.delay(stream)?;
        self.inner.record(event, stream)
    }

    fn wait_event(&self, stream: &C::Stream, event: &C::Event) -> Result<()> {
        self.count("make a stream wait")?;
        self.delay(stream)?;
        self.inner.wait_event(stream, event)
    }

    fn is_done(&self, event: &C::Event) -> Result<bool> {
        self.inner.is_done(event)
    }

    fn synchronize_event(&self, event: &C::Event) -> Result<()> {
        self.inner.synchronize_event(event)
    }

    fn ns_since(&self, event: &C::Event, earlier: &C::Event) -> Result<i64> {
        self.inner.ns_since(event, earlier)
    }

    unsafe fn wait_word(
        &self,
        stream: &C::Stream,
        words: &C::Pinned,
        offset: usize,
        value: u32,
    ) -> Result<()> {
        self.count("make a stream wait for a word")?;
        // SAFETY: word and memory are the caller's.
        unsafe { self.inner.wait_word(stream, words, offset, value) }
    }

    unsafe fn write_word(
        &self,
        stream: &C::Stream,
        words: &C::Pinned,
        offset: usize,
        value: u32,
    ) -> Result<()> {
        self.count("make a stream write a word")?;
        // SAFETY: as the caller has it.
        unsafe { self.inner.write_word(stream, words, offset, value) }
    }

    unsafe fn copy_in(
        &self,
        stream: &C::Stream,
        to: NonNull<u8>,
        from: NonNull<u8>,
        bytes: usize,
    ) -> Result<()> {
        self.count("copy")?;
        self.delay(stream)?;
        // SAFETY: a delay changes nothing about the two ends.
        unsafe { self.inner.copy_in(stream, to, from, bytes) }
    }

    unsafe fn copy_out(
        &self,
        stream: &C::Stream,
        to: NonNull<u8>,
        from: NonNull<u8>,
        bytes: usize,
    ) -> Result<()> {
        self.count("copy")?;
        self.delay(stream)?;
        // SAFETY: the ends stay for as long as the stream needs, by the caller's word.
        unsafe { self.inner.copy_out(stream, to, from, bytes) }
    }

    unsafe fn fill(&self, stream: &C::Stream, to: NonNull<u8>, value: u8, bytes: usize) -> Result<()> {
        self.count("fill memory")?;
        // SAFETY: the memory is the caller's.
        unsafe { self.inner.fill(stream, to, value, bytes) }
    }
}

mod tests {
    use std::sync::atomic::AtomicUsize;

    use horizon::device::cuda::{CudaDevice, CudaOptions};
    use horizon::device::{Device, Lane, Work};

    use super::*;
    use support::fake_cuda::{FakeCuda, Manner};

    struct Tasks<F>(F);

    impl<F: Fn(Lane, u64) -> Result<()> + Send + Sync> Work for Tasks<F> {
        fn run(&self, lane: Lane, task: u64) -> Result<()> {
            (self.0)(lane, task)
        }
    }

    /// Delays hold up and let go; the n-th call fails until it passes.
    #[test]
    fn fault_injection_delays_and_fails() {
        for (delays, failing) in
            (0..4).map(|seed| (Some(seed), None)).chain((1..60).map(|call| (None, Some(call))))
        {
            let fake = FakeCuda::in_manner(Manner::Lazy);
            let injector = FaultInjector::new(fake.clone(), Injection { delays, failing });
            let calls = injector.calls.clone();
            let ran = Arc::new(AtomicUsize::new(0));
            let outcome = CudaDevice::open(injector, 0, CudaOptions::default()).and_then(|device| {
                let (count, calls, stage) = (ran.clone(), fake.clone(), device.clone());
                let work = move |lane, _| {
                    let count = count.clone();
                    let effect = move || drop(count.fetch_add(1, Ordering::Relaxed).to_string());
                    if lane != Lane::Host {
                        return calls.launch(stage.stream(lane), effect);
                    }
                    effect();
                    Ok(())
                };
                let lanes = device.open(Arc::new(Tasks(work)), false)?;
                let mut last = vec![];
                for task in 0..40 {
                    let lane = [Lane::H2d, Lane::Compute, Lane::D2h, Lane::Host][task % 4];
                    last = vec![lanes.issue(lane, task as u64, &last, true)];
                }
                lanes.reach(last[0])
            });
            match failing {
                Some(call) if call <= calls.load(Ordering::Relaxed) => {
                    assert!(outcome.is_err(), "call {call}")
                }
                _ => assert!(outcome.is_ok() && ran.load(Ordering::Relaxed) == 40, "{delays:?} {outcome:?}"),
            }
        }
    }
}
