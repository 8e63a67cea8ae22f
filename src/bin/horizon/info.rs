//! `horizon info`.

use horizon::base::Result;
use horizon::device::Device;
use horizon::device::cpu::CpuDevice;
use horizon::host::{Isa, Limits, Size};
use horizon::model::{Layout, preset, preset_names};
use serde_json::json;

use crate::options::InfoOptions;
use crate::print;
use crate::progress::count;

/// Says what is here.
pub fn info(options: &InfoOptions) -> Result<()> {
    let shapes: Vec<_> = preset_names()
        .iter()
        .filter_map(|name| preset(name).map(|config| (name, Layout::new(&config).parameters(), config)))
        .collect();
    let limits = Limits::read(None);
    let devices = [CpuDevice::new(None).info()];
    let isa = Isa::chosen()?;
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    if options.json {
        let shapes: Vec<_> = shapes
            .iter()
            .map(|(name, parameters, config)| {
                let dims = &config.dims;
                json!({
                    "name": name, "parameters": parameters, "hidden_size": dims.c, "num_hidden_layers": dims.l,
                    "num_attention_heads": dims.h, "num_key_value_heads": dims.g, "intermediate_size": dims.f,
                    "vocab_size": dims.v, "max_position_embeddings": config.positions_max,
                })
            })
            .collect();
        let devices: Vec<_> = devices
            .iter()
            .map(|device| json!({ "name": device.name, "memory_free_bytes": device.memory_free }))
            .collect();
        let info = json!({
            "version": env!("CARGO_PKG_VERSION"), "cores": cores, "isa": isa.name(),
            "host_memory_bytes": limits.bytes, "host_memory_limit": limits.limit.to_string(),
            "devices": devices, "shapes": shapes,
        });
        return print(format!("{info:#}\n").as_bytes());
    }
    let mut text = format!("horizon {}\n", env!("CARGO_PKG_VERSION"));
    text += &format!("cores         {cores}, instructions {}\n", isa.name());
    text += &format!("host memory   {} ({})\n", Size(limits.bytes), limits.limit);
    for device in devices {
        text += &format!("device        {}, {} free\n", device.name, Size(device.memory_free));
    }
    for (name, parameters, config) in shapes {
        let dims = &config.dims;
        text += &format!(
            "shape {name:<7} {} parameters: {} layers of width {}, {} heads ({} for keys and values), feed-forward {}, bytes\n",
            count(parameters as f64),
            dims.l,
            dims.c,
            dims.h,
            dims.g,
            dims.f
        );
    }
    print(text.as_bytes())
}
