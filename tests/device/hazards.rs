//! Hazards of a real CUDA driver: full queues, the context lock, errors reported by later calls,
//! missing stream memory operations. Also tests that the fake CUDA detects incorrect use.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use horizon::base::{Result, Status};
use horizon::device::cuda::{CudaDevice, CudaOptions};
use horizon::device::{Device, Lane, Lanes, Work};
use horizon::sys::cuda::{
    DeviceMemory, Driver, Event, PinnedMemory, Stream, api, device_address, install, register, set_device,
};

use support::fake_cuda::{FakeCuda, Fault, Injection, Manner, Setting, delays_of, inject, launch};

/// A fake device, made the calling thread's current device.
fn selected(setting: Setting) -> FakeCuda {
    let fake = FakeCuda::new(setting);
    set_device(fake.ordinal()).unwrap();
    fake
}

#[test]
fn a_long_queue_never_blocks_inside_cuda() {
    let fake = selected(Setting::default());
    let stream = Stream::new().unwrap();
    launch(&stream, "kernel", || ()).unwrap();
    fake.hold(true);
    thread::scope(|scope| {
        let launcher = scope.spawn(|| {
            set_device(fake.ordinal()).unwrap();
            (0..3000).for_each(|_| launch(&stream, "kernel", || ()).unwrap());
        });
        // Wait until the launcher blocks, which must be outside CUDA, before the queue is full.
        let start = Instant::now();
        while fake.queued() < 250 && start.elapsed() < Duration::from_secs(20) {
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(Duration::from_millis(20));
        assert!((250..260).contains(&fake.queued()), "{} commands are queued", fake.queued());
        assert!(!launcher.is_finished());
        fake.hold(false);
    });
    stream.synchronize().unwrap();
    assert_eq!((fake.worked(), fake.violations()), (3001, vec![]));
}

#[test]
fn a_handled_error_is_not_reported_by_the_next_kernel_launch() {
    let launch_error = |function, run: &dyn Fn() -> Result<()>| {
        let fake = selected(Setting::default());
        let stream = Stream::new().unwrap();
        if let Some(function) = function {
            let fault = Some(Fault::of(function, 1));
            inject(fake.ordinal(), Injection { fault, delays: None });
            run().unwrap_err();
        } else {
            run().unwrap();
        }
        launch(&stream, "kernel", || ()).err()
    };
    let mut page = vec![0u8; 4096];
    let page = std::ptr::NonNull::from(page.as_mut_slice()).cast();
    assert_eq!(launch_error(Some("cudaMalloc"), &|| DeviceMemory::take(256).map(drop)), None);
    assert_eq!(launch_error(Some("cudaHostAlloc"), &|| PinnedMemory::take(256).map(drop)), None);
    // SAFETY: the call fails.
    assert_eq!(launch_error(Some("cudaHostRegister"), &|| unsafe { register(page, 4096) }), None);
    // An allocation that is too large; memory that is not pinned; an event that is not reached.
    assert_eq!(launch_error(None, &|| DeviceMemory::take(1 << 40).map(drop).or(Ok(()))), None);
    assert_eq!(launch_error(None, &|| device_address(page).map(drop).or(Ok(()))), None);
    let fake = selected(Setting { manner: Manner::Lazy, ..Setting::default() });
    let (stream, event) = (Stream::new().unwrap(), Event::new(false).unwrap());
    launch(&stream, "kernel", || ()).and_then(|()| stream.synchronize()).unwrap();
    fake.hold(true);
    event.record(&stream).unwrap();
    assert_eq!((event.is_done(), stream.is_done()), (Ok(false), Ok(false)));
    launch(&stream, "kernel", || ()).unwrap();
    fake.hold(false);
    stream.synchronize().unwrap();
    // An error that is not cleared is reported by the next launch: the fake behaves as CUDA.
    let fake = selected(Setting::default());
    let stream = Stream::new().unwrap();
    let mut base = std::ptr::null_mut();
    // SAFETY: the function writes one pointer.
    assert_ne!(unsafe { (api().unwrap().runtime.cudaMalloc)(&mut base, 1 << 40) }, 0);
    let error = launch(&stream, "kernel", || ()).unwrap_err();
    assert!(error.message().contains("was not cleared"), "{error}");
    assert_eq!(fake.violations(), Vec::<String>::new());
}

#[test]
fn a_function_table_in_use_is_not_replaced() {
    let _fake = selected(Setting::default());
    // SAFETY: the same functions that are in use.
    let error = unsafe { install(*api().unwrap()) }.unwrap_err();
    assert_eq!(error.status(), Status::InvalidState);
}

/// The two deadlocks that a user of CUDA can cause: work that waits for a write that never comes,
/// and in addition a kernel being loaded, which blocks all other calls.
#[test]
fn deadlocks_are_detected() {
    let stuck = |patience| {
        let fake = selected(Setting { patience, ..Setting::default() });
        let (stream, word) = (Stream::new().unwrap(), PinnedMemory::take(4).unwrap());
        let seen = device_address(word.base()).unwrap();
        // SAFETY: the word lives until the device has failed.
        unsafe {
            word.base().cast::<u32>().write(0);
            Driver::open().unwrap().wait_value(&stream, seen, 1).unwrap();
        }
        (fake, stream, word)
    };
    let (fake, stream, _word) = stuck(Duration::from_millis(100));
    stream.synchronize().unwrap_err();
    assert!(
        fake.violations().iter().any(|violation| violation.starts_with("deadlock")),
        "{:?}",
        fake.violations()
    );

    let (fake, stream, _word) = stuck(Duration::from_secs(2));
    thread::scope(|scope| {
        let launcher = scope.spawn(|| {
            set_device(fake.ordinal()).unwrap();
            launch(&stream, "a new kernel", || ()).unwrap_err();
        });
        while !fake.is_loading() && !launcher.is_finished() {
            thread::yield_now();
        }
        // Blocked until the device is lost.
        Event::new(false).unwrap_err();
    });
    assert!(
        fake.violations().iter().any(|violation| violation.starts_with("deadlock")),
        "{:?}",
        fake.violations()
    );
}

/// [`Work`] by a closure.
struct Tasks<F>(F);

impl<F: Fn(Lane, u64) -> Result<()> + Send + Sync> Work for Tasks<F> {
    fn run(&self, lane: Lane, task: u64) -> Result<()> {
        (self.0)(lane, task)
    }
}

/// Lanes whose tasks count themselves. On CUDA stream lanes they launch kernels with these names in
/// turn.
fn counting(
    device: &Arc<CudaDevice>,
    done: &Arc<AtomicUsize>,
    kernels: &'static [&'static str],
) -> Box<dyn Lanes> {
    let (stage, done) = (device.clone(), done.clone());
    let work = move |lane, task: u64| {
        let done = done.clone();
        let effect = move || {
            done.fetch_add(1, Ordering::Relaxed);
        };
        match lane {
            Lane::Host | Lane::Disk => effect(),
            lane => launch(stage.stream(lane), kernels[task as usize / 50 % kernels.len()], effect)?,
        }
        Ok(())
    };
    device.clone().open(Arc::new(Tasks(work)), true).unwrap()
}

/// Issues tasks that each wait for the previous one, and waits for the last.
fn issue(lanes: &dyn Lanes, tasks: u64) {
    let mut last = vec![];
    for task in 0..tasks {
        last = vec![lanes.issue(Lane::ALL[(task * 4 % 5) as usize], task, &last, true)];
    }
    lanes.reach(last[0]).unwrap();
}

/// Loading a kernel while the device has work blocks all CUDA calls, but causes no deadlock, since
/// threads wait outside CUDA.
#[test]
fn kernels_loaded_late_cause_no_deadlock() {
    for manner in [Manner::Eager, Manner::Lazy, Manner::Random(1), Manner::Random(2)] {
        let fake = FakeCuda::in_manner(manner);
        let device = CudaDevice::open(fake.ordinal(), CudaOptions::default()).unwrap();
        let done = Arc::new(AtomicUsize::new(0));
        let lanes = counting(&device, &done, &["one", "two", "three", "four"]);
        issue(&*lanes, 200);
        assert_eq!((done.load(Ordering::Relaxed), fake.loads()), (200, 4));
        drop(lanes);
        drop(device);
        assert_eq!(fake.violations(), Vec::<String>::new());
    }
}

#[test]
fn cuda_streams_with_random_delays_run_all_tasks() {
    for seed in 0..4 {
        let fake = FakeCuda::in_manner(Manner::Lazy);
        inject(fake.ordinal(), Injection { fault: None, delays: Some(seed) });
        let device = CudaDevice::open(fake.ordinal(), CudaOptions::default()).unwrap();
        let done = Arc::new(AtomicUsize::new(0));
        let lanes = counting(&device, &done, &["kernel"]);
        issue(&*lanes, 100);
        assert_eq!(done.load(Ordering::Relaxed), 100);
        assert!(delays_of(fake.ordinal()) > 5, "there were too few delays");
        drop(lanes);
        drop(device);
        assert_eq!(fake.violations(), Vec::<String>::new());
    }
}

/// Runs itself again with the environment variable set.
#[test]
fn a_variable_turns_words_off_and_everything_works() {
    const NAME: &str = "hazards::a_variable_turns_words_off_and_everything_works";
    let off = std::env::var("HZ_CUDA_STREAM_MEMORY_OPS").is_ok_and(|value| value == "off");
    let fake = FakeCuda::in_manner(Manner::Random(7));
    let device = CudaDevice::open(fake.ordinal(), CudaOptions::default()).unwrap();
    let done = Arc::new(AtomicUsize::new(0));
    let lanes = counting(&device, &done, &["kernel"]);
    issue(&*lanes, 2000);
    assert_eq!((done.load(Ordering::Relaxed), lanes.take_spans().len()), (2000, 2000));
    assert_eq!(fake.words_used() == 0, off, "{} uses of words", fake.words_used());
    if !off {
        let mut again = Command::new(std::env::current_exe().unwrap());
        let ran = again.args(["--exact", NAME]).env("HZ_CUDA_STREAM_MEMORY_OPS", "off").output().unwrap();
        let output = String::from_utf8_lossy(&ran.stdout);
        assert!(ran.status.success() && output.contains("1 passed"), "{output}");
    }
}
