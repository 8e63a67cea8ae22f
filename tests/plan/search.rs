//! The search compared with an exhaustive search over all placements.

use std::thread;

use horizon::base::{DType, Dims, Message, Shape, Status};
use horizon::device::Lane;
use horizon::host::{Limit, Limits};
use horizon::model::{Layout, ModelConfig, Recompute};
use horizon::plan::{DeviceSource, Fixed, Machine, MemoryLimits, Plan, Question, RING};
use horizon::schedule::{
    Accumulator, AdamWhen, Boundary, GradWait, LayerPlacement, Mode, Numeric, Placement, Policy,
    train_rows_first,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A model, a machine and a step, random by seed.
#[derive(Clone)]
struct Case {
    config: ModelConfig,
    layout: Layout,
    machine: Machine,
    mode: Mode,
    clips: bool,
    numeric: Numeric,
    micros: usize,
    device_limit: Option<usize>,
    host_limit: usize,
}

fn host_limits(bytes: usize) -> Limits {
    Limits {
        bytes,
        limit: Limit::Stated,
        reported_bytes: bytes,
        reported_limit: Limit::Available,
        lockable_bytes: usize::MAX,
    }
}

impl Case {
    /// Rates vary by a factor of ten, so that any lane may be the bottleneck.
    fn draw(seed: u64, layers: usize, micros_max: usize) -> Case {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let c = 64 * random.random_range(1..4);
        let dims =
            Dims { c, h: c / 32, g: 1, d: 32, f: 2 * c, v: 32 << random.random_range(0..5), l: layers };
        let tied = random.random_bool(0.5);
        let config = ModelConfig { tied, positions_max: 512, ..ModelConfig::llama(dims) };
        let shape = Shape { b: 1, t: 32 << random.random_range(0..4) };
        let mut rate = |around: f64| around * 10f64.powf(random.random_range(-0.5..0.5));
        let machine = Machine {
            matrix_flop_per_s: [rate(1e13); 3],
            attention_flop_per_s: [rate(5e12); 2],
            device_bytes_per_s: rate(1e12),
            up_bytes_per_s: rate(5e10),
            down_bytes_per_s: rate(5e10),
            host_bytes_per_s: [rate(4e11); 3],
            ram_bytes_per_s: f64::MAX,
            disk_bytes_per_s: 1e9,
            launch_s: 1e-8,
            latency_s: [1e-7; Lane::COUNT],
            handoff_s: 1e-7,
            common: vec![],
        };
        let mode = [Mode::Exact, Mode::Streamed][random.random_range(0..2)];
        let numeric = Numeric { shape, logits_chunk: 32, grad_dtype: DType::Bf16 };
        let micros = random.random_range(1..=micros_max);
        let (layout, clips) = (Layout::new(&config), random.random_bool(0.5));
        let mut case = Case {
            config,
            layout,
            machine,
            mode,
            clips,
            numeric,
            micros,
            device_limit: None,
            host_limit: usize::MAX,
        };
        // Between the least possible memory and the most that can be used.
        let all = LayerPlacement {
            recompute: Recompute::None,
            boundary: Boundary::Kept,
            resident: true,
            accumulator: Accumulator::OnDevice,
        };
        let spilled = LayerPlacement { boundary: Boundary::Spilled, ..LayerPlacement::default() };
        let bytes = |layer, sweeps, grad_wait| {
            let layers = vec![layer; layers];
            let placement = Placement { sweeps, grad_wait, layers, ..Placement::default() };
            case.plan(placement).device.bytes()
        };
        // In mode streamed, clipped gradients have to wait on the device.
        let wait = if clips && mode == Mode::Streamed { GradWait::Device } else { GradWait::Host };
        let least = (1..=micros).map(|sweeps| bytes(spilled, sweeps, wait)).min().unwrap();
        let most = bytes(all, 1, wait);
        case.device_limit = Some(least + ((most - least) as f64 * random.random_range(0.0..1.1)) as usize);
        case
    }

    fn plan(&self, placement: Placement) -> Plan {
        let policy = Policy { mode: self.mode, numeric: self.numeric, placement };
        Plan::new(&self.config, &self.layout, policy, self.micros, DType::Bf16).unwrap()
    }

    fn step_ns(&self, plan: &Plan) -> Option<u64> {
        let predicted = plan.predict(&self.layout, &self.machine, self.micros);
        predicted.ok().map(|prediction| prediction.step_ns)
    }

    fn question<'a>(&'a self, fixed: &'a Fixed) -> Question<'a> {
        Question {
            config: &self.config,
            layout: &self.layout,
            activation_dtype: DType::Bf16,
            machine: &self.machine,
            mode: self.mode,
            numeric: self.numeric,
            clips: self.clips,
            micros: self.micros,
            limits: MemoryLimits {
                device: self.device_limit,
                device_source: DeviceSource::Stated,
                host: host_limits(self.host_limit),
                shared: false,
            },
            fixed,
        }
    }

    /// The work of the busiest lane, ns.
    fn busiest_ns(&self, plan: &Plan) -> u64 {
        let cost = plan.cost(&self.layout, self.micros);
        let mut busy = [0; Lane::COUNT];
        for operation in &train_rows_first(&plan.policy, &plan.geometry, self.micros).unwrap().operations {
            busy[operation.lane().at()] += cost.ns(&self.machine, operation);
        }
        busy.into_iter().max().unwrap()
    }

    /// All placements that fit the device, by the work of their busiest lane.
    fn fitting(&self, buffers_max: usize) -> Vec<Fitting> {
        let mut fitting = Vec::new();
        self.every_placement(buffers_max, |placement| {
            let plan = self.plan(placement);
            if self.device_limit.is_none_or(|limit| plan.device.bytes() <= limit) {
                let (busiest_ns, host) = (self.busiest_ns(&plan), plan.host.bytes());
                fitting.push(Fitting { busiest_ns, host, placement: plan.policy.placement });
            }
        });
        fitting.sort_by_key(|fitting| fitting.busiest_ns);
        fitting
    }

    /// The shortest step time of the placements that fit the host, too.
    fn exhaustive(&self, fitting: &[Fitting]) -> u64 {
        let mut best = u64::MAX;
        for Fitting { busiest_ns, placement, .. } in fitting.iter().filter(|it| it.host <= self.host_limit) {
            // In the steady state no step is shorter than the work of its busiest lane; from the second step
            // to the third it may be slightly shorter.
            if *busiest_ns as f64 * 0.97 > best as f64 {
                break;
            }
            best = best.min(self.step_ns(&self.plan(placement.clone())).unwrap());
        }
        best
    }

    fn every_placement(&self, buffers_max: usize, mut with: impl FnMut(Placement)) {
        let counts = || 2..=buffers_max;
        let (l, mut layers) = (self.config.dims.l, vec![vec![]]);
        for _ in 0..l {
            layers = layers
                .iter()
                .flat_map(|below| every_layer().map(|layer| [below, &[layer][..]].concat()))
                .collect();
        }
        for sweeps in 1..=self.micros {
            for grad_wait in [GradWait::Host, GradWait::Device] {
                let adam = AdamWhen::of(self.mode, grad_wait);
                if self.clips && adam == AdamWhen::UnderBackward {
                    continue;
                }
                for layers in &layers {
                    if sweeps == 1 && layers.iter().any(|layer| layer.accumulator == Accumulator::OnDevice) {
                        continue;
                    }
                    for (weight_slots, slabs) in
                        counts().flat_map(|slots| counts().map(move |slabs| (slots, slabs)))
                    {
                        with(Placement {
                            weight_slots,
                            slabs,
                            ring: RING,
                            adam,
                            grad_wait,
                            sweeps,
                            layers: layers.clone(),
                        });
                    }
                }
            }
        }
    }
}

/// A placement that fits the device.
struct Fitting {
    busiest_ns: u64,
    host: usize,
    placement: Placement,
}

fn every_layer() -> impl Iterator<Item = LayerPlacement> {
    (0..24).map(|number| LayerPlacement {
        recompute: [Recompute::Full, Recompute::Selective, Recompute::None][number % 3],
        boundary: [Boundary::Kept, Boundary::Spilled][number / 3 % 2],
        resident: number / 6 % 2 == 1,
        accumulator: [Accumulator::Spilled, Accumulator::OnDevice][number / 12],
    })
}

/// The relative excess of the search's step time over the best one. Two values per case: with
/// unlimited host memory, and with a limit halfway between the least possible amount and that of
/// the first result.
fn excesses(seeds: std::ops::Range<u64>, layers: usize, micros_max: usize, buffers_max: usize) -> Vec<f64> {
    let excess = |seed| {
        let (mut case, fixed) = (Case::draw(seed, layers, micros_max), Fixed::default());
        let fitting = case.fitting(buffers_max);
        let least_host = fitting.iter().map(|fitting| fitting.host).min().unwrap();
        let mut excesses = Vec::new();
        for short in [false, true] {
            let found = case.question(&fixed).search().unwrap();
            let (device, host) = (found.plan.device.bytes(), found.plan.host.bytes());
            assert_eq!(
                case.step_ns(&found.plan),
                Some(found.step_ns),
                "seed {seed}: the step time is the simulated one"
            );
            assert!(device <= case.device_limit.unwrap() && host <= case.host_limit, "seed {seed}: it fits");
            let best = case.exhaustive(&fitting);
            excesses.push(found.step_ns as f64 / best as f64 - 1.0);
            if found.step_ns > best {
                let limits = if short { "little host memory" } else { "unlimited host memory" };
                let simulated = found.simulated;
                println!(
                    "seed {seed}, {limits}: {} ns, the best {best} ns, {simulated} simulated",
                    found.step_ns
                );
            }
            case.host_limit = least_host.midpoint(host);
        }
        excesses
    };
    let (even, odd): (Vec<u64>, Vec<u64>) = seeds.partition(|seed| seed % 2 == 0);
    thread::scope(|scope| {
        let half = scope.spawn(|| even.into_iter().flat_map(excess).collect::<Vec<_>>());
        let other: Vec<_> = odd.into_iter().flat_map(excess).collect();
        [half.join().unwrap(), other].concat()
    })
}

#[test]
fn small_cases_are_solved() {
    let [one_layer, two_layers] = match std::env::var_os("HZ_LONG") {
        Some(_) => [0..24, 100..124],
        None => [0..8, 100..102],
    };
    for (layers, seeds) in [(1, one_layer), (2, two_layers)] {
        let excesses = excesses(seeds, layers, 2, 4);
        assert!(excesses.iter().all(|excess| *excess <= 0.0), "{layers} layers: {excesses:?}");
    }
}

#[test]
fn larger_cases_are_solved_to_five_percent() {
    // Two micro-batches allow two sweeps, which makes ten times as many placements.
    let draws = match std::env::var_os("HZ_LONG") {
        Some(_) => vec![(1000..2000, 1), (2000..2040, 2)],
        None => vec![(1000..1002, 1)],
    };
    let excesses: Vec<f64> =
        draws.into_iter().flat_map(|(seeds, micros_max)| excesses(seeds, 3, micros_max, 3)).collect();
    let solved = excesses.iter().filter(|excess| **excess <= 0.0).count();
    println!(
        "{solved} of {} solved exactly, the worst {:.2} % slower",
        excesses.len(),
        100.0 * excesses.iter().copied().fold(0.0, f64::max)
    );
    assert!(excesses.iter().all(|excess| *excess <= 0.05), "{excesses:?}");
}

/// The bytes needed according to a refusal.
fn needed(message: &str) -> usize {
    let (_, rest) = message.split_once('(').unwrap();
    rest.split_once(" bytes").unwrap().0.parse().unwrap()
}

#[test]
fn refusals_are_exact_to_the_byte_and_name_the_binding_limit() {
    let fixed = Fixed::default();
    for seed in 0..40 {
        let mut case = Case::draw(seed, 4, 3);
        case.device_limit = Some(1);
        let error = case.question(&fixed).search().unwrap_err();
        assert_eq!(error.status(), Status::OutOfDeviceMemory, "seed {seed}: {error}");
        let device = needed(error.message());
        case.device_limit = Some(device - 1);
        let error = case.question(&fixed).search().unwrap_err();
        assert!(
            error.message().contains(&format!("{} bytes, 1 byte short", device - 1)),
            "seed {seed}: {error}"
        );
        case.device_limit = Some(device);
        let plan = case.question(&fixed).search().unwrap().plan;
        assert_eq!(plan.device.bytes(), device, "seed {seed}");

        // The same device limit, and a limit of host memory that is one byte short.
        case.host_limit = 1;
        let error = case.question(&fixed).search().unwrap_err();
        assert_eq!(error.status(), Status::OutOfHostMemory, "seed {seed}: {error}");
        let host = needed(error.message());
        for limit in [Limit::Available, Limit::Cgroup, Limit::Stated] {
            let mut question = case.question(&fixed);
            question.limits.host = Limits { bytes: host - 1, limit, ..host_limits(host - 1) };
            let error = question.search().unwrap_err();
            let limit = Message::from(limit.to_string());
            assert!(error.message().contains(limit.as_str()), "seed {seed}: {error}");
            assert!(error.message().contains(" 1 byte short"), "seed {seed}: {error}");
        }
        case.host_limit = host;
        assert_eq!(case.question(&fixed).search().unwrap().plan.host.bytes(), host, "seed {seed}");

        // If device memory is RAM, the sum of both counts.
        case.device_limit = None;
        let mut question = case.question(&fixed);
        (question.limits.shared, question.limits.host) = (true, host_limits(1));
        let both = needed(question.search().unwrap_err().message());
        question.limits.host = host_limits(both);
        let plan = question.search().unwrap().plan;
        assert_eq!(plan.device.bytes() + plan.host.bytes(), both, "seed {seed}");
    }
}

#[test]
fn the_change_proposed_by_a_refusal_fits() {
    let mut case = Case::draw(3, 4, 2);
    case.numeric.shape.b = 4;
    case.device_limit = Some(1);
    let fixed = Fixed::default();
    let whole = needed(case.question(&fixed).search().unwrap_err().message());
    case.device_limit = Some(whole - 1);
    let error = case.question(&fixed).search().unwrap_err();
    let (smaller, micros) = (2, case.micros * 2);
    let advice = format!("{micros} micro-batches of {smaller} × {} tokens", case.numeric.shape.t);
    assert!(error.message().contains(&advice), "{error}");
    (case.numeric.shape.b, case.micros) = (smaller, micros);
    case.question(&fixed).search().unwrap();
    // A fixed option that takes too much is named.
    let fixed = Fixed { recompute: Some(vec![Recompute::None; case.config.dims.l]), ..Fixed::default() };
    let error = case.question(&fixed).search().unwrap_err();
    assert!(error.message().contains("; layers[].recompute chosen by the search, or "), "{error}");
}

#[test]
fn a_refusal_proposes_the_first_combination_of_changes_that_fits() {
    let (mut case, fixed) = (Case::draw(3, 4, 1), Fixed::default());
    let refused = |case: &Case| case.question(&fixed).search().unwrap_err().to_string();
    (case.mode, case.clips, case.micros) = (Mode::Exact, true, 1);
    case.numeric.shape = Shape { b: 1, t: 256 };
    // The limits are the needs of half the sequence in mode compact, the smallest mode that clips.
    let mut half = Case { mode: Mode::Compact, device_limit: Some(1), ..case.clone() };
    half.numeric.shape.t = 128;
    half.device_limit = Some(needed(&refused(&half)));
    half.host_limit = 1;
    half.host_limit = needed(&refused(&half));
    (case.device_limit, case.host_limit) = (half.device_limit, half.host_limit);
    let error = refused(&case);
    assert!(
        error.ends_with("; mode = Mode::Compact with 1 micro-batch of 1 × 128 tokens would fit"),
        "{error}"
    );
    half.question(&fixed).search().unwrap();
    // Limits that no change can meet.
    case.host_limit = 1000;
    let error = refused(&case);
    assert!(
        error.contains("; even the smallest step that is tried, 1 × 128 tokens with mode = Mode::Compact and clip = 0, needs "),
        "{error}"
    );
    assert!(error.ends_with(" of host memory"), "{error}");
}

/// Gradients that mode streamed keeps on the host by default do not wait there in the modes that a
/// refusal proposes.
#[test]
fn a_refusal_of_mode_streamed_proposes_other_modes_with_every_place_for_gradients() {
    let (mut case, fixed) = (Case::draw(3, 4, 1), Fixed { streamed_on_host: true, ..Fixed::default() });
    (case.clips, case.micros, case.device_limit) = (false, 1, None);
    case.numeric.shape = Shape { b: 1, t: 128 };
    let base = case.clone();
    let least = |mode: Mode, fixed: &Fixed| {
        let case = Case { mode, host_limit: 1, ..base.clone() };
        let error = case.question(fixed).search().unwrap_err();
        needed(error.message())
    };
    let on_host = Fixed { grad_wait: Some(GradWait::Host), ..Fixed::default() };
    let compact = least(Mode::Compact, &fixed);
    assert!(compact < least(Mode::Compact, &on_host) && compact < least(Mode::Streamed, &fixed));
    assert_eq!(least(Mode::Streamed, &fixed), least(Mode::Streamed, &on_host));

    (case.mode, case.host_limit) = (Mode::Streamed, compact);
    let error = case.question(&fixed).search().unwrap_err();
    assert!(error.message().ends_with("; mode = Mode::Compact would fit"), "{error}");
    let proposed = Case { mode: Mode::Compact, ..case.clone() };
    proposed.question(&fixed).search().unwrap();
    // With a place fixed by the user, the least need is that of this place.
    let error = case.question(&on_host).search().unwrap_err();
    assert!(
        error.message().contains(" tokens with mode = Mode::Compact and these options, needs "),
        "{error}"
    );
}

#[test]
fn more_memory_is_never_slower_and_more_layers_need_no_more_device_memory() {
    let (mut case, fixed) = (Case::draw(7, 5, 2), Fixed::default());
    let mut last = u64::MAX;
    case.device_limit = Some(1);
    let least = needed(case.question(&fixed).search().unwrap_err().message());
    for more in [0, 1 << 18, 1 << 20, 1 << 22, 1 << 26] {
        case.device_limit = Some(least + more);
        let found = case.question(&fixed).search().unwrap();
        assert!(
            found.step_ns <= last,
            "{} ns with {more} bytes more, {last} ns with less memory",
            found.step_ns
        );
        last = found.step_ns;
    }
    let least_of = |layers: usize| {
        let mut case = Case::draw(7, 5, 2);
        case.config.dims.l = layers;
        case.layout = Layout::new(&case.config);
        case.device_limit = Some(1);
        needed(case.question(&fixed).search().unwrap_err().message())
    };
    let [shallow, deep] = [5, 50].map(least_of);
    // Exception: in mode streamed with clipping, gradients wait on the device, in one slab per layer.
    let waits = case.clips && case.mode == Mode::Streamed;
    assert!(waits || deep == shallow, "{shallow} bytes for 5 layers, {deep} for 50");
}
