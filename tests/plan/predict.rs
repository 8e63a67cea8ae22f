//! Predictions of a plan before a step runs: work, time, memory.

use horizon::base::{ChunkIndex, DType, Dims, MicroIndex, Shape, SlotIndex, UnitIndex};
use horizon::device::Lane;
use horizon::engine::{Trainer, TrainerOptions};
use horizon::model::{Layout, ModelConfig};
use horizon::plan::{Machine, Plan};
use horizon::schedule::{
    Accumulator, AccumulatorBuffer, Boundary, BoundaryBuffer, GradientBuffer, Guard, LayerPlacement,
    Operation, Recompute, WeightBuffer,
};

/// A machine with a slow link: 100 TFLOP/s, 10 GB/s each way.
fn machine() -> Machine {
    Machine {
        matrix_flop_per_s: [1e14; 3],
        attention_flop_per_s: [5e13; 2],
        device_bytes_per_s: 1e12,
        up_bytes_per_s: 1e10,
        down_bytes_per_s: 1e10,
        host_bytes_per_s: [1e11; 3],
        ram_bytes_per_s: 1e12,
        disk_bytes_per_s: 1e9,
        launch_s: 1e-7,
        latency_s: [1e-6; Lane::COUNT],
        handoff_s: 1e-6,
        common: vec![],
    }
}

fn config(tied: bool, l: usize) -> ModelConfig {
    let dims = Dims { c: 256, h: 4, g: 2, d: 64, f: 688, v: 1000, l };
    ModelConfig { tied, positions_max: 512, ..ModelConfig::llama(dims) }
}

fn options() -> TrainerOptions {
    TrainerOptions { shape: Shape { b: 2, t: 128 }, micros_max: 3, ..TrainerOptions::default() }
}

fn plan(config: &ModelConfig) -> Plan {
    let options = options();
    let layout = Layout::new(config);
    let policy = Trainer::plan_for(config, &options).unwrap().policy;
    Plan::new(config, &layout, policy, options.micros_max, DType::Bf16).unwrap()
}

#[test]
fn work_follows_the_known_formulas() {
    let config = config(false, 3);
    let (layout, plan) = (Layout::new(&config), plan(&config));
    let cost = plan.cost(&layout, plan.micros_max);
    let (unit, slot, micro, chunk) = (UnitIndex(1), SlotIndex(0), MicroIndex(0), ChunkIndex(0));
    let own = BoundaryBuffer::Own;
    let n = 256.0;
    let matrices = (256 * (256 + 2 * 128) + 256 * 256 + 3 * 256 * 688) as f64;
    let down_projection = (256 * 688) as f64;

    let forward =
        cost.work(&Operation::Forward { unit, slot, micro, recompute: Recompute::Full, from: own, to: own });
    assert_eq!(forward.matmuls(), 2.0 * n * matrices);
    // Two matmuls over the pairs of a row and itself or an earlier one, of two sequences, in blocks of
    // 64 × 64: the first 64 rows of each sequence use one block of keys, the others two.
    let pairs = (2 * (64 * 64 + 64 * 128)) as f64;
    assert_eq!(forward.attention_flop, [2.0 * 2.0 * pairs * 256.0, 0.0]);
    // Reads the weights, and for 256 rows: two norms with weights of their own, RoPE in place, SwiGLU.
    let columns = (4 * 256 + 2 * (4 + 2) * 64 + 3 * 688) as f64;
    let norms = 2.0 * (4.0 * n + 2.0 * 256.0);
    assert_eq!(forward.device_bytes, 2.0 * matrices + 2.0 * n * columns + norms);
    assert_eq!(forward.launches, 9.0, "norm, qkv, rope, attention, o, norm, gate and up, SwiGLU, down");
    let backward = |recompute| {
        cost.work(&Operation::RecomputeBackward {
            unit,
            slot,
            micro,
            recompute,
            from: own,
            accumulator: AccumulatorBuffer::Shared,
        })
    };
    assert_eq!(backward(Recompute::Full).matmuls(), 6.0 * n * matrices - 2.0 * n * down_projection);
    let o_projection = (256 * 256) as f64;
    let qkv_projection = (256 * (256 + 2 * 128)) as f64;
    assert_eq!(backward(Recompute::Linears).matmuls(), backward(Recompute::Full).matmuls());
    assert_eq!(backward(Recompute::Linears).attention_flop, [0.0, 10.0 * pairs * 256.0]);
    let mlp = backward(Recompute::Full).matmuls() - 2.0 * n * (o_projection + qkv_projection);
    assert_eq!(backward(Recompute::Mlp).matmuls(), mlp);
    for recompute in [Recompute::Selective, Recompute::None] {
        assert_eq!(backward(recompute).matmuls(), 4.0 * n * matrices, "no matmul is repeated");
        assert_eq!(backward(recompute).attention_flop, [0.0, 10.0 * pairs * 256.0]);
    }
    assert!(backward(Recompute::Selective).device_bytes > backward(Recompute::None).device_bytes);
    let head = cost.work(&Operation::HeadForwardBackward { micro });
    assert_eq!(head.matmuls(), 6.0 * n * 256.0 * 1000.0);

    let elements = layout.unit(unit).elements as f64;
    let upload = Operation::Upload { unit, place: WeightBuffer::Slot(slot) };
    assert_eq!(cost.work(&upload).up_bytes, 2.0 * elements);
    assert_eq!(cost.wire_bytes(&upload), Some(2 * elements as u64));
    let adam = Operation::Adam { unit, chunk, from: GradientBuffer::Store, guard: Guard::ClipDecision };
    assert_eq!(
        cost.work(&adam).host_bytes,
        [26.0 * elements, 0.0, 0.0],
        "26 bytes per parameter with bf16 gradients"
    );
    assert_eq!(cost.wire_bytes(&adam), None);
    assert_eq!(cost.ns(&machine(), &adam), (1e9 * (1e-6 + 26.0 * elements / 1e11)).round() as u64);
}

#[test]
fn predicted_memory_is_that_of_the_plan() {
    let (kept, spilled) = (
        LayerPlacement { recompute: Recompute::Selective, ..LayerPlacement::default() },
        LayerPlacement {
            boundary: Boundary::Spilled,
            recompute: Recompute::None,
            ..LayerPlacement::default()
        },
    );
    let on_device = LayerPlacement { resident: true, accumulator: Accumulator::OnDevice, ..kept };
    for (tied, layers, sweeps, placement) in [
        (false, 1, 1, vec![]),
        (false, 7, 1, vec![]),
        (true, 7, 1, vec![kept; 7]),
        (true, 7, 1, vec![spilled; 7]),
        (false, 7, 2, vec![kept, spilled, kept, spilled, spilled]),
        (false, 7, 3, vec![spilled]),
        (true, 7, 2, vec![spilled, on_device, kept, on_device]),
    ] {
        let config = config(tied, layers);
        let options = TrainerOptions { layers: placement, sweeps, ..options() };
        let (layout, plan) = (Layout::new(&config), Trainer::plan_for(&config, &options).unwrap());
        let prediction = plan.predict(&layout, &machine(), 3).unwrap();
        for region in plan.device.regions().iter().filter(|region| region.bytes > 0) {
            let peak = prediction.memory.iter().find(|peak| peak.category == region.name);
            match region.name {
                // Used by other lists.
                "logits row" | "log-probabilities" => assert!(peak.is_none()),
                // Written before the first list.
                "constants" => assert!(peak.is_none()),
                name => assert_eq!(peak.unwrap().touched_bytes, region.bytes, "{name}"),
            }
            if let Some(peak) = peak {
                assert!(0 < peak.live_bytes_max && peak.live_bytes_max <= peak.touched_bytes);
                let all_at_once = ["boundaries", "saved activations", "layer gradient (f32)", "scratch"];
                if all_at_once.contains(&region.name) {
                    assert_eq!(peak.live_bytes_max, peak.touched_bytes, "{}", region.name);
                }
            }
        }
    }
}

#[test]
fn the_step_time_follows_from_the_busiest_lane_and_its_waits() {
    let config = config(false, 7);
    let (layout, plan) = (Layout::new(&config), plan(&config));
    let predict = |machine: &Machine| plan.predict(&layout, machine, 3).unwrap();
    let base = predict(&machine());
    let cost = plan.cost(&layout, plan.micros_max);
    for lane in Lane::ALL {
        let busy = base.lanes[lane.at()].busy_ns;
        assert_eq!(busy + base.lanes[lane.at()].idle_ns, base.step_ns, "{lane}");
        let of_lane = base.list.operations.iter().filter(|operation| operation.lane() == lane);
        let whole: u64 = of_lane.map(|operation| cost.ns(&machine(), operation)).sum();
        // In the steady state a lane does the work of one step per step time.
        assert!(busy.abs_diff(whole) * 100 <= whole, "{lane}: {busy} of {whole}");
    }
    let on_path: u64 = base.critical.iter().map(|&at| base.spans[at].end_ns - base.spans[at].start_ns).sum();
    assert!(on_path > 0 && on_path <= base.step_ns);

    // The link limits this step: doubling its bandwidth helps, doubling the matmul throughput hardly
    // does.
    let link = Machine { up_bytes_per_s: 2e10, down_bytes_per_s: 2e10, ..machine() };
    let matrix = Machine { matrix_flop_per_s: [2e14; 3], ..machine() };
    let (link, matrix) = (predict(&link).step_ns, predict(&matrix).step_ns);
    assert!(link < matrix && matrix <= base.step_ns, "{link} {matrix} {}", base.step_ns);
}

#[test]
fn copies_share_ram_bandwidth_with_adamw() {
    let config = config(false, 4);
    let (layout, plan) = (Layout::new(&config), plan(&config));
    let step = |ram_bytes_per_s: f64| {
        let machine = Machine { host_bytes_per_s: [1e10; 3], ram_bytes_per_s, ..machine() };
        plan.predict(&layout, &machine, 3).unwrap()
    };
    // With enough RAM bandwidth for both, more of it changes nothing.
    let (enough, ample) = (step(2e10), step(1e15));
    assert_eq!(enough.step_ns, ample.step_ns);
    // With enough for one of them, uploads and AdamW slow each other down while they overlap.
    let shared = step(1e10);
    assert!(shared.step_ns > enough.step_ns, "{} {}", shared.step_ns, enough.step_ns);
    let busy = |lane: Lane| shared.lanes[lane.at()].busy_ns > enough.lanes[lane.at()].busy_ns;
    assert!(busy(Lane::H2d) && busy(Lane::Host));
}
