//! The CPU device: order, waits, failures, closing, trace spans, memory.

use std::cell::UnsafeCell;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use horizon::base::{Error, Result, Status};
use horizon::device::cpu::CpuDevice;
use horizon::device::{Device, Lane, Lanes, Tick, Work};
use horizon::host::HostSpan;
use parking_lot::Mutex;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// [`Work`] by a closure.
struct Tasks<F>(F);

impl<F: Fn(Lane, u64) -> Result<()> + Send + Sync> Work for Tasks<F> {
    fn run(&self, lane: Lane, task: u64) -> Result<()> {
        (self.0)(lane, task)
    }
}

fn open(
    device: Arc<CpuDevice>,
    tracing: bool,
    work: impl Fn(Lane, u64) -> Result<()> + Send + Sync + 'static,
) -> Box<dyn Lanes> {
    device.open(Arc::new(Tasks(work)), tracing).unwrap()
}

/// A plain device and three adversarial ones.
fn devices() -> impl Iterator<Item = Arc<CpuDevice>> {
    std::iter::once(CpuDevice::new(None)).chain((1..=3).map(|seed| CpuDevice::adversarial(None, seed)))
}

#[test]
fn device_lane_keeps_the_order_of_more_tasks_than_its_queue_holds() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let lanes = open(CpuDevice::new(None), false, move |_, task| {
        log.lock().push(task);
        Ok(())
    });
    for task in 0..5000 {
        assert_eq!(lanes.issue(Lane::Host, task, &[], false), Tick { lane: Lane::Host, count: task + 1 });
    }
    lanes.reach(lanes.last(Lane::Host)).unwrap();
    assert!(seen.lock().iter().copied().eq(0..5000));
}

/// A number without atomics, so that a missing order is a data race under ThreadSanitizer.
struct Cell(UnsafeCell<u64>);

// SAFETY: the tasks that access it wait for one another.
unsafe impl Sync for Cell {}

impl Cell {
    fn update(&self, with: impl Fn(u64) -> u64) {
        // SAFETY: the caller's task waits for the previous task that accessed the cell.
        unsafe { *self.0.get() = with(*self.0.get()) }
    }
}

#[test]
fn device_waits_order_tasks_across_lanes() {
    let step = |value: u64, task: u64| value.wrapping_mul(6364136223846793005).wrapping_add(task);
    let tasks = 3000;
    let expected = (0..tasks).fold(1, step);
    for device in devices() {
        let cell = Arc::new(Cell(UnsafeCell::new(1)));
        let inside = cell.clone();
        let lanes = open(device, false, move |_, task| {
            inside.update(|value| step(value, task));
            Ok(())
        });
        let mut last = Vec::new();
        for task in 0..tasks {
            last = vec![lanes.issue(Lane::ALL[(task * task % 7 % 5) as usize], task, &last, true)];
        }
        lanes.reach(last[0]).unwrap();
        cell.update(|value| {
            assert_eq!(value, expected);
            value
        });
    }
}

#[test]
fn device_random_lists_respect_every_wait() {
    for (seed, device) in (10..).zip(devices()) {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let tasks = 2000usize;
        // Each task's lane, and the tasks it waits for.
        let list: Vec<(Lane, Vec<usize>)> = (0..tasks)
            .map(|task| {
                let lane = Lane::ALL[random.random_range(0..Lane::COUNT)];
                let waits = (0..random.random_range(0..6)).filter(|_| task > 0);
                (lane, waits.map(|_| random.random_range(task.saturating_sub(40)..task)).collect())
            })
            .collect();
        let done: Arc<Vec<AtomicU64>> = Arc::new((0..tasks).map(|_| AtomicU64::new(0)).collect());
        let (plan, marks) = (list.clone(), done.clone());
        let lanes = open(device, false, move |lane, task| {
            let (own, waits) = &plan[task as usize];
            assert_eq!(lane, *own);
            assert!(
                waits.iter().all(|wait| marks[*wait].load(Ordering::Relaxed) == 1),
                "seed {seed}: {task}"
            );
            marks[task as usize].fetch_add(1, Ordering::Relaxed);
            Ok(())
        });
        let mut ticks: Vec<Tick> = Vec::new();
        for (task, (lane, waits)) in list.iter().enumerate() {
            let waits: Vec<Tick> = waits.iter().map(|wait| ticks[*wait]).collect();
            ticks.push(lanes.issue(*lane, task as u64, &waits, true));
        }
        for lane in Lane::ALL {
            lanes.reach(lanes.last(lane)).unwrap();
        }
        assert!(done.iter().all(|mark| mark.load(Ordering::Relaxed) == 1));
    }
}

/// With most seeds of the adversary a missing wait gives a wrong number.
#[test]
fn device_adversary_exposes_a_missing_wait() {
    let wrong = (0..8).filter(|seed| {
        let (slot, sum) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (landed, total) = (slot.clone(), sum.clone());
        let lanes = open(CpuDevice::adversarial(None, *seed), false, move |lane, task| {
            match lane {
                Lane::H2d => landed.store(task, Ordering::Relaxed),
                _ => drop(total.fetch_add(landed.load(Ordering::Relaxed), Ordering::Relaxed)),
            }
            Ok(())
        });
        let mut read = Vec::new();
        for task in 1..=200 {
            lanes.issue(Lane::H2d, task, &read, true); // waits for the reader of the old contents
            read = vec![lanes.issue(Lane::Compute, task, &[], true)]; // does not wait for the new contents
        }
        lanes.reach(read[0]).unwrap();
        sum.load(Ordering::Relaxed) != 200 * 201 / 2
    });
    assert!(wrong.count() >= 6);
}

#[test]
fn device_reports_the_first_failure_and_skips_later_tasks() {
    for device in devices() {
        let ran = Arc::new(AtomicUsize::new(0));
        let count = ran.clone();
        let lanes = open(device, false, move |_, task| match task {
            5 => Err(Error::new(Status::NonFinite, "layer 5 of the test")),
            task if task > 5 => panic!("task {task} ran after the failure"),
            _ => {
                count.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
        });
        let mut last = Vec::new();
        for task in 0..3000 {
            last = vec![lanes.issue(Lane::ALL[(task % 4) as usize], task, &last, true)];
        }
        for lane in Lane::ALL {
            let error = lanes.reach(lanes.last(lane)).unwrap_err();
            assert_eq!((error.status(), error.message()), (Status::NonFinite, "layer 5 of the test"));
        }
        assert_eq!(ran.load(Ordering::Relaxed), 5);
    }
}

#[test]
fn device_turns_a_panic_into_an_error_of_its_task() {
    let lanes = open(CpuDevice::new(None), false, |_, task| {
        assert_ne!(task, 3, "three is too many");
        Ok(())
    });
    let early = lanes.issue(Lane::Compute, 1, &[], false);
    lanes.reach(early).unwrap();
    let late = lanes.issue(Lane::Compute, 3, &[], false);
    let error = lanes.reach(late).unwrap_err();
    assert_eq!(error.status(), Status::Internal);
    assert!(
        error.message().contains("task 3 of lane compute") && error.message().contains("three is too many")
    );
}

#[test]
fn dropping_device_lanes_finishes_the_issued_tasks() {
    for fails in [false, true] {
        let ran = Arc::new(AtomicUsize::new(0));
        let count = ran.clone();
        let lanes = open(CpuDevice::adversarial(None, 4), false, move |_, task| {
            if fails && task == 10 {
                return Err(Error::internal("the tenth"));
            }
            thread::sleep(Duration::from_micros(20));
            count.fetch_add(1, Ordering::Relaxed);
            Ok(())
        });
        let mut last = vec![];
        for task in 0..400 {
            last = vec![lanes.issue(Lane::ALL[(task % 4) as usize], task, &last, true)];
        }
        drop(lanes);
        assert_eq!(ran.load(Ordering::Relaxed), if fails { 10 } else { 400 });
    }
}

#[test]
fn device_lanes_open_and_close_idle() {
    for _ in 0..30 {
        drop(open(CpuDevice::new(None), true, |_, _| Ok(())));
    }
}

#[test]
fn device_many_threads_may_reach() {
    let lanes: Arc<dyn Lanes> = open(CpuDevice::adversarial(None, 9), false, |_, _| Ok(())).into();
    let ticks: Vec<Tick> = (0..500).map(|task| lanes.issue(Lane::D2h, task, &[], true)).collect();
    let reachers: Vec<_> = (0..4)
        .map(|chunk| {
            let (lanes, ticks) = (lanes.clone(), ticks.clone());
            thread::spawn(move || {
                ticks.iter().skip(chunk).step_by(4).for_each(|tick| lanes.reach(*tick).unwrap())
            })
        })
        .collect();
    reachers.into_iter().for_each(|reacher| reacher.join().unwrap());
}

#[test]
fn device_spans_record_tasks_lanes_and_times() {
    let lanes = open(CpuDevice::new(None), true, |lane, _| {
        if lane == Lane::H2d {
            thread::sleep(Duration::from_millis(3));
        }
        Ok(())
    });
    for task in 0..10 {
        let landed = lanes.issue(Lane::H2d, task, &[], true);
        lanes.issue(Lane::Compute, 100 + task, &[landed], false);
    }
    lanes.reach(lanes.last(Lane::Compute)).unwrap();
    let spans = lanes.take_spans();
    for (lane, first) in [(Lane::H2d, 0), (Lane::Compute, 100)] {
        let own: Vec<_> = spans.iter().filter(|span| span.lane == lane).collect();
        assert!(own.iter().map(|span| span.task).eq(first..first + 10), "{lane}");
        assert!(own.iter().all(|span| span.ready_ns <= span.start_ns && span.start_ns <= span.end_ns));
        assert!(own.windows(2).all(|pair| pair[0].end_ns <= pair[1].ready_ns));
    }
    // A waiting task starts after the tick has arrived, on the same clock.
    for task in 0..10 {
        let of = |task| spans.iter().find(|span| span.task == task).unwrap();
        assert!(of(task).end_ns <= of(100 + task).start_ns);
    }
    assert_eq!(spans.len(), 20);
    assert!(lanes.take_spans().is_empty());
    assert!(open(CpuDevice::new(None), false, |_, _| Ok(())).take_spans().is_empty());
}

#[test]
fn device_memory_is_limited_and_reserved_once() {
    let device = CpuDevice::new(Some(1 << 20));
    assert_eq!(device.info().memory_free, 1 << 20);
    let error = device.reserve((1 << 20) + 1).unwrap_err();
    assert_eq!(error.status(), Status::OutOfDeviceMemory);
    assert_eq!(
        error.message(),
        "1.0 MiB of device memory are needed, 1.0 MiB may be taken (device_mem): 1 byte too many"
    );
    assert_eq!(device.reserve(1 << 19).unwrap().bytes(), 1 << 19);
    assert_eq!(device.info().memory_free, 1 << 19);
    assert_eq!(device.reserve(16).unwrap_err().status(), Status::InvalidState);
    assert_eq!(CpuDevice::new(None).reserve(1 << 60).unwrap_err().status(), Status::OutOfDeviceMemory);
    assert!(device.info().name.starts_with("cpu ("), "{}", device.info().name);
}

#[test]
fn device_copies_between_two_memories() {
    let device = CpuDevice::new(None);
    let arena = device.reserve(4096).unwrap();
    let mut numbers: Vec<u8> = (0..=255).collect();
    // SAFETY: `numbers` lives to the end of the test and is accessed only through the span until
    // `drop(lanes)`.
    let span = unsafe { HostSpan::new(NonNull::new(numbers.as_mut_ptr()).unwrap(), 256) };
    let copier = device.clone();
    // SAFETY: the vector and the device outlive the lanes, and each copy waits for the previous one.
    let lanes = open(device, false, move |lane, task| unsafe {
        match (lane, task) {
            (Lane::H2d, 0) => copier.upload(arena.subspan(64, 256), span),
            (Lane::D2h, 1) => copier.download(span.subspan(0, 100), arena.subspan(100, 100)),
            (Lane::H2d, _) => copier.upload(arena.subspan(0, 255), span),
            _ => unreachable!("nothing else is issued"),
        }
    });
    let landed = lanes.issue(Lane::H2d, 0, &[], true);
    let back = lanes.issue(Lane::D2h, 1, &[landed], false);
    lanes.reach(back).unwrap();
    let unequal = lanes.issue(Lane::H2d, 2, &[], false);
    assert_eq!(lanes.reach(unequal).unwrap_err().status(), Status::Internal);
    drop(lanes);
    assert!(numbers[..100].iter().copied().eq(36..136));
    assert!(numbers[100..].iter().copied().eq(100..=255));
}

#[test]
fn device_adversary_scrubs_and_a_plain_device_does_not() {
    for device in devices() {
        let span = device.reserve(1024).unwrap();
        // SAFETY: the device is alive, and nothing else runs on it.
        unsafe { device.scrub(Lane::Compute, span.subspan(256, 512)) }.unwrap();
        let mut bytes = vec![1u8; 1024];
        let base = NonNull::new(bytes.as_mut_ptr()).unwrap();
        // SAFETY: the vector outlives the span, and nothing else accesses it meanwhile.
        unsafe { device.download(HostSpan::new(base, 1024), span) }.unwrap();
        let scrubbed = |byte: u8| if device.scrubs() { byte } else { 0 };
        assert!(
            bytes[..256].iter().chain(&bytes[768..]).all(|&byte| byte == 0),
            "bytes outside the span are unchanged"
        );
        assert!(bytes[256..768].iter().all(|&byte| byte == scrubbed(0xff)));
    }
}

/// Unordered tasks run in every order: all tasks of either lane first, and interleaved.
#[test]
fn device_adversary_reorders_unordered_tasks() {
    const TASKS: u64 = 6;
    let mut seen = [0; 3];
    for seed in 0..200 {
        let (start, started) = crossbeam_channel::unbounded::<()>();
        let (order, started) = (Arc::new(Mutex::new(Vec::new())), Mutex::new(started));
        let log = order.clone();
        let lanes = open(CpuDevice::adversarial(None, seed), false, move |lane, task| {
            match task {
                0 => started.lock().recv().unwrap(),
                _ => log.lock().push(lane),
            }
            Ok(())
        });
        // All tasks of both lanes are issued before either lane starts.
        let gate = [lanes.issue(Lane::Disk, 0, &[], true)];
        for task in 1..=TASKS {
            lanes.issue(Lane::Compute, task, &gate, false);
            lanes.issue(Lane::H2d, task, &gate, false);
        }
        start.send(()).unwrap();
        for lane in [Lane::Compute, Lane::H2d] {
            lanes.reach(lanes.last(lane)).unwrap();
        }
        let order = order.lock();
        assert_eq!(order.len() as u64, 2 * TASKS);
        let first = order.iter().take_while(|lane| **lane == order[0]).count() as u64;
        seen[match order[0] {
            Lane::Compute if first == TASKS => 0,
            Lane::H2d if first == TASKS => 1,
            _ => 2,
        }] += 1;
    }
    assert!(seen.iter().all(|&count| count > 0), "compute first, h2d first, interleaved: {seen:?}");
}
