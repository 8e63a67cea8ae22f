//! Saves during training: the saved state, waits, and errors of the sink.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};
use horizon::base::{Error, Result, Status, UnitIndex};
use horizon::device::cpu::CpuDevice;
use horizon::engine::{Sink, StateSpan, Trainer, TrainerOptions, UnitState};
use parking_lot::Mutex;

use crate::{config, options};
use support::runs::{Data, data, fill, weights};

/// Bytes of every unit: weights, residual, moments.
pub type Saved = Vec<(UnitIndex, Vec<u8>)>;

/// The calls of a sink.
#[derive(Default)]
struct Log {
    units: Saved,
    finished: bool,
    dropped: bool,
}

/// A sink that records its calls; a test can make it fail or wait.
pub struct Recorder {
    log: Arc<Mutex<Log>>,
    /// The unit at which it fails, if any; one past the head fails in `finish`.
    fails_at: Option<UnitIndex>,
    /// One message must arrive before each unit.
    permits: Option<Receiver<()>>,
}

impl Sink for Recorder {
    fn unit(&mut self, state: &UnitState) -> Result<()> {
        if let Some(permits) = &self.permits {
            let permit = permits.recv_timeout(Duration::from_secs(60));
            permit.map_err(|_| Error::new(Status::Io, "the test sent no permit to continue the save"))?;
        }
        if self.fails_at == Some(state.unit) {
            return Err(Error::new(Status::DiskFull, "no space is left for it"));
        }
        let mut bytes = Vec::new();
        for span in StateSpan::all(state.optimizer) {
            let size = span.element_bytes(state.optimizer);
            let span = state.span(span);
            assert_eq!(span.len(), state.layout.elements * size);
            bytes.extend(span);
        }
        self.log.lock().units.push((state.unit, bytes));
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<()> {
        let mut log = self.log.lock();
        log.finished = true;
        let past_the_head = UnitIndex::from(log.units.len());
        if self.fails_at == Some(past_the_head) {
            return Err(Error::new(Status::Io, "it cannot be renamed"));
        }
        Ok(())
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.log.lock().dropped = true;
    }
}

fn sink(fails_at: Option<UnitIndex>, permits: Option<Receiver<()>>) -> (Arc<Mutex<Log>>, Box<dyn Sink>) {
    let log = Arc::new(Mutex::new(Log::default()));
    (log.clone(), Box::new(Recorder { log, fails_at, permits }))
}

/// The state that a resumed run needs, saved while all lanes are idle.
pub fn state(trainer: &mut Trainer) -> Saved {
    let (log, sink) = sink(None, None);
    trainer.sync().unwrap();
    trainer.save(sink).unwrap();
    trainer.save_wait().unwrap();
    let log = log.lock();
    assert!(log.finished && log.dropped);
    log.units.clone()
}

/// Begins a save. The returned function gives its state, after it has ended.
pub fn begin(trainer: &mut Trainer) -> impl Fn() -> Saved + use<> {
    let (log, sink) = sink(None, None);
    trainer.save(sink).unwrap();
    move || log.lock().units.clone()
}

/// Like [`begin`], and each unit waits for a message to the returned channel.
pub fn begin_held(trainer: &mut Trainer) -> (Sender<()>, impl Fn() -> Saved + use<>) {
    let (permit, permits) = unbounded();
    let (log, sink) = sink(None, Some(permits));
    trainer.save(sink).unwrap();
    (permit, move || log.lock().units.clone())
}

fn opened(seed: Option<u64>) -> Trainer {
    let device = seed.map_or_else(|| CpuDevice::new(None), |seed| CpuDevice::adversarial(None, seed));
    let mut trainer = Trainer::open_on(device, &config(seed.is_some()), &options()).unwrap();
    fill(&mut trainer);
    trainer
}

fn step(trainer: &mut Trainer, number: usize) {
    let data = data(&options(), number, 67);
    trainer.step(&data.iter().map(Data::batch).collect::<Vec<_>>(), 1e-2).unwrap();
}

#[test]
fn a_save_has_the_state_at_its_call() {
    for seed in [None, Some(1), Some(2), Some(3)] {
        let mut serial = opened(seed);
        let mut want = Vec::new();
        for number in 0..5 {
            step(&mut serial, number);
            want.push(state(&mut serial));
        }
        let mut trainer = opened(seed);
        step(&mut trainer, 0);
        for (number, want) in want.iter().enumerate() {
            // AdamW of the step before still runs, and the next step runs during the save.
            let saved = begin(&mut trainer);
            step(&mut trainer, number + 1);
            trainer.save_wait().unwrap();
            assert!(saved() == *want, "seed {seed:?}, step {number}");
        }
    }
}

#[test]
fn a_step_does_not_wait_for_a_save() {
    let (mut trainer, mut alone) = (opened(None), opened(None));
    step(&mut trainer, 0);
    let units = trainer.layout().units.len();
    let (permit, permits): (Sender<()>, _) = unbounded();
    let (log, sink) = sink(None, Some(permits));
    trainer.save(sink).unwrap();
    // When the step returns, no unit has been saved, so none has been updated.
    step(&mut trainer, 1);
    assert!(trainer.save_outcome().is_none());
    assert!(log.lock().units.is_empty());
    // Two units are saved and may then be updated; reading one of them waits for these only.
    permit.send(()).unwrap();
    permit.send(()).unwrap();
    let name = "model.layers.0.mlp.down_proj.weight";
    let mut values = vec![0.0; 24 * 40];
    trainer.read_tensor(name, &mut values).unwrap();
    assert_eq!(log.lock().units.len(), 2);
    (2..units).for_each(|_| permit.send(()).unwrap());
    trainer.save_wait().unwrap();
    assert!(trainer.save_outcome().is_none(), "the outcome was taken before");

    step(&mut alone, 0);
    assert!(log.lock().units == state(&mut alone));
    step(&mut alone, 1);
    let mut want = vec![0.0; 24 * 40];
    alone.read_tensor(name, &mut want).unwrap();
    assert_eq!(values, want);
    assert!(weights(&mut trainer) == weights(&mut alone));
}

#[test]
fn a_failed_sink_ends_the_save_only() {
    let mut alone = opened(None);
    (0..3).for_each(|number| step(&mut alone, number));
    let head = alone.layout().head();
    for fails_at in [UnitIndex(0), UnitIndex(3), head, UnitIndex(head.0 + 1)] {
        let mut trainer = opened(None);
        step(&mut trainer, 0);
        let (log, failing) = sink(Some(fails_at), None);
        trainer.save(failing).unwrap();
        step(&mut trainer, 1);
        let error = trainer.save_wait().unwrap_err();
        if fails_at <= head {
            assert_eq!(error.status(), Status::DiskFull);
            assert!(error.message().contains(&fails_at.to_string()), "{error}");
        } else {
            assert_eq!(error.status(), Status::Io);
        }
        let log = log.lock();
        assert_eq!(log.units.len(), fails_at.at().min(head.at() + 1), "later units are not skipped");
        assert_eq!((log.finished, log.dropped), (fails_at > head, true));
        // The next save succeeds, with the state of an undisturbed run.
        step(&mut trainer, 2);
        assert!(state(&mut trainer) == state(&mut alone));
    }
}

#[test]
fn one_save_at_a_time() {
    let mut trainer = opened(None);
    assert_eq!(trainer.save_wait().unwrap_err().status(), Status::InvalidState);
    assert!(trainer.save_outcome().is_none());
    let (permit, permits) = unbounded();
    let (_, first) = sink(None, Some(permits));
    trainer.save(first).unwrap();
    let (log, second) = sink(None, None);
    assert_eq!(trainer.save(second).unwrap_err().status(), Status::InvalidState);
    assert!(log.lock().dropped && log.lock().units.is_empty());
    (0..trainer.layout().units.len()).for_each(|_| permit.send(()).unwrap());
    let outcome = loop {
        match trainer.save_outcome() {
            Some(outcome) => break outcome,
            None => std::thread::yield_now(),
        }
    };
    outcome.unwrap();
    assert!(state(&mut trainer).len() == 7);
}

#[test]
fn a_dropped_trainer_finishes_its_save_first() {
    let mut trainer = opened(None);
    let (log, sink) = sink(None, None);
    trainer.save(sink).unwrap();
    drop(trainer);
    assert!(log.lock().finished);
}

#[test]
fn write_tensor_waits_for_the_save_of_its_unit() {
    let mut trainer = opened(None);
    let want = state(&mut trainer);
    let (permit, permits) = unbounded();
    let (log, sink) = sink(None, Some(permits));
    trainer.save(sink).unwrap();
    permit.send(()).unwrap();
    trainer.write_tensor("model.embed_tokens.weight", &vec![0.5; 67 * 24]).unwrap();
    assert_eq!(log.lock().units.len(), 1);
    (1..want.len()).for_each(|_| permit.send(()).unwrap());
    trainer.save_wait().unwrap();
    assert!(log.lock().units == want);
}

#[test]
fn a_save_has_the_state_at_its_call_in_every_mode() {
    use horizon::schedule::{AdamWhen, GradWait, Mode};
    for (mode, grad_wait, adam_when) in [
        (Mode::Exact, GradWait::Device, None),
        (Mode::Exact, GradWait::Host, Some(AdamWhen::UnderBackward)),
        (Mode::Streamed, GradWait::Host, None),
        (Mode::Streamed, GradWait::Device, None),
    ] {
        let options = TrainerOptions { clip: 0.0, mode, grad_wait, adam_when, ..options() };
        let run = |serial: bool| {
            let device = CpuDevice::adversarial(None, 5);
            let mut trainer = Trainer::open_on(device, &config(false), &options).unwrap();
            fill(&mut trainer);
            step(&mut trainer, 0);
            if serial {
                return state(&mut trainer);
            }
            let saved = begin(&mut trainer);
            step(&mut trainer, 1);
            trainer.save_wait().unwrap();
            saved()
        };
        assert!(run(true) == run(false), "{mode:?} {grad_wait:?} {adam_when:?}");
    }
}
