//! `horizon info`.

use horizon::base::Result;
use horizon::base::format::{Size, bandwidth, count, escaped, several};
use horizon::checkpoint::{Checkpoint, open};
use horizon::engine::calibrate::measure_ram;
use horizon::engine::{CudaReport, devices};
use horizon::host::{HugePages, Isa, Limits, Topology, processor_name};
use horizon::model::{Layout, preset, preset_names};
use horizon::train::Origin;
use serde_json::{Map, Value, json};

use crate::options::InfoOptions;
use crate::print::print;
use crate::resume::noted_paths;

/// Prints a description of this machine, or of a checkpoint.
pub fn info(options: &InfoOptions) -> Result<()> {
    if let Some(folder) = &options.checkpoint {
        return show(&open(folder)?, options);
    }
    let models: Vec<_> = preset_names()
        .iter()
        .filter_map(|name| preset(name).map(|config| (name, Layout::new(&config).parameters(), config)))
        .collect();
    let limits = Limits::read(None);
    let (devices, cuda) = (devices(), CudaReport::read());
    // Matmuls always use the best instruction set.
    let (adam_isa, matmul_isa) = (Isa::chosen()?, Isa::best());
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let processor = processor_name();
    let nodes = Topology::read().nodes;
    let huge = HugePages::read();
    let lockable = Some(limits.lockable_bytes).filter(|bytes| *bytes != usize::MAX);
    let measured = options.measure.then(|| measure_ram(cores)).transpose()?;
    if options.json {
        let models: Vec<_> = models
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
        let nodes: Vec<_> = nodes
            .iter()
            .map(|node| {
                json!({
                    "node": node.index, "cpus": node.cpus, "memory_bytes": node.memory_bytes,
                    "available_bytes": node.available_bytes, "distances": node.distances,
                })
            })
            .collect();
        let mut info = json!({
            "version": env!("CARGO_PKG_VERSION"), "processor": processor, "cores": cores, "isa": adam_isa.name(),
            "matmul_isa": matmul_isa.name(),
            "nodes": nodes,
            "huge_pages": { "explicit_free": huge.explicit_free, "transparent": huge.transparent },
            "host_memory_bytes": limits.bytes, "host_memory_limit": limits.limit.to_string(),
            "lockable_bytes": lockable, "devices": devices, "missing_for_cuda": cuda.missing, "cuda": cuda,
            "models": models,
        });
        if let Some(measured) = measured {
            info["measured"] = json!({
                "threads": measured.threads, "bytes": measured.bytes,
                "read_bytes_per_second": measured.read.round(), "write_bytes_per_second": measured.write.round(),
                "adam_parameters_per_second": measured.adam.round(),
            });
        }
        return print(format!("{info:#}\n").as_bytes());
    }
    let mut text = format!("horizon {}\n", env!("CARGO_PKG_VERSION"));
    text += &format!("processor     {}\n", processor.as_deref().unwrap_or("unknown"));
    let instructions = if adam_isa == matmul_isa {
        matmul_isa.to_string()
    } else {
        format!("{matmul_isa} in matmuls, {adam_isa} in AdamW (HZ_ISA)")
    };
    text += &format!("cores         {cores}, instructions {instructions}\n");
    for node in nodes {
        text += &format!(
            "node {:<8} {}, {} of memory, {} available\n",
            node.index,
            several(node.cpus.len(), "core"),
            Size(node.memory_bytes),
            Size(node.available_bytes)
        );
    }
    let transparent = if huge.transparent { "available" } else { "switched off" };
    text += &format!(
        "huge pages    {} of 2 MiB reserved and free, transparent huge pages {transparent}\n",
        huge.explicit_free
    );
    text += &format!("host memory   {} ({})\n", Size(limits.bytes), limits.limit);
    let locked = lockable.map_or("no limit".to_owned(), |bytes| format!("{} (RLIMIT_MEMLOCK)", Size(bytes)));
    text += &format!("pinnable      {locked}\n");
    if let Some(measured) = measured {
        text += &format!(
            "measured      read {}, write {}, AdamW {} parameters/s ({} threads over {})\n",
            bandwidth(measured.read),
            bandwidth(measured.write),
            count(measured.adam),
            measured.threads,
            Size(measured.bytes)
        );
    }
    for device in devices {
        text += &format!("device        {}, {} free\n", device.name, Size(device.memory_free));
    }
    text += &cuda_text(&cuda);
    for (name, parameters, config) in models {
        let dims = &config.dims;
        text += &format!(
            "model {name:<7} {} parameters: {}, hidden size {}, {}, {} (GQA), MLP {}, \
             byte tokens\n",
            count(parameters as f64),
            several(dims.l, "layer"),
            dims.c,
            several(dims.h, "head"),
            several(dims.g, "KV head"),
            dims.f
        );
    }
    print(escaped(&text, "\n").as_bytes())
}

/// Describes the CUDA driver, libraries and devices, and missing requirements with their remedies.
fn cuda_text(cuda: &CudaReport) -> String {
    let found = |name: &str, version: &Option<String>| {
        version.as_ref().map_or(format!("no {name}"), |version| format!("{name} {version}"))
    };
    let mut text = format!(
        "CUDA          {}, {}, {}\n",
        found("driver", &cuda.driver),
        found("runtime", &cuda.runtime),
        cuda.targets
            .map_or("built without CUDA kernels".to_owned(), |targets| format!("kernels for {targets}"))
    );
    if let Some(library) = &cuda.cublaslt {
        text += &format!("cuBLASLt      {}, {}\n", library.version, library.path.display());
    }
    for device in &cuda.devices {
        let node = device.node.map_or("NUMA node unknown".to_owned(), |node| format!("NUMA node {node}"));
        text += &format!(
            "{:<13} compute capability {}, {} of memory, {node}, attention by {}, stream memory operations {}\n",
            device.name.split(' ').next().unwrap_or_default(),
            device.compute_capability,
            Size(device.memory_bytes),
            device.attention.name(),
            if device.stream_memory_operations { "used" } else { "not used" }
        );
    }
    for missing in &cuda.missing {
        text += &format!("no CUDA       {missing}\n");
    }
    text
}

/// Prints a description of a checkpoint.
fn show(checkpoint: &Checkpoint, options: &InfoOptions) -> Result<()> {
    if options.check {
        checkpoint.verify()?;
    }
    let manifest = checkpoint.manifest();
    if options.json {
        let json = json!({ "folder": checkpoint.folder(), "checked": options.check, "manifest": manifest });
        return print(format!("{json:#}\n").as_bytes());
    }
    let bytes: u64 = manifest.all_files().map(|(_, bytes)| bytes).sum();
    let list = |fields: &Map<String, Value>| -> String {
        let fields: Vec<String> = fields.iter().map(|(name, value)| format!("{name} {value}")).collect();
        fields.join(", ").replace('"', "")
    };
    let checked = if options.check { "every checksum is right" } else { "all files have the expected size" };
    let mut text = format!("checkpoint    {}: {checked}\n", checkpoint.folder().display());
    text += &format!("step          {}, {} tokens\n", manifest.step, count(manifest.tokens as f64));
    text += &format!("files         {}, {}\n", manifest.all_files().count() + 1, Size(bytes as usize));
    if let Some(at) = &manifest.position {
        text += &format!("data          epoch {}, window {} of {}\n", at.epoch, at.window, at.windows);
    }
    text += &format!("model         {}\n", list(&manifest.model));
    text += &format!("options       {}\n", list(&manifest.numeric));
    if let Some(origin) = Origin::of(checkpoint) {
        text += &format!("run           {}\n", origin.id);
    }
    for (option, values) in noted_paths(&manifest.note).iter().filter(|(_, values)| !values.is_empty()) {
        text += &format!("{:<13} {}\n", format!("--{option}"), values.join(", "));
    }
    text += &format!("written by    horizon {}\n", manifest.horizon);
    print(escaped(&text, "\n").as_bytes())
}
