//! `hz_device_info_t`: the devices of this machine, and that of a trainer.

use crate::base::Error;
use crate::capi::argument::OutPointer;
use crate::capi::config::{DEVICES, Device, device_choice};
use crate::capi::guard::guard;
use crate::capi::handle::Handle;
use crate::capi::sized::{Out, SizedStruct, sized_struct};
use crate::capi::status::hz_status_t;
use crate::capi::trainer::hz_trainer_t;
use crate::capi::values::Values;
use crate::device::DeviceInfo;
use crate::engine::{DeviceChoice, cuda_device_count, device_info};

sized_struct! {
    hz_device_info_t, hz_device_info_init {
        kind: u32 = Device::Auto as u32 => Values::of(&DEVICES),
        index: u32 = 0,
        reserved: u32 = 0 => Values::RESERVED,
        memory: u64 = 0 => Values::ANY.unit("bytes"),
        memory_free: u64 = 0 => Values::ANY.unit("bytes"),
        name: [u8; NAME_MAX] = [0; NAME_MAX],
    }
}

/// Length of `name`, with its NUL.
const NAME_MAX: usize = 128;

impl From<&DeviceInfo> for hz_device_info_t {
    fn from(device: &DeviceInfo) -> Self {
        let kind = if device.ordinal.is_some() { Device::Cuda } else { Device::Cpu };
        let text = device.hardware.as_ref().unwrap_or(&device.name);
        let end = (0..NAME_MAX).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        let text = &text[..end];
        let mut name = [0; NAME_MAX];
        name[..text.len()].copy_from_slice(text.as_bytes());
        hz_device_info_t {
            kind: kind as u32,
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

#[unsafe(no_mangle)]
pub extern "C" fn hz_trainer_device(
    trainer: Handle<hz_trainer_t>,
    out_info: Out<hz_device_info_t>,
) -> hz_status_t {
    guard(|| {
        let trainer = trainer.get("trainer")?;
        out_info.check("out_info")?.write((&trainer.device).into());
        Ok(())
    })
}
