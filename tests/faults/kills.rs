//! Runs that are killed at random times and resumed by the same command until they are done.

use std::time::{Duration, Instant};

use horizon::checkpoint;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::invariants::{CHECKPOINTS, Results, clean, complete, equal, steps};
use crate::is_long;
use crate::work::{TRAIN, copy, horizon, run, start, wait, workplace};

#[test]
fn killed_runs_end_with_the_bits_of_an_uninterrupted_one() {
    let (kills, last) = if is_long() { (1000, 500) } else { (5, 100) };
    let origin = workplace();
    let scratch = tempfile::tempdir_in(origin.path().parent().unwrap()).unwrap();
    let fresh = format!(
        "{TRAIN} --steps {last} --checkpoint-dir ckpts --checkpoint-every 1 --keep 3 --log log.jsonl --out hf"
    );
    let whole = scratch.path().join("whole");
    copy(origin.path(), &whole);
    let begun = Instant::now();
    run(horizon(&whole, &fresh)).succeeded();
    let (expected, lifetime) = (Results::of(&whole).unwrap(), begun.elapsed());

    let seed = 1;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (mut killed, mut runs) = (0, 0);
    while killed < kills {
        let folder = scratch.path().join(runs.to_string());
        copy(origin.path(), &folder);
        let mut latest = 0;
        loop {
            let command = if steps(&folder).is_empty() { &fresh } else { "train --quiet --resume ckpts" };
            let mut child = start(horizon(&folder, command));
            if killed < kills {
                std::thread::sleep(lifetime.mul_f64(rng.random_range(0.0..0.3)) + Duration::from_millis(1));
                child.kill().unwrap();
            }
            let ran = wait(child);
            if let Some(code) = ran.code() {
                assert_eq!(code, 0, "seed {seed}, kill {killed}: {}", ran.err);
                break;
            }
            killed += 1;
            complete(&folder).unwrap();
            let before = std::mem::replace(&mut latest, latest_step(&folder));
            assert!(latest >= before, "seed {seed}, kill {killed}: step {before} is lost");
        }
        let ended = Results::of(&folder).and_then(|found| equal(&found, &expected));
        ended.and_then(|()| clean(&folder)).unwrap_or_else(|finding| panic!("run {runs}: {finding}"));
        std::fs::remove_dir_all(&folder).unwrap();
        runs += 1;
    }
    println!("kills: {killed} kills in {runs} runs of {last} steps, 0 lost");
}

/// The step of the checkpoint from which a run would be resumed; 0 if there is none.
pub fn latest_step(folder: &std::path::Path) -> u64 {
    checkpoint::open(&folder.join(CHECKPOINTS)).map_or(0, |checkpoint| checkpoint.manifest().step)
}
