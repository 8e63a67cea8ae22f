//! Autotune: times GEMMs and both attention kernels; a trainer uses the table.

use horizon::engine::{DeviceChoice, Trainer, TrainerOptions, autotune};
use horizon::ops::cuda::attention::has_wgmma;
use horizon::ops::cuda::table::Table;

use crate::equal::{config, options};
use crate::rig::{self, Rig};
use support::fake_cuda::FakeCuda;
use support::runs::{Manner, train};

#[test]
fn a_model_is_autotuned_and_trains_by_its_table() {
    let Some(rig) = rig::any() else { return };
    let fake = match &rig {
        Rig::Emulated(setting) => Some(FakeCuda::new(setting.clone())),
        Rig::Gpu => None,
    };
    let ordinal = fake.as_ref().map_or(0, FakeCuda::ordinal);
    let plain = TrainerOptions { device: DeviceChoice::Cuda(ordinal), ..options() };
    let mut notes = Vec::new();
    let table =
        autotune(&config(true), &plain, &mut |note: &str| notes.push(note.to_owned())).expect("a table");
    let kernels = if has_wgmma(ordinal).expect("a device") { &["mma", "wgmma"][..] } else { &["mma"] };
    assert_eq!(notes.len(), kernels.len(), "{notes:?}");
    for (note, by) in notes.iter().zip(kernels) {
        assert!(note.starts_with(&format!("attention by {by}: forward ")), "{note}");
        assert!(note.contains("TFLOP/s), backward "), "{note}");
    }
    assert!(table.iter().count() > 10, "GEMMs of the model are missing");

    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("a.gemm.json");
    std::fs::write(&file, table.to_json()).expect("a file");
    assert_eq!(Table::read(&file).expect("a table"), table);
    let tuned = TrainerOptions { gemm_table: Some(file), ..plain };
    let run = || {
        let mut trainer = Trainer::open(&config(true), &tuned).expect("the model fits");
        (train(&mut trainer, &tuned, Manner::Plain), trainer.arithmetic())
    };
    assert!(run() == run(), "the same table gave other bits");
}
