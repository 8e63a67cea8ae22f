//! Fake devices: a registry by ordinal, what threads and handles belong to, and the thread on which a device's work
//! runs by itself.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use horizon::sys::cuda_status::{self, Presence, Versions};
use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};

use super::machine::{Machine, Op, QUEUE, Work};
use super::{Manner, Setting, faults};

/// After so long without a new command, lazy work runs by itself: somebody waits for it in a way that shows nowhere.
const IDLE: Duration = Duration::from_micros(150);
/// Between two looks at what another thread may have done.
const NAP: Duration = Duration::from_micros(30);

/// A fake device.
pub struct Device {
    pub ordinal: usize,
    pub setting: Setting,
    machine: Mutex<Machine>,
    /// Something was enqueued or run, or the context was unlocked.
    changed: Condvar,
    /// Whether a [`FakeCuda`](super::FakeCuda) still asks about it.
    pub asked: AtomicBool,
    retired: AtomicBool,
}

/// All there ever were, by ordinal.
static DEVICES: RwLock<Vec<Option<Arc<Device>>>> = RwLock::new(Vec::new());

thread_local! {
    /// The calling thread's current device. CUDA's is device 0 at first: nothing here relies on that.
    pub static CURRENT: Cell<Option<usize>> = const { Cell::new(None) };
    /// What this thread is shown of drivers and devices instead of what there is.
    pub static PRESENCE: RefCell<Option<Presence>> = const { RefCell::new(None) };
}

/// What the calling thread is shown of drivers and devices.
pub fn presence() -> Presence {
    PRESENCE.with_borrow(Clone::clone).unwrap_or_else(|| Presence {
        versions: Versions { driver: 13000, runtime: 13000 },
        code: cuda_status::SUCCESS,
        text: String::new(),
        count: DEVICES.read().len(),
    })
}

impl Device {
    /// Adds a device, with the next ordinal.
    pub fn add(setting: Setting) -> Arc<Device> {
        let mut devices = DEVICES.write();
        let device = Arc::new(Device {
            ordinal: devices.len(),
            machine: Mutex::new(Machine::new(&setting)),
            setting,
            changed: Condvar::new(),
            asked: AtomicBool::new(true),
            retired: AtomicBool::new(false),
        });
        devices.push(Some(device.clone()));
        let runner = device.clone();
        thread::Builder::new().name("fake-cuda".into()).spawn(move || runner.run()).expect("a thread");
        device
    }

    /// The device of an ordinal, unless it is gone.
    pub fn find(ordinal: usize) -> Option<Arc<Device>> {
        DEVICES.read().get(ordinal).cloned().flatten()
    }

    /// Takes the device away if nobody asks about it and nothing of it is left.
    pub fn retire_if_left(&self) {
        if !self.asked.load(Ordering::Acquire) && self.machine.lock().live == 0 {
            self.retired.store(true, Ordering::Release);
            self.changed.notify_all();
            DEVICES.write()[self.ordinal] = None;
            faults::forget(self.ordinal);
        }
    }

    /// Its state, for looking at it.
    pub fn look(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock()
    }

    /// Starts a call: waits while another thread has the lock of the context. Errors: the device is lost.
    pub fn enter(&self) -> Result<MutexGuard<'_, Machine>, u32> {
        let mut machine = self.machine.lock();
        self.wait_until(&mut machine, "a call waits while a kernel is loaded", |machine| {
            !machine.is_locked()
        })?;
        Ok(machine)
    }

    /// Waits, running work, until something is so. Errors: the device is lost, or that has taken too long.
    fn wait_until(
        &self,
        machine: &mut MutexGuard<'_, Machine>,
        what: &str,
        so: impl Fn(&Machine) -> bool,
    ) -> Result<(), u32> {
        let start = Instant::now();
        while machine.lost.is_none() && !so(machine) {
            if machine.is_locked() || !machine.advance_any() {
                self.changed.wait_for(machine, NAP);
            }
            if start.elapsed() > self.setting.patience && machine.lost.is_none() {
                machine.deadlock(what);
            }
        }
        machine.lost.map_or(Ok(()), Err)
    }

    /// Appends a command to a stream, once there is room.
    pub fn enqueue(&self, stream: usize, op: Op) -> Result<(), u32> {
        let mut machine = self.enter()?;
        self.append(&mut machine, stream, op)
    }

    fn append(&self, machine: &mut MutexGuard<'_, Machine>, stream: usize, op: Op) -> Result<(), u32> {
        self.wait_until(machine, "a stream's queue stays full", |machine| {
            machine.streams[stream].len() < QUEUE
        })?;
        machine.push(stream, op);
        self.changed.notify_all();
        Ok(())
    }

    /// Launches a kernel. The first launch of each loads it: that takes the lock of the context, and waits until the
    /// device is idle.
    pub fn launch(&self, stream: usize, kernel: usize, work: Work) -> Result<(), u32> {
        let mut machine = self.enter()?;
        if machine.loads_now(kernel) {
            machine.loading = Some(thread::current().id());
            let idle =
                self.wait_until(&mut machine, "a kernel is loaded and the device never idle", |machine| {
                    !machine.has_work()
                });
            machine.loading = None;
            self.changed.notify_all();
            idle?;
        }
        self.append(&mut machine, stream, Op::Work(work))
    }

    /// Runs all that is queued, as CUDA does before memory goes; who relies on that is noted.
    pub fn drain(&self, what: &str) -> Result<MutexGuard<'_, Machine>, u32> {
        let mut machine = self.enter()?;
        machine.note_work(what);
        self.wait_until(&mut machine, "memory goes while work waits that never runs", |machine| {
            !machine.has_work()
        })?;
        Ok(machine)
    }

    /// Whether something is done, for whoever asks; asking moves work on.
    pub fn ask(&self, stream: usize, done: impl Fn(&Machine) -> bool) -> Result<bool, u32> {
        let mut machine = self.enter()?;
        if !done(&machine) {
            machine.advance_for(stream);
        }
        machine.lost.map_or_else(|| Ok(done(&machine)), Err)
    }

    /// Whether nothing runs.
    pub fn hold(&self, held: bool) {
        self.machine.lock().held = held;
        self.changed.notify_all();
    }

    /// The device's own progress.
    fn run(&self) {
        let mut machine = self.machine.lock();
        while !self.retired.load(Ordering::Acquire) {
            if machine.lost.is_some() || machine.held || !machine.has_work() {
                self.changed.wait(&mut machine);
                continue;
            }
            let before = machine.progress_at;
            match self.setting.manner {
                Manner::Eager => machine.run_all(),
                Manner::Lazy if machine.enqueued_at.elapsed() < IDLE => {}
                Manner::Lazy => drop(machine.advance_any()),
                Manner::Random(_) => machine.run_some(),
            }
            if before.elapsed() > self.setting.patience && machine.progress_at == before {
                machine.deadlock("streams wait for what nobody does");
            }
            self.changed.notify_all();
            self.changed.wait_for(&mut machine, NAP);
        }
    }
}
