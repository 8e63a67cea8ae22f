//! A folder of checkpoints: which are kept, who may write, and what is never touched.

use std::fs;
use std::num::NonZeroUsize;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::Arc;

use horizon::base::{DType, Status};
use horizon::checkpoint::{Checkpoints, Note, open};
use horizon::engine::TrainerOptions;
use horizon::hf::FolderConfig;
use support::folder::names;

use super::{checkpoints, config, options, restored, save, steps, trained, write_two};

#[test]
fn the_newest_checkpoints_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let left = || names(dir.path()).into_iter().filter(|name| name.starts_with("step-")).collect::<Vec<_>>();
    let mut trainer = trained(&options(), 0);
    let to = checkpoints(dir.path(), Some(2));
    for _ in 0..4 {
        save(&mut trainer, &to);
        steps(&mut trainer, 1);
    }
    assert_eq!(left(), ["step-00000002", "step-00000003"]);
    // An incomplete checkpoint is not removed.
    fs::create_dir(dir.path().join("step-00000001")).unwrap();
    save(&mut trainer, &to);
    assert_eq!(left(), ["step-00000001", "step-00000003", "step-00000004"]);
    assert_eq!(open(dir.path()).unwrap().manifest().step, 4);
    // After resuming from step 3, checkpoints of later steps count as the oldest.
    drop(to);
    let to = checkpoints(dir.path(), Some(1));
    let mut again = restored(&open(&dir.path().join("step-00000003")).unwrap(), &options()).unwrap();
    save(&mut again, &to);
    assert_eq!(left(), ["step-00000001", "step-00000003"]);
    // A checkpoint of the same step is replaced.
    let before = fs::read(dir.path().join("step-00000003/unit-00001.state")).unwrap();
    let mut other = trained(&TrainerOptions { clip: 0.01, ..options() }, 3);
    save(&mut other, &to);
    assert!(fs::read(dir.path().join("step-00000003/unit-00001.state")).unwrap() != before);
    assert_eq!(names(dir.path()), [".lock", "latest", "step-00000001", "step-00000003"]);
}

#[test]
fn a_run_continues_in_its_own_folder_and_leaves_obsolete_checkpoints_behind() {
    let dir = tempfile::tempdir().unwrap();
    write_two(dir.path());
    let to = checkpoints(dir.path(), Some(2));
    let error = to.continue_run(None).unwrap_err();
    assert_eq!(error.status(), Status::InvalidState);
    assert!(error.message().contains("checkpoints already"), "{error}");
    // Resumed from step 2 of 2 and 3: step 3 counts as the oldest.
    let mut trainer = restored(&open(&dir.path().join("step-00000002")).unwrap(), &options()).unwrap();
    to.continue_run(Some(2)).unwrap();
    steps(&mut trainer, 2);
    save(&mut trainer, &to);
    assert_eq!(names(dir.path()), [".lock", "latest", "step-00000002", "step-00000004"]);
    // Another `keep` under the same lock.
    let one = Arc::new(to.with(Vec::new(), NonZeroUsize::new(1)));
    drop(to);
    assert!(Checkpoints::create(dir.path(), Vec::new(), None).is_err());
    save(&mut trainer, &one);
    assert_eq!(names(dir.path()), [".lock", "latest", "step-00000004"]);
}

#[test]
fn names_that_are_taken_are_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let error = || Checkpoints::create(dir.path(), Vec::new(), None).map(drop).unwrap_err();
    fs::create_dir(at("latest")).unwrap();
    assert!(error().message().contains("latest: it is a folder"), "{}", error());
    fs::remove_dir(at("latest")).unwrap();
    nix::unistd::mkfifo(&at("latest"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(error().message().contains("a pipe"), "{}", error());
    fs::remove_file(at("latest")).unwrap();
    write_two(dir.path());
    symlink("step-00000003", at("step-00000007")).unwrap();
    let to = checkpoints(dir.path(), None);
    let error = to.continue_run(Some(3)).unwrap_err();
    assert!(error.message().contains("step-00000007: it is a link"), "{error}");
    fs::remove_file(at("step-00000007")).unwrap();
    assert_eq!(to.continue_run(Some(2)).unwrap(), [3]);
}

#[test]
fn a_checkpoint_that_a_run_has_removed_is_reported_as_written_by_that_run() {
    let dir = tempfile::tempdir().unwrap();
    write_two(dir.path());
    let third = open(dir.path()).unwrap();
    let to = checkpoints(dir.path(), None);
    fs::remove_dir_all(third.folder()).unwrap();
    for error in [open(third.folder()).unwrap_err(), third.parent().unwrap_err()] {
        assert_eq!(error.status(), Status::NotFound);
        for word in ["a run writes its checkpoints to", "step-00000003"] {
            assert!(error.message().contains(word), "{error}");
        }
    }
    drop(to);
    assert!(!open(third.folder()).unwrap_err().message().contains("a run writes"));
}

#[test]
fn a_new_checkpoint_is_as_private_as_its_folder() {
    let dir = tempfile::tempdir().unwrap();
    let mode = |name: &str| fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o777;
    for (step, bits) in [0o700, 0o755].into_iter().enumerate() {
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(bits)).unwrap();
        save(&mut trained(&options(), step as u64), &checkpoints(dir.path(), None));
        let folder = format!("step-{step:08}");
        assert_eq!([mode(&folder), mode(&format!("{folder}/manifest.json"))], [bits, bits & 0o666]);
    }
}

#[test]
fn one_process_writes_and_leftovers_of_others_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    write_two(dir.path());
    let to = checkpoints(dir.path(), None);
    let config = FolderConfig::of(config()).unwrap();
    let files = || config.files(DType::Bf16);
    let error = Checkpoints::create(dir.path(), files(), None).unwrap_err();
    assert_eq!(error.status(), Status::InvalidState);
    assert!(error.message().contains("another run writes its checkpoints"), "{error}");
    // Also after the lock file was removed.
    fs::remove_file(dir.path().join(".lock")).unwrap();
    assert_eq!(Checkpoints::create(dir.path(), files(), None).unwrap_err(), error);
    drop(to);
    let before = names(dir.path());
    for left in [".step-00000009.partial-1", ".step-00000002.removed-1", ".step-00000002.replaced"] {
        fs::create_dir(dir.path().join(left)).unwrap();
        fs::write(dir.path().join(left).join("unit-00000.state"), "half").unwrap();
    }
    fs::write(dir.path().join(".latest.partial-1"), "half").unwrap();
    for mine in [".mine", "step-x", "notes"] {
        fs::write(dir.path().join(mine), "a file of the user").unwrap();
    }
    checkpoints(dir.path(), None);
    let mut want = before;
    want.extend([".mine", "notes", "step-x"].map(String::from));
    want.sort();
    assert_eq!(names(dir.path()), want);
    fs::write(dir.path().join("file"), "").unwrap();
    let error = Checkpoints::create(&dir.path().join("file"), files(), None).unwrap_err();
    assert!(error.message().contains("cannot write to") && error.message().contains("file"), "{error}");
}

#[test]
fn links_in_place_of_checkpoints_are_neither_followed_nor_removed() {
    let (dir, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_two(home.path());
    let before = names(home.path());
    let mut trainer = trained(&options(), 0);
    let to = checkpoints(dir.path(), Some(1));
    for (step, target) in [(0, home.path().to_owned()), (2, home.path().join("step-00000002"))] {
        symlink(target, dir.path().join(format!("step-{step:08}"))).unwrap();
    }
    let error = to.writer(&trainer, Note::default()).unwrap_err();
    assert!(error.message().contains("step-00000000: it is a link or a file, not a folder"), "{error}");
    steps(&mut trainer, 3);
    save(&mut trainer, &to);
    steps(&mut trainer, 1);
    save(&mut trainer, &to);
    assert_eq!(names(dir.path()), [".lock", "latest", "step-00000000", "step-00000002", "step-00000004"]);
    assert_eq!(names(home.path()), before);
    // Remains of a killed process that lead elsewhere.
    drop(to);
    symlink(home.path(), dir.path().join(".step-00000009.removed-1")).unwrap();
    checkpoints(dir.path(), None);
    assert!(!dir.path().join(".step-00000009.removed-1").is_symlink());
    assert_eq!(names(home.path()), before);
}
