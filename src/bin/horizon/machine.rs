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
    let mut machine =
        Description::open(named.unwrap_or(if shared { CPU } else { most_like(info.as_ref()) }))?;
    machine.storage = if shared { Storage::F32 } else { Storage::Bf16 };
    machine.shared = shared;
    let free = info.map(|info| info.memory_free);
    Ok((machine, Room::here(device_mem.or(free), host_mem, shared)))
}

/// The described machine whose device is most like this one.
fn most_like(info: Option<&DeviceInfo>) -> &'static str {
    let name = info.map_or("", |info| info.name.as_str());
    let known = [
        ("GH200", "gh200"),
        ("H200", "h200"),
        ("A100", "a100-pcie"),
        ("4090", "rtx4090"),
        ("3090", "rtx3090"),
    ];
    known.iter().find(|(part, _)| name.contains(part)).map_or("h100-pcie", |(_, machine)| machine)
}
