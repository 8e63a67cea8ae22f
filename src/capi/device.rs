//! `hz_device_t`, `hz_device_info_t`: the devices of this machine.

use crate::base::{Error, Result};
use crate::capi::argument::OutPointer;
use crate::capi::enums::Enum;
use crate::capi::guard::guard;
use crate::capi::sized::{Out, SizedStruct, sized_struct};
use crate::capi::status::hz_status_t;
use crate::capi::values::Values;
use crate::device::DeviceInfo;
use crate::engine::{DeviceChoice, cuda_device_count, device_info};

sized_struct! {
    hz_device_info_t, hz_device_info_init {
        kind: u32 = DEVICES.number(DeviceChoice::Auto) => Values::of(&DEVICES),
        index: u32 = 0,
        reserved: u32 = 0 => Values::RESERVED,
        memory: u64 = 0 => Values::ANY.unit("bytes"),
        memory_free: u64 = 0 => Values::ANY.unit("bytes"),
        name: [u8; NAME_MAX] = [0; NAME_MAX],
    }
}

/// `HZ_DEVICE_*`.
pub static DEVICES: Enum<DeviceChoice> = Enum {
    name: "hz_device_t",
    constants: &[
        (c"HZ_DEVICE_AUTO", 0, DeviceChoice::Auto),
        (c"HZ_DEVICE_CPU", 1, DeviceChoice::Cpu),
        (c"HZ_DEVICE_CUDA", 2, CUDA),
    ],
};

/// `HZ_DEVICE_CUDA`, of any index.
const CUDA: DeviceChoice = DeviceChoice::Cuda(0);

/// The device for an `HZ_DEVICE_*`. `index` is the number of a CUDA device.
pub fn device_choice(kind: u32, index: u32, what: &str) -> Result<DeviceChoice> {
    Ok(match DEVICES.value(kind, what)? {
        DeviceChoice::Cuda(_) => DeviceChoice::Cuda(index as usize),
        other => other,
    })
}

/// Length of `name`, with its NUL.
const NAME_MAX: usize = 128;

impl From<&DeviceInfo> for hz_device_info_t {
    fn from(device: &DeviceInfo) -> Self {
        let kind = if device.ordinal.is_some() { CUDA } else { DeviceChoice::Cpu };
        let text = device.hardware.as_ref().unwrap_or(&device.name);
        let end = (0..NAME_MAX).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        let text = &text[..end];
        let mut name = [0; NAME_MAX];
        name[..text.len()].copy_from_slice(text.as_bytes());
        hz_device_info_t {
            kind: DEVICES.number(kind),
            index: device.ordinal.unwrap_or(0) as u32,
            memory: device.memory as u64,
            memory_free: device.memory_free as u64,
            name,
            ..hz_device_info_t::defaults()
        }
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_device_count(kind: u32, out_count: OutPointer<u32>) -> hz_status_t {
    guard(|| {
        out_count.check("out_count")?;
        let count = match device_choice(kind, 0, "kind")? {
            DeviceChoice::Cuda(_) => cuda_device_count()?,
            DeviceChoice::Auto | DeviceChoice::Cpu => 1,
        };
        out_count.write(count as u32);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_device_info(kind: u32, index: u32, out_info: Out<hz_device_info_t>) -> hz_status_t {
    guard(|| {
        let out = out_info.check("out_info")?;
        let choice = device_choice(kind, index, "kind")?;
        if choice == DeviceChoice::Cpu && index != 0 {
            return Err(Error::argument(format!("index is {index}; the only CPU device is 0")));
        }
        out.write((&device_info(choice)?).into());
        Ok(())
    })
}
