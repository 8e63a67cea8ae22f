//! The machine that a plan is for, where it is this one.

use horizon::base::Result;
use horizon::device::DeviceInfo;
use horizon::engine::{DeviceChoice, devices};
use horizon::plan::{Description, Room, Storage};

/// The described machine whose device is a CPU.
const CPU: &str = "cpu";

/// This machine with a [resolved](DeviceChoice::resolve) device: the figures of the machine that was named, or of the
/// described one that is most like this; the memory that there is here, unless so many bytes are stated.
pub fn here(
    device: DeviceChoice,
    named: Option<&str>,
    device_mem: Option<usize>,
    host_mem: Option<usize>,
) -> Result<(Description, Room)> {
    let shared = device == DeviceChoice::Cpu;
    let info = match device {
        DeviceChoice::Cuda(ordinal) => devices().into_iter().nth(1 + ordinal),
        DeviceChoice::Auto | DeviceChoice::Cpu => None,
    };
    let mut machine = match (named, shared) {
        (Some(named), _) => Description::open(named)?,
        (None, true) => Description::open(CPU)?,
        (None, false) => most_like(info.as_ref())?,
    };
    machine.storage = if shared { Storage::F32 } else { Storage::Bf16 };
    machine.shared = shared;
    let free = info.map(|info| info.memory_free);
    let room = Room::here(device_mem.or(free), host_mem, shared);
    if let Some(warning) = room.host.warning() {
        eprintln!("warning: {warning}");
    }
    Ok((machine, room))
}

/// The described machine whose device is most like this one.
fn most_like(info: Option<&DeviceInfo>) -> Result<Description> {
    let hardware = info.and_then(|info| info.hardware.as_deref());
    hardware.and_then(Description::shipped_with).map_or_else(|| Description::open("h100-pcie"), Ok)
}
