//! Copies between host and device: each direction and both at once, by kind of host memory and size
//! of a copy; and the time to allocate each kind.
//!
//! ```text
//! cargo bench --bench transfer -- [--device N] [--bytes BYTES]
//! ```
//!
//! Kinds: `registered` (huge pages of the device's NUMA node, touched by all threads, then
//! registered), `allocated` (`cudaHostAlloc` under the memory policy of that node) and `pageable`,
//! which the engine does not use and is here for comparison. A figure is the best of several runs;
//! its percentage is of the best figure of the same direction in this run, which approximates the
//! bandwidth of the link. Prints one line of JSON per figure. Without a device it prints why and
//! succeeds, unless `HZ_REQUIRE_GPU` is 1.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::ptr::NonNull;
use std::time::Instant;

use horizon::base::Result;
use horizon::device::Device;
use horizon::device::cuda::{CudaDevice, CudaOptions};
use horizon::host::{Arena, HostSpan, MemoryKind, Pinning, Pool};
use horizon::sys::cuda::{DeviceMemory, Direction, Event, Stream, copy, need_device};
use support::bench::{number, on_gpu, rounded};

const KINDS: [&str; 3] = ["registered", "allocated", "pageable"];
const RUNS: usize = 3;

/// Host memory of one of the [`KINDS`].
struct Host {
    _arena: Arena,
    span: HostSpan,
}

/// Allocates memory and prints the time it took.
fn take(ordinal: usize, kind: &str, bytes: usize, pool: &Pool) -> Result<Host> {
    let pinning = if kind == "allocated" { Pinning::Allocated } else { Pinning::Registered };
    let device = CudaDevice::open(ordinal, CudaOptions { pinning, ..CudaOptions::default() })?;
    let memory = if kind == "pageable" { MemoryKind::Plain } else { device.wire_memory(bytes) };
    let start = Instant::now();
    let arena = Arena::take(bytes, memory)?;
    arena.touch(pool)?;
    let seconds = start.elapsed().as_secs_f64();
    let line = serde_json::json!({
        "bench": "transfer", "what": "take", "kind": kind, "bytes": bytes,
        "pages": arena.pages().to_string(), "node": arena.node_at(0).ok(), "device_node": device.node(),
        "seconds_per_gib": rounded(seconds / (bytes as f64 / (1u64 << 30) as f64), 3),
    });
    println!("{line}");
    let span = arena.whole();
    Ok(Host { _arena: arena, span })
}

struct Lane {
    stream: Stream,
    device: DeviceMemory,
    direction: Direction,
}

/// Seconds to copy all of the host memory, in copies of `chunk` bytes, on all lanes at once.
fn seconds(lanes: &[&Lane], host: &[HostSpan], chunk: usize) -> Result<f64> {
    let (start, bytes) = (Instant::now(), host[0].bytes());
    for from in (0..bytes / chunk).map(|at| at * chunk) {
        for (lane, host) in lanes.iter().zip(host) {
            let host = NonNull::new(host.subspan(from, chunk).address()).expect("an address");
            // SAFETY: device and host memory have the same length, and `subspan` checked the range.
            let device = unsafe { lane.device.base().add(from) };
            let (to, from) = match lane.direction {
                Direction::HostToDevice => (device, host),
                _ => (host, device),
            };
            // SAFETY: both sides have `chunk` bytes and outlive the copies, which are waited for below.
            unsafe { copy(to, from, chunk, lane.direction, &lane.stream)? };
        }
    }
    for lane in lanes {
        let end = Event::new(false)?;
        end.record(&lane.stream)?;
        end.synchronize()?;
    }
    Ok(start.elapsed().as_secs_f64())
}

fn run() -> Result<()> {
    let (ordinal, bytes) = (number("--device").unwrap_or(0), number("--bytes").unwrap_or(1 << 30));
    need_device(ordinal)?;
    let pool = Pool::new(std::thread::available_parallelism().map_or(1, |n| n.get()))?;
    let mut figures: BTreeMap<(&str, &str, usize), f64> = BTreeMap::new();
    for kind in KINDS {
        let (up, down) = (take(ordinal, kind, bytes, &pool)?, take(ordinal, kind, bytes, &pool)?);
        let lane = |direction| -> Result<Lane> {
            Ok(Lane { stream: Stream::new()?, device: DeviceMemory::take(bytes)?, direction })
        };
        let (h2d, d2h) = (lane(Direction::HostToDevice)?, lane(Direction::DeviceToHost)?);
        for chunk in [64 << 10, 1 << 20, 16 << 20, 256 << 20].into_iter().filter(|chunk| *chunk <= bytes) {
            for (direction, lanes, spans) in [
                ("h2d", vec![&h2d], vec![up.span]),
                ("d2h", vec![&d2h], vec![down.span]),
                ("both", vec![&h2d, &d2h], vec![up.span, down.span]),
            ] {
                let mut best = f64::INFINITY;
                for _ in 0..RUNS {
                    best = best.min(seconds(&lanes, &spans, chunk)?);
                }
                figures.insert((direction, kind, chunk), (lanes.len() * bytes) as f64 / best);
            }
        }
    }
    for direction in ["h2d", "d2h", "both"] {
        let own = || figures.iter().filter(|((own, ..), _)| *own == direction);
        let limit = own().fold(0.0f64, |max, (_, bandwidth)| max.max(*bandwidth));
        for ((_, kind, chunk), bandwidth) in own() {
            let line = serde_json::json!({
                "bench": "transfer", "what": direction, "kind": kind, "chunk": chunk,
                "gb_per_second": rounded(bandwidth / 1e9, 1), "percent": (100.0 * bandwidth / limit).round(),
            });
            println!("{line}");
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    on_gpu(run)
}
