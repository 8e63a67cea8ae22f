//! `horizon info`.

use horizon::base::Result;
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
        let info = json!({ "version": env!("CARGO_PKG_VERSION"), "cores": cores, "shapes": shapes });
        return print(format!("{info:#}\n").as_bytes());
    }
    let mut text = format!("horizon {}\n", env!("CARGO_PKG_VERSION"));
    text += &format!("cores         {cores}\n");
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
