//! Random policies, models and sequences of lists, and the steps that the engine takes to run them.

use horizon::base::{DType, MicroIndex, Shape};
use horizon::device::{Lane, Tick};
use horizon::schedule::{
    Access, Accumulator, AdamWhen, Boundary, Checker, Content, Fault, Geometry, GradWait, LayerPlacement,
    List, Mode, Numeric, Placement, Policy, Recompute, Resource, Sync, Synced, evaluate, logits, logprobs,
    save, train, train_rows_first, train_with_loss,
};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

/// The proptest configuration: the same cases in every run, 20 times as many with `HZ_LONG`.
pub fn cases(count: u32) -> ProptestConfig {
    let times = if std::env::var_os("HZ_LONG").is_some() { 20 } else { 1 };
    ProptestConfig {
        cases: count * times,
        rng_seed: RngSeed::Fixed(0x5ced_01e5),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// The purpose of a list, and its number of micro-batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Train(usize),
    TrainRowsFirst(usize),
    Evaluate(usize),
    Logits,
    Save,
    Logprobs(usize),
    /// A plain training step if the policy has several sweeps.
    TrainWithLoss(usize),
}

/// A policy, a model, and the lists to run.
#[derive(Clone, Debug)]
pub struct Case {
    pub policy: Policy,
    pub geometry: Geometry,
    pub kinds: Vec<Kind>,
    /// True if the issuing thread accesses memory between lists: writes batches, reads results and
    /// masters.
    pub outside: bool,
}

/// An act of the issuing thread: issues a list, or accesses memory itself once some ticks have
/// arrived.
#[derive(Clone, Debug)]
pub enum Act {
    Issue(List, Synced),
    Outside(Vec<Tick>, Vec<Access>),
}

pub fn policy(mode: Mode, adam: AdamWhen, weight_slots: usize, slabs: usize, ring: usize) -> Policy {
    Policy {
        mode,
        numeric: Numeric { shape: Shape { b: 1, t: 8 }, logits_chunk: 8, grad_dtype: DType::Bf16 },
        placement: Placement { weight_slots, slabs, ring, adam, ..Placement::default() },
    }
}

fn any_policy() -> impl Strategy<Value = Policy> {
    let updates = prop_oneof![
        2 => Just((Mode::Exact, AdamWhen::AfterNorm, GradWait::Host)),
        2 => Just((Mode::Exact, AdamWhen::UnderBackward, GradWait::Host)),
        2 => Just((Mode::Streamed, AdamWhen::UnderBackward, GradWait::Host)),
        1 => Just((Mode::Exact, AdamWhen::AfterNorm, GradWait::Device)),
        1 => Just((Mode::Streamed, AdamWhen::AfterNorm, GradWait::Device)),
        1 => Just((Mode::Compact, AdamWhen::AfterNorm, GradWait::Host)),
        1 => Just((Mode::Compact, AdamWhen::UnderBackward, GradWait::Host)),
        1 => Just((Mode::Compact, AdamWhen::AfterNorm, GradWait::Device)),
    ];
    let sweeps = prop_oneof![2 => Just(1), 1 => 2..=3usize];
    (updates, 2..=5usize, 2..=4usize, 2..=4usize, sweeps).prop_map(
        |((mode, adam, grad_wait), slots, slabs, ring, sweeps)| {
            let mut policy = policy(mode, adam, slots, slabs, ring);
            (policy.placement.grad_wait, policy.placement.sweeps) = (grad_wait, sweeps);
            policy
        },
    )
}

fn any_layer() -> impl Strategy<Value = LayerPlacement> {
    let recompute = proptest::sample::select(Recompute::ALL.to_vec());
    let boundary = prop_oneof![Just(Boundary::Kept), Just(Boundary::Spilled)];
    let accumulator = prop_oneof![Just(Accumulator::Spilled), Just(Accumulator::OnDevice)];
    (recompute, boundary, any::<bool>(), accumulator).prop_map(
        |(recompute, boundary, resident, accumulator)| LayerPlacement {
            recompute,
            boundary,
            resident,
            accumulator,
        },
    )
}

/// A model, and a policy that is valid for it.
pub fn any_model() -> impl Strategy<Value = (Policy, Geometry)> {
    let layers = prop_oneof![
        1 => Just(Vec::new()),
        2 => proptest::collection::vec(any_layer(), 1..=9),
    ];
    (any_policy(), any_geometry(), layers).prop_map(|(mut policy, geometry, mut layers)| {
        layers.truncate(geometry.layers);
        policy.placement.layers = layers;
        (policy, geometry)
    })
}

fn any_geometry() -> impl Strategy<Value = Geometry> {
    (1..=9usize, any::<bool>(), 1..=6usize, 1..=8usize).prop_map(
        |(layers, tied, embedding_chunks, chunks)| Geometry {
            layers,
            tied,
            embedding_chunks,
            head_chunks: if tied { 1 } else { chunks },
        },
    )
}

fn any_kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        3 => (1..=4usize).prop_map(Kind::Train),
        2 => (1..=4usize).prop_map(Kind::TrainRowsFirst),
        1 => (1..=4usize).prop_map(Kind::Evaluate),
        1 => Just(Kind::Logits),
        1 => Just(Kind::Save),
        1 => (1..=4usize).prop_map(Kind::Logprobs),
        1 => (1..=4usize).prop_map(Kind::TrainWithLoss),
    ]
}

pub fn any_case() -> impl Strategy<Value = Case> {
    let kinds = prop_oneof![
        (1..=4usize, 1..=4usize).prop_map(|(m, n)| {
            vec![Kind::Train(m), Kind::Train(m), Kind::Evaluate(n), Kind::Save, Kind::Train(m), Kind::Logits]
        }),
        proptest::collection::vec(any_kind(), 1..6),
    ];
    (any_model(), kinds, any::<bool>()).prop_map(|((policy, geometry), kinds, outside)| Case {
        policy,
        geometry,
        kinds,
        outside,
    })
}

/// Three steps over the same number of micro-batches, the middle one in the steady state. The state
/// after the first may be saved during it.
pub fn three_steps() -> impl Strategy<Value = Case> {
    let step = prop_oneof![
        2 => Just(Kind::Train as fn(usize) -> Kind),
        1 => Just(Kind::TrainRowsFirst as fn(usize) -> Kind),
        1 => Just(Kind::TrainWithLoss as fn(usize) -> Kind),
    ];
    (any_model(), 1..=3usize, step, any::<bool>(), any::<bool>()).prop_map(
        |((policy, geometry), micros, step, saved, outside)| {
            let mut kinds = vec![step(micros); 3];
            if saved {
                kinds.insert(1, Kind::Save);
            }
            Case { policy, geometry, kinds, outside }
        },
    )
}

impl Case {
    /// The position of the middle step of [`three_steps`] among the lists.
    pub fn middle(&self) -> usize {
        self.kinds.len() - 2
    }

    pub fn list(&self, kind: Kind) -> List {
        match kind {
            Kind::Train(micros) => train(&self.policy, &self.geometry, micros),
            Kind::TrainRowsFirst(micros) => train_rows_first(&self.policy, &self.geometry, micros),
            Kind::Evaluate(micros) => evaluate(&self.policy, &self.geometry, micros),
            Kind::Logits => logits(&self.policy, &self.geometry),
            Kind::Save => Ok(save(&self.geometry)),
            Kind::Logprobs(micros) => logprobs(&self.policy, &self.geometry, micros),
            Kind::TrainWithLoss(micros) if self.policy.placement.sweep(micros) < micros => {
                assert!(train_with_loss(&self.policy, &self.geometry, micros).is_err());
                train(&self.policy, &self.geometry, micros)
            }
            Kind::TrainWithLoss(micros) => train_with_loss(&self.policy, &self.geometry, micros),
        }
        .expect("the policy is valid")
    }

    pub fn lists(&self) -> Vec<List> {
        self.kinds.iter().map(|&kind| self.list(kind)).collect()
    }

    /// The acts of the issuing thread for these lists, with inferred waits.
    pub fn acts(&self, lists: &[List]) -> Vec<Act> {
        let mut sync = Sync::new(&self.geometry);
        let mut acts = Vec::new();
        let outside = |sync: &mut Sync, accesses: Vec<Access>| {
            let ticks = sync.before(&accesses);
            sync.settle(&ticks);
            Act::Outside(ticks, accesses)
        };
        for (index, (list, &kind)) in lists.iter().zip(&self.kinds).enumerate() {
            if self.outside {
                let batches = (0..list.extent.micros).map(MicroIndex::from);
                let write = |micro| Access::write(Resource::HostBatch { micro }, Content::Batch(micro));
                acts.push(outside(&mut sync, batches.map(write).collect()));
            }
            let synced = sync.infer(list);
            acts.push(Act::Issue(list.clone(), synced));
            if self.outside {
                acts.push(outside(&mut sync, self.results(kind)));
                if index % 3 == 2 {
                    let read = |unit| Access::read(Resource::Master { unit }, Content::Weights(unit));
                    acts.push(outside(&mut sync, self.geometry.units().map(read).collect()));
                }
            }
        }
        acts
    }

    /// The accesses by which the issuing thread reads the result of a list.
    fn results(&self, kind: Kind) -> Vec<Access> {
        let loss = |micros| Content::Loss { terms: micros as u32 };
        match kind {
            Kind::Train(micros)
            | Kind::TrainRowsFirst(micros)
            | Kind::Evaluate(micros)
            | Kind::TrainWithLoss(micros) => vec![
                Access::read(Resource::HostLoss, loss(micros)),
                Access::read(Resource::ClipDecision, Content::ClipDecision),
            ],
            Kind::Logprobs(micros) => {
                let read = |micro| Access::read(Resource::HostLogprobs { micro }, Content::Logprobs(micro));
                (0..micros).map(MicroIndex::from).map(read).collect()
            }
            Kind::Logits => vec![Access::read(Resource::HostLogits, Content::Logits)],
            Kind::Save => {
                let units = self.geometry.units().count() as u32;
                vec![Access::read(Resource::Checkpoint, Content::Saved { units })]
            }
        }
    }

    /// The fault that the checker finds, if any.
    pub fn fault(&self, acts: &[Act]) -> Option<Fault> {
        let mut checker = Checker::new(&self.policy, &self.geometry);
        let result = acts.iter().try_for_each(|act| match act {
            Act::Issue(list, synced) => checker.check(list, synced),
            Act::Outside(ticks, accesses) => {
                checker.settle(ticks)?;
                checker.outside(accesses)
            }
        });
        result.err().map(|fault| *fault)
    }
}

/// The position of the `list`-th list (counted from 0) among the acts.
pub fn position_of(acts: &[Act], list: usize) -> usize {
    let mut issues = acts.iter().enumerate().filter(|(_, act)| matches!(act, Act::Issue(..)));
    issues.nth(list).expect("there are that many lists").0
}

/// The same waits and signals, changed by `change` for each operation.
pub fn rewrite(
    list: &List,
    synced: &Synced,
    mut change: impl FnMut(usize, &mut Vec<Tick>, &mut bool),
) -> Synced {
    let mut changed = Synced::default();
    for index in 0..list.operations.len() {
        let (mut waits, mut signal) = (synced.waits(index).to_vec(), synced.signal(index));
        change(index, &mut waits, &mut signal);
        changed.push(synced.tick(index), &waits, signal);
    }
    changed
}

/// Every wait of a list: the position of its operation, and its index among that operation's waits.
pub fn waits_of(synced: &Synced) -> Vec<(usize, usize)> {
    (0..synced.len())
        .flat_map(|index| (0..synced.waits(index).len()).map(move |wait| (index, wait)))
        .collect()
}

/// Number of tasks issued to each lane before the act at `position`.
pub fn issued_before(acts: &[Act], position: usize) -> [u64; Lane::COUNT] {
    let mut issued = [0; Lane::COUNT];
    for act in &acts[..position] {
        if let Act::Issue(list, _) = act {
            list.operations.iter().for_each(|operation| issued[operation.lane().at()] += 1);
        }
    }
    issued
}
