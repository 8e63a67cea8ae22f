//! Saving under training: what is saved, what waits for it, and what an error of the sink does.

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

#[derive(Default)]
struct Shelf {
    units: Saved,
    finished: bool,
    dropped: bool,
}

/// Keeps what it gets, in the manner of the test.
pub struct Keep {
    shelf: Arc<Mutex<Shelf>>,
    /// The unit that fails, if one is to; one past the head fails at the end.
    fails_at: Option<UnitIndex>,
    /// Heard before each unit.
    may_go_on: Option<Receiver<()>>,
}

impl Sink for Keep {
    fn unit(&mut self, state: &UnitState) -> Result<()> {
        if let Some(may_go_on) = &self.may_go_on {
            let heard = may_go_on.recv_timeout(Duration::from_secs(60));
            heard.map_err(|_| Error::new(Status::Io, "nobody lets the save go on"))?;
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
        self.shelf.lock().units.push((state.unit, bytes));
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<()> {
        let mut shelf = self.shelf.lock();
        shelf.finished = true;
        let past_the_head = UnitIndex::from(shelf.units.len());
        if self.fails_at == Some(past_the_head) {
            return Err(Error::new(Status::Io, "it cannot be renamed"));
        }
        Ok(())
    }
}

impl Drop for Keep {
    fn drop(&mut self) {
        self.shelf.lock().dropped = true;
    }
}

fn sink(fails_at: Option<UnitIndex>, may_go_on: Option<Receiver<()>>) -> (Arc<Mutex<Shelf>>, Box<dyn Sink>) {
    let shelf = Arc::new(Mutex::new(Shelf::default()));
    (shelf.clone(), Box::new(Keep { shelf, fails_at, may_go_on }))
}

/// All that a resumed run would need, once every lane is idle.
pub fn state(trainer: &mut Trainer) -> Saved {
    let (shelf, sink) = sink(None, None);
    trainer.sync().unwrap();
    trainer.save(sink).unwrap();
    trainer.save_wait().unwrap();
    let shelf = shelf.lock();
    assert!(shelf.finished && shelf.dropped);
    shelf.units.clone()
}

/// Begins a save whose bytes come once it has ended.
pub fn begin(trainer: &mut Trainer) -> impl Fn() -> Saved + use<> {
    let (shelf, sink) = sink(None, None);
    trainer.save(sink).unwrap();
    move || shelf.lock().units.clone()
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
fn a_save_is_of_the_moment_it_was_asked_for() {
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
            // AdamW of the step before still runs, and the next step runs over the save.
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
    let (go_on, may_go_on): (Sender<()>, _) = unbounded();
    let (shelf, sink) = sink(None, Some(may_go_on));
    trainer.save(sink).unwrap();
    // Nothing has been saved when the step returns, and nothing of it has been updated.
    step(&mut trainer, 1);
    assert!(trainer.save_outcome().is_none());
    assert!(shelf.lock().units.is_empty());
    // Two units are saved and may then be updated; reading one of them waits for that alone.
    go_on.send(()).unwrap();
    go_on.send(()).unwrap();
    let name = "model.layers.0.mlp.down_proj.weight";
    let mut values = vec![0.0; 24 * 40];
    trainer.read_tensor(name, &mut values).unwrap();
    assert_eq!(shelf.lock().units.len(), 2);
    (2..units).for_each(|_| go_on.send(()).unwrap());
    trainer.save_wait().unwrap();
    assert!(trainer.save_outcome().is_none(), "an outcome is given once");

    step(&mut alone, 0);
    assert!(shelf.lock().units == state(&mut alone));
    step(&mut alone, 1);
    let mut want = vec![0.0; 24 * 40];
    alone.read_tensor(name, &mut want).unwrap();
    assert_eq!(values, want);
    assert!(weights(&mut trainer) == weights(&mut alone));
}

#[test]
fn a_sink_that_fails_ends_the_save_and_nothing_else() {
    let mut alone = opened(None);
    (0..3).for_each(|number| step(&mut alone, number));
    let head = alone.layout().head();
    for fails_at in [UnitIndex(0), UnitIndex(3), head, UnitIndex(head.0 + 1)] {
        let mut trainer = opened(None);
        step(&mut trainer, 0);
        let (shelf, failing) = sink(Some(fails_at), None);
        trainer.save(failing).unwrap();
        step(&mut trainer, 1);
        let error = trainer.save_wait().unwrap_err();
        if fails_at <= head {
            assert_eq!(error.status(), Status::DiskFull);
            assert!(error.message().contains(&fails_at.to_string()), "{error}");
        } else {
            assert_eq!(error.status(), Status::Io);
        }
        let shelf = shelf.lock();
        assert_eq!(shelf.units.len(), fails_at.at().min(head.at() + 1), "later units are passed over");
        assert_eq!((shelf.finished, shelf.dropped), (fails_at > head, true));
        // The next one is as good as if nothing had been.
        step(&mut trainer, 2);
        assert!(state(&mut trainer) == state(&mut alone));
    }
}

#[test]
fn one_save_at_a_time() {
    let mut trainer = opened(None);
    assert_eq!(trainer.save_wait().unwrap_err().status(), Status::InvalidState);
    assert!(trainer.save_outcome().is_none());
    let (go_on, may_go_on) = unbounded();
    let (_, first) = sink(None, Some(may_go_on));
    trainer.save(first).unwrap();
    let (shelf, second) = sink(None, None);
    assert_eq!(trainer.save(second).unwrap_err().status(), Status::InvalidState);
    assert!(shelf.lock().dropped && shelf.lock().units.is_empty());
    (0..trainer.layout().units.len()).for_each(|_| go_on.send(()).unwrap());
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
fn a_trainer_that_is_dropped_ends_its_save_first() {
    let mut trainer = opened(None);
    let (shelf, sink) = sink(None, None);
    trainer.save(sink).unwrap();
    drop(trainer);
    assert!(shelf.lock().finished);
}

#[test]
fn write_tensor_waits_for_the_save_of_its_unit() {
    let mut trainer = opened(None);
    let want = state(&mut trainer);
    let (go_on, may_go_on) = unbounded();
    let (shelf, sink) = sink(None, Some(may_go_on));
    trainer.save(sink).unwrap();
    go_on.send(()).unwrap();
    trainer.write_tensor("model.embed_tokens.weight", &vec![0.5; 67 * 24]).unwrap();
    assert_eq!(shelf.lock().units.len(), 1);
    (1..want.len()).for_each(|_| go_on.send(()).unwrap());
    trainer.save_wait().unwrap();
    assert!(shelf.lock().units == want);
}

/// The same over placements whose AdamW runs under backward and through the ring.
#[test]
fn saves_under_every_way_to_update() {
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
