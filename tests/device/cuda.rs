//! The CUDA device with fake CUDA: order, waits, events, failures, closing, trace spans, memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use horizon::base::{Error, Result, Status};
use horizon::device::cuda::{CudaDevice, CudaOptions};
use horizon::device::{Device, Lane, Lanes, Tick, Work};
use horizon::host::{Arena, MemoryKind, Pinning, Pool};
use horizon::sys::cuda::DeviceMemory;
use horizon::sys::cuda_status::{self as codes, Presence, Versions};
use parking_lot::Mutex;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use support::fake_cuda::{FakeCuda, Fault, Manner, Setting, launch};
use support::spans::{numbers, set};

type Cuda = Arc<CudaDevice>;

/// [`Work`] by a closure, which on CUDA stream lanes enqueues another closure.
struct Tasks<F>(F);

impl<F: Fn(Lane, u64) -> Result<()> + Send + Sync> Work for Tasks<F> {
    fn run(&self, lane: Lane, task: u64) -> Result<()> {
        (self.0)(lane, task)
    }

    fn describe(&self, task: u64) -> String {
        format!("job {task}")
    }
}

fn open(
    device: &Cuda,
    tracing: bool,
    work: impl Fn(Lane, u64) -> Result<()> + Send + Sync + 'static,
) -> Result<Box<dyn Lanes>> {
    device.clone().open(Arc::new(Tasks(work)), tracing)
}

fn device(setting: Setting) -> (FakeCuda, Result<Cuda>) {
    let calls = FakeCuda::new(setting);
    let opened = CudaDevice::open(calls.ordinal(), CudaOptions::default());
    (calls, opened)
}

/// A fault in the n-th CUDA call, whichever function it is.
fn failing(call: u64, code: u32) -> Option<Fault> {
    Some(Fault { function: None, call, code })
}

fn is_stream(lane: Lane) -> bool {
    matches!(lane, Lane::Compute | Lane::H2d | Lane::D2h)
}

/// Runs `effect` in the order of the lane: immediately on a thread lane, enqueued on a CUDA stream
/// lane.
fn perform(device: &Cuda, lane: Lane, effect: impl FnOnce() + Send + 'static) -> Result<()> {
    if !is_stream(lane) {
        effect();
        return Ok(());
    }
    launch(device.stream(lane), "effect", effect)
}

/// All timings of work, with and without words.
fn settings() -> impl Iterator<Item = Setting> {
    let seeds = if std::env::var_os("HZ_LONG").is_some() { 200 } else { 6 };
    let manners = [Manner::Eager, Manner::Lazy].into_iter().chain((0..seeds).map(Manner::Random));
    manners.flat_map(|manner| [true, false].map(|words| Setting { manner, words, ..Setting::default() }))
}

/// Tasks on random lanes that wait for random other tasks.
struct List {
    tasks: Vec<(Lane, Vec<usize>)>,
    signals: Vec<bool>,
}

impl List {
    fn random(seed: u64, tasks: usize) -> List {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let tasks: Vec<(Lane, Vec<usize>)> = (0..tasks)
            .map(|task| {
                let lane = Lane::ALL[random.random_range(0..Lane::COUNT)];
                let waits = (0..random.random_range(0..4)).filter(|_| task > 0);
                (lane, waits.map(|_| random.random_range(task.saturating_sub(40)..task)).collect())
            })
            .collect();
        let mut signals = vec![false; tasks.len()];
        for (lane, waits) in &tasks {
            waits.iter().filter(|wait| tasks[**wait].0 != *lane).for_each(|wait| signals[*wait] = true);
        }
        List { tasks, signals }
    }

    /// Issues all tasks, reaches some of them, then the end of each lane. Returns the outcomes.
    fn issue(&self, lanes: &dyn Lanes) -> Vec<Result<()>> {
        let mut ticks: Vec<Tick> = Vec::new();
        let mut outcomes = Vec::new();
        for (task, (lane, waits)) in self.tasks.iter().enumerate() {
            let waits: Vec<Tick> = waits.iter().map(|wait| ticks[*wait]).collect();
            ticks.push(lanes.issue(*lane, task as u64, &waits, self.signals[task]));
            if task % 97 == 0 {
                outcomes.push(lanes.reach(ticks[task]));
            }
        }
        outcomes.extend(Lane::ALL.map(|lane| lanes.reach(lanes.last(lane))));
        outcomes
    }
}

/// Work that records finished tasks in `done`, and counts tasks that ran too early or on a wrong
/// lane in `wrong`.
fn recording(
    device: &Cuda,
    list: &Arc<List>,
    done: &Arc<Vec<AtomicU64>>,
    wrong: &Arc<AtomicUsize>,
) -> impl Fn(Lane, u64) -> Result<()> + Send + Sync + 'static {
    let (device, list, done, wrong) = (device.clone(), list.clone(), done.clone(), wrong.clone());
    move |lane, task| {
        let (list, done, wrong) = (list.clone(), done.clone(), wrong.clone());
        perform(&device, lane, move || {
            let task = task as usize;
            let (own, waits) = &list.tasks[task];
            let before = list.tasks[..task].iter().rposition(|(lane, _)| lane == own);
            let early = waits.iter().chain(&before).any(|other| done[*other].load(Ordering::Relaxed) == 0);
            wrong.fetch_add(usize::from(early || *own != lane), Ordering::Relaxed);
            done[task].fetch_add(1, Ordering::Relaxed);
        })
    }
}

#[test]
fn cuda_lanes_respect_order_and_every_wait() {
    for (seed, setting) in settings().enumerate() {
        for tracing in [false, true] {
            let (calls, device) = device(setting.clone());
            let device = device.unwrap();
            // More tasks than a lane has slots, so that events are reused.
            let list = Arc::new(List::random(seed as u64, if tracing { 700 } else { 5000 }));
            let done: Arc<Vec<AtomicU64>> = Arc::new(list.tasks.iter().map(|_| AtomicU64::new(0)).collect());
            let wrong = Arc::new(AtomicUsize::new(0));
            let lanes = open(&device, tracing, recording(&device, &list, &done, &wrong)).unwrap();
            let made = calls.made();
            assert!(list.issue(&*lanes).into_iter().all(|outcome| outcome.is_ok()), "{setting:?}");
            assert_eq!(wrong.load(Ordering::Relaxed), 0, "{setting:?}");
            assert!(done.iter().all(|mark| mark.load(Ordering::Relaxed) == 1), "{setting:?}");
            assert_eq!(calls.made(), made, "no CUDA object is created after the lanes are open");
            drop(lanes);
            drop(device);
            assert_eq!(calls.violations(), Vec::<String>::new());
        }
    }
}

/// Runs a random list without the waits of compute tasks. Returns true if a task started too early.
fn starts_early(seed: u64) -> bool {
    let (_, device) = device(Setting { manner: Manner::Random(seed), ..Setting::default() });
    let device = device.unwrap();
    let mut list = List::random(seed, 400);
    let done: Arc<Vec<AtomicU64>> = Arc::new(list.tasks.iter().map(|_| AtomicU64::new(0)).collect());
    let wrong = Arc::new(AtomicUsize::new(0));
    let whole = Arc::new(List { tasks: list.tasks.clone(), signals: list.signals.clone() });
    let lanes = open(&device, false, recording(&device, &whole, &done, &wrong)).unwrap();
    list.tasks.iter_mut().filter(|(lane, _)| *lane == Lane::Compute).for_each(|task| task.1.clear());
    list.issue(&*lanes).into_iter().for_each(|outcome| outcome.unwrap());
    wrong.load(Ordering::Relaxed) > 0
}

/// Checks the fake CUDA itself.
#[test]
fn a_missing_wait_is_detected() {
    // The fake has its own thread: on a busy machine a list may run in order by chance.
    for seed in 0..8 {
        assert!((0..10).any(|_| starts_early(seed)), "seed {seed}");
    }
}

/// The numbers of the calls that create the events of the lanes of a new device.
fn events_made(words: bool, tracing: bool) -> std::ops::Range<u64> {
    let (calls, device) = device(Setting { words, ..Setting::default() });
    let device = device.unwrap();
    device.reserve(4096).unwrap();
    let (from, made) = (calls.calls() + 1, calls.made());
    drop(open(&device, tracing, |_, _| Ok(())).unwrap());
    from..from + (calls.made() - made) as u64 - 16
}

#[test]
fn after_a_failure_of_any_call_everything_closes() {
    for words in [true, false] {
        for manner in [Manner::Eager, Manner::Lazy, Manner::Random(5)] {
            for tracing in [false, true] {
                let list = Arc::new(List::random(7, 60));
                let mut failures = 0;
                let events = events_made(words, tracing);
                // Thousands of events are created in the same way: test only some of those calls.
                for call in (1..).filter(|call| !events.contains(call) || call % 251 == 0) {
                    let fault = failing(call, codes::LAUNCH_FAILURE);
                    let (calls, device) = device(Setting { manner, words, fault, ..Setting::default() });
                    let outcome = device.and_then(|device| {
                        let arena = device.reserve(4096)?;
                        assert_eq!(arena.bytes(), 4096);
                        let done: Arc<Vec<AtomicU64>> =
                            Arc::new((0..60).map(|_| AtomicU64::new(0)).collect());
                        let work = recording(&device, &list, &done, &Default::default());
                        let lanes = open(&device, tracing, work)?;
                        let outcomes = list.issue(&*lanes);
                        lanes.take_spans();
                        let end = lanes.reach(lanes.last(Lane::Host));
                        let first = outcomes.into_iter().find_map(|outcome| outcome.err());
                        assert!(
                            first.is_none() || first == end.clone().err(),
                            "every reach returns the first failure"
                        );
                        end
                    });
                    assert_eq!(calls.violations(), Vec::<String>::new());
                    assert_eq!(calls.device_bytes(), 0);
                    if let Err(error) = &outcome {
                        assert_eq!(error.status(), Status::DeviceFailed, "{error}");
                        assert!(error.message().contains("cudaError719"), "{error}");
                        failures += 1;
                    } else if calls.calls() < call {
                        break;
                    }
                }
                assert!(failures > 100, "only {failures} calls failed");
            }
        }
    }
}

#[test]
fn a_failing_call_is_reported_with_its_task() {
    let run = |fault| {
        let (calls, opened) = device(Setting { fault, ..Setting::default() });
        let device = opened.unwrap();
        let lanes = open(&device, false, |_, _| Ok(())).unwrap();
        let before = calls.calls();
        let landed = lanes.issue(Lane::H2d, 17, &[], true);
        let between = calls.calls();
        let computed = lanes.issue(Lane::Compute, 18, &[landed], true);
        let after = calls.calls();
        let outcome = lanes.reach(landed).and(lanes.reach(computed));
        assert_eq!(lanes.reach(lanes.issue(Lane::Host, 19, &[computed], false)), outcome);
        (before + 1..=between, between + 1..=after, outcome)
    };
    let (first, second, _) = run(None);
    for call in *first.start()..=*second.end() {
        let error = run(failing(call, codes::LAUNCH_FAILURE)).2.unwrap_err();
        let job = if first.contains(&call) { "job 17: cannot" } else { "job 18: cannot" };
        assert!(error.message().starts_with(job), "call {call}: {error}");
    }
}

#[test]
fn asynchronous_failures_are_reported_with_the_running_task() {
    let mut exact = 0;
    for (manner, failing) in [Manner::Eager, Manner::Lazy, Manner::Random(1), Manner::Random(2)]
        .into_iter()
        .flat_map(|manner| (1..30).map(move |failing| (manner, failing)))
    {
        let failing_work = Some((failing, codes::ILLEGAL_ADDRESS));
        let (calls, device) = device(Setting { manner, failing_work, ..Setting::default() });
        let device = device.unwrap();
        let words = device.has_words().unwrap();
        let started = Arc::new(Mutex::new(Vec::new()));
        let (log, stage) = (started.clone(), device.clone());
        let lanes = open(&device, false, move |lane, task| {
            let log = log.clone();
            perform(&stage, lane, move || log.lock().push(task))
        })
        .unwrap();
        let mut last: Vec<Tick> = vec![];
        for task in 0..40u64 {
            let lane = Lane::ALL[(task % 4) as usize];
            last = vec![lanes.issue(lane, task, &last, true)];
        }
        let error = lanes.reach(last[0]).unwrap_err();
        assert_eq!(error.status(), Status::DeviceFailed);
        // Tasks run one after another here, so the failed one is the first that did not start.
        let failed = format!("job {}", (0..).find(|task| !started.lock().contains(task)).unwrap());
        let named = |before: &str, after: &str| error.message().contains(&format!("{before}{failed}{after}"));
        // Without words the progress of a CUDA stream is unknown.
        assert!(!words || named("", " (") || named("", ":"), "{failed} failed; {error}");
        exact += usize::from(!words || named("while ", " (") || named("", ": "));
        drop(lanes);
        drop(device);
        assert_eq!(calls.violations(), Vec::<String>::new());
    }
    assert!(exact > 20, "only {exact} failed tasks were named first");
}

#[test]
fn half_of_the_margin_may_be_used_up_after_planning() {
    let memory = 1 << 30;
    let (_calls, device) = device(Setting { memory, ..Setting::default() });
    let device = device.unwrap();
    let planned = device.info().memory_free;
    assert_eq!(planned, memory - memory / 16);
    let _taken = DeviceMemory::take(memory / 64).unwrap();
    device.reserve(planned).unwrap();
}

#[test]
fn tasks_after_a_failure_or_panic_are_skipped() {
    for setting in settings() {
        let (_, device) = device(setting);
        let device = device.unwrap();
        let ran = Arc::new(AtomicUsize::new(0));
        let (count, stage) = (ran.clone(), device.clone());
        let lanes = open(&device, false, move |lane, task| match task {
            12 => Err(Error::new(Status::NonFinite, "job 12 found no number")),
            13.. => panic!("task {task} ran after the failure"),
            _ => {
                let count = count.clone();
                perform(&stage, lane, move || {
                    count.fetch_add(1, Ordering::Relaxed);
                })
            }
        })
        .unwrap();
        let mut last = vec![];
        for task in 0..3000 {
            last = vec![lanes.issue(Lane::ALL[(task % 4) as usize], task, &last, true)];
        }
        for lane in Lane::ALL {
            let error = lanes.reach(lanes.last(lane)).unwrap_err();
            assert_eq!((error.status(), error.message()), (Status::NonFinite, "job 12 found no number"));
        }
        drop(lanes);
        // CUDA streams run far ahead of thread lanes, whose tasks are then skipped.
        assert!((9..=12).contains(&ran.load(Ordering::Relaxed)));
    }
    let (_, device) = device(Setting::default());
    let lanes = open(&device.unwrap(), false, |_, _| panic!("by intent")).unwrap();
    let tick = lanes.issue(Lane::Compute, 4, &[], false);
    let error = lanes.reach(tick).unwrap_err();
    assert_eq!(error.status(), Status::Internal);
    assert_eq!(error.message(), "job 4 of lane compute panicked: by intent");
}

#[test]
fn dropping_the_lanes_finishes_their_work() {
    for setting in settings() {
        let (calls, device) = device(setting);
        let device = device.unwrap();
        let ran = Arc::new(AtomicUsize::new(0));
        let (count, stage) = (ran.clone(), device.clone());
        let lanes = open(&device, false, move |lane, _| {
            let count = count.clone();
            perform(&stage, lane, move || {
                count.fetch_add(1, Ordering::Relaxed);
            })
        })
        .unwrap();
        let mut last = vec![];
        for task in 0..400 {
            last = vec![lanes.issue(Lane::ALL[(task % 4) as usize], task, &last, true)];
        }
        drop(lanes);
        assert_eq!(ran.load(Ordering::Relaxed), 400);
        drop(device);
        assert_eq!(calls.violations(), Vec::<String>::new());
    }
}

#[test]
fn spans_record_all_tasks_on_one_clock() {
    for setting in settings() {
        let (_, device) = device(setting.clone());
        let device = device.unwrap();
        let stage = device.clone();
        let lanes = open(&device, true, move |lane, _| perform(&stage, lane, || ())).unwrap();
        let (mut ticks, mut last) = (Vec::new(), vec![]);
        for task in 0..3000u64 {
            last = vec![lanes.issue(Lane::ALL[(task * task % 7 % 4) as usize], task, &last, true)];
            ticks.push(last[0]);
        }
        Lane::ALL.iter().for_each(|lane| lanes.reach(lanes.last(*lane)).unwrap());
        let mut spans = lanes.take_spans();
        spans.sort_by_key(|span| span.task);
        let missing: Vec<u64> =
            (0..3000).filter(|task| spans.iter().all(|span| span.task != *task)).collect();
        assert!(missing.is_empty() && spans.len() == 3000, "{setting:?}: {missing:?}");
        for span in &spans {
            assert_eq!(span.tick(), ticks[span.task as usize]);
            assert!(span.ready_ns <= span.start_ns && span.start_ns <= span.end_ns, "{span:?}");
        }
        for lane in Lane::ALL {
            let own: Vec<_> = spans.iter().filter(|span| span.lane == lane).collect();
            assert!(own.windows(2).all(|pair| pair[0].end_ns <= pair[1].ready_ns), "{lane}");
        }
        assert!(lanes.take_spans().is_empty());
    }
}

#[test]
fn memory_is_limited_zeroed_and_reserved_once() {
    let calls = FakeCuda::new(Setting { memory: 1 << 20, ..Setting::default() });
    let options = CudaOptions { memory_limit: Some(1 << 19), ..CudaOptions::default() };
    let device = CudaDevice::open(calls.ordinal(), options).unwrap();
    assert_eq!(device.info().memory_free, 1 << 19);
    assert_eq!(device.info().name, format!("cuda:{} (fake CUDA)", calls.ordinal()));
    let error = device.reserve((1 << 19) + 1).unwrap_err();
    assert_eq!(error.status(), Status::OutOfDeviceMemory);
    assert!(error.message().contains("(device_mem): 1 byte too many"), "{error}");
    let span = device.reserve(1 << 18).unwrap();
    // SAFETY: the fake CUDA's device memory is memory of this process.
    let bytes = unsafe { std::slice::from_raw_parts(span.address(), span.bytes()) };
    assert!(bytes.iter().all(|&byte| byte == 0));
    assert_eq!(device.reserve(16).unwrap_err().status(), Status::InvalidState);
    assert_eq!(calls.device_bytes(), 1 << 18);
    drop(device);
    assert_eq!(calls.device_bytes(), 0);

    let device = CudaDevice::open(calls.ordinal(), CudaOptions::default()).unwrap();
    // A plan leaves 1/16 of the memory free, an arena half of that.
    let margin = 1 << 16;
    assert_eq!(device.info().memory_free, (1 << 20) - margin);
    let most = (1 << 20) - margin / 2;
    assert_eq!(device.capacity(), Ok(most));
    let error = device.reserve(most + 1).unwrap_err();
    assert_eq!(error.status(), Status::OutOfDeviceMemory);
    assert!(error.message().contains("nvidia-smi"), "{error}");
    let calls = FakeCuda::new(Setting { memory: 1 << 20, memory_of_others: 1 << 18, ..Setting::default() });
    let capacity = |memory_limit| {
        CudaDevice::open(calls.ordinal(), CudaOptions { memory_limit, ..CudaOptions::default() })
            .unwrap()
            .capacity()
    };
    let most = (3 << 18) - margin / 2;
    assert_eq!(
        (capacity(None), capacity(Some(1 << 20)), capacity(Some(1 << 18))),
        (Ok(most), Ok(most), Ok(1 << 18))
    );
}

#[test]
fn host_memory_is_pinned_both_ways_and_copied_asynchronously() {
    let pool = Pool::new(2).unwrap();
    for pinning in [Pinning::Registered, Pinning::Allocated] {
        for manner in [Manner::Eager, Manner::Lazy] {
            let calls = FakeCuda::in_manner(manner);
            let options = CudaOptions { pinning, ..CudaOptions::default() };
            let device = CudaDevice::open(calls.ordinal(), options).unwrap();
            let MemoryKind::Pinned { by, .. } = device.wire_memory(9000) else { panic!("it is pinned") };
            assert_eq!(by, pinning);
            let memory = device.reserve(4096).unwrap();
            let arena = Arena::take(9000, device.wire_memory(9000)).unwrap();
            arena.touch(&pool).unwrap();
            assert_eq!(calls.pinned(), 1);
            let (source, target) = (arena.whole().subspan(0, 256), arena.whole().subspan(300, 256));
            set(source, &(0..=255).collect::<Vec<u8>>());
            let copier = device.clone();
            // SAFETY: arena and device outlive the lanes, and each copy waits for the previous one.
            let lanes = open(&device, false, move |lane, task| unsafe {
                match (lane, task) {
                    (Lane::H2d, 0) => copier.upload(memory.subspan(64, 256), source),
                    (Lane::D2h, 1) => copier.download(target, memory.subspan(64, 256)),
                    (Lane::H2d, _) => copier.upload(memory.subspan(0, 255), source),
                    _ => unreachable!("nothing else is issued"),
                }
            })
            .unwrap();
            calls.hold(manner == Manner::Lazy);
            let landed = lanes.issue(Lane::H2d, 0, &[], true);
            let back = lanes.issue(Lane::D2h, 1, &[landed], false);
            assert_eq!(numbers::<u8>(target)[9], if manner == Manner::Lazy { 0 } else { 9 });
            calls.hold(false);
            lanes.reach(back).unwrap();
            assert!(numbers::<u8>(target).into_iter().eq(0..=255));
            let unequal = lanes.issue(Lane::H2d, 2, &[], false);
            assert_eq!(lanes.reach(unequal).unwrap_err().status(), Status::Internal);
            drop(lanes);
            drop(arena);
            drop(device);
            assert_eq!((calls.pinned(), calls.violations()), (0, vec![]));
        }
    }
}

/// Errors of drivers and devices: their status, and the remedy in the message.
#[test]
fn every_error_names_its_remedy() {
    let presence = |driver, code, count| Presence {
        versions: Versions { driver, runtime: 13000 },
        code,
        text: format!("cudaError{code}"),
        count,
    };
    let opened = |setting| device(setting).1.map(drop).unwrap_err();
    let missing = |presence| opened(Setting { presence: Some(presence), ..Setting::default() });
    let failing = |function, code| {
        let fault = Some(Fault { function: Some(function), call: 1, code });
        opened(Setting { fault, ..Setting::default() })
    };
    let pinned = |pinning, code| {
        let calls = FakeCuda::new(Setting { pin_error: Some(code), ..Setting::default() });
        let options = CudaOptions { pinning, ..CudaOptions::default() };
        let device = CudaDevice::open(calls.ordinal(), options).unwrap();
        let arena = Arena::take(9000, device.wire_memory(9000));
        arena.and_then(|arena| arena.touch(&Pool::new(1)?)).unwrap_err()
    };
    let lost = |code| {
        let (_, device) = device(Setting { failing_work: Some((3, code)), ..Setting::default() });
        let device = device.unwrap();
        let stage = device.clone();
        let lanes = open(&device, false, move |lane, _| perform(&stage, lane, || ())).unwrap();
        for task in 0..4 {
            lanes.issue(Lane::Compute, task, &[], true);
        }
        lanes.reach(lanes.last(Lane::Compute)).unwrap_err()
    };
    let unavailable = Status::DeviceUnavailable;
    for (error, status, words) in [
        (missing(presence(0, 35, 0)), unavailable, &["there is no driver", "install NVIDIA's driver"][..]),
        (missing(presence(0, 100, 0)), unavailable, &["there is no driver"]),
        (
            missing(presence(12040, 35, 0)),
            unavailable,
            &["supports CUDA 12.4, this library needs 13.0", "newer driver"],
        ),
        (missing(presence(13000, 100, 0)), unavailable, &["reports no device", "CUDA_VISIBLE_DEVICES"]),
        (
            opened(Setting { compute_capability: (7, 5), ..Setting::default() }),
            unavailable,
            &["7.5", "8.0 or later", "device = DeviceChoice::Cpu"],
        ),
        (
            failing("cudaSetDevice", codes::DEVICES_UNAVAILABLE),
            unavailable,
            &["exclusive use of the device", "nvidia-smi"],
        ),
        (
            failing("cudaGetDriverEntryPointByVersion", codes::DRIVER_MISMATCH),
            unavailable,
            &["do not match", "restart"],
        ),
        (lost(codes::ECC_UNCORRECTABLE), Status::DeviceFailed, &["job 2", "lost", "checkpoint", "Xid"]),
        (lost(codes::UNKNOWN), Status::DeviceFailed, &["job 2", "lost to this process"]),
        (
            pinned(Pinning::Registered, 2),
            Status::OutOfHostMemory,
            &["ulimit -l", "use the other pinning (Pinning::Registered, "],
        ),
        (pinned(Pinning::Allocated, 2), Status::OutOfHostMemory, &["free host memory"]),
        (
            pinned(Pinning::Registered, 801),
            Status::Unsupported,
            &["use the other pinning (Pinning::Registered, "],
        ),
    ] {
        assert_eq!(error.status(), status, "{error}");
        words.iter().for_each(|word| assert!(error.message().contains(word), "`{word}` is not in: {error}"));
    }
    let _one = FakeCuda::new(Setting { presence: Some(presence(13000, 0, 1)), ..Setting::default() });
    let error = CudaDevice::open(3, CudaOptions::default()).unwrap_err();
    let expected = "cuda:3 is not available: available devices are cuda:0 to cuda:0";
    assert!(error.message().contains(expected), "{error}");
}
