//! `horizon train`.

use std::io::{IsTerminal, stderr};
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::ArgMatches;
use horizon::base::format::{escaped, quoted, shown};
use horizon::base::{Error, Front, Position, Result, RunId, Shape, Status};
use horizon::checkpoint::{Changes, Checkpoint, open};
use horizon::data::{Cache, Data, DataOptions, DataPath, EncoderSource};
use horizon::engine::{AdamOptions, DeviceChoice, TrainerOptions};
use horizon::model::preset;
use horizon::ops::cuda::table::Table;
use horizon::train::planning::{Planned, Why, here};
use horizon::train::{ModelSource, Resume, Run, RunOptions, Sampler, SaveOptions, continue_text};
use serde_json::{Map, Value};

use crate::memory::with_uses;
use crate::opening::Opening;
use crate::options::TrainOptions;
use crate::paths::Paths;
use crate::print::{print, warn_of_data, warn_of_memory};
use crate::progress::{Bytes, Progress};
use crate::resume::{Effective, Noted, absolute, effective, is_given, note, validation};
use crate::sample::printable;
use crate::stop::Stop;
use crate::{builtin, model};

/// Steps on the built-in data: a falling loss within a minute on two cores.
const BUILTIN_STEPS: u64 = 500;
/// Tokens of the sample at the end of a run on the built-in data.
const SAMPLE_TOKENS: usize = 120;
/// Printed when a signal stops the run.
const NOTE: &str = "stopping after this step, once the checkpoint and --out are written";

/// Trains a model, with the options of a checkpoint if one is resumed.
pub fn train(options: TrainOptions, matches: &ArgMatches) -> Result<ExitCode> {
    let Effective { options, given, time, run, checkpoint, warnings } = effective(options, matches)?;
    let stop = Stop::listen((!options.quiet).then_some(NOTE))?;
    check_paths(&options, checkpoint.as_ref(), is_given(matches, "model"))?;
    let mut model = match &checkpoint {
        Some(checkpoint) => ModelSource::folder(checkpoint.folder(), true)?,
        None => model::open(&options.model, options.init)?,
    };
    let mut other_template = None;
    if let Some(file) = &options.encoding.chat_template {
        other_template = model.use_chat_template(file)?.then_some(file.as_path());
    }
    let config = &model.config.model;
    let is_preset = model.is_preset();
    let seq_len = options.seq_len.unwrap_or(if is_preset { 128 } else { 1024 }.min(config.positions_max));
    let builtin = options.data.is_empty();
    if builtin && !is_preset && checkpoint.is_none() {
        return Err(Error::argument("there is no training data: give --data PATH"));
    }
    let data_options = DataOptions {
        packing: options.pack.into(),
        bad_lines: options.encoding.bad_lines(),
        threads: options.compute.threads.unwrap_or(DataOptions::new(seq_len).threads),
        ..DataOptions::new(seq_len)
    };
    let encoder = EncoderSource { time: Some(time), ..options.encoding.encoder(model.tokenizer()) };
    let open = |paths: &[_], validation: bool| {
        let reading = Bytes::new("reading", stderr().is_terminal() && !options.quiet);
        let data_options = DataOptions { validation, ..data_options };
        let data =
            Data::open_with(paths, &encoder, &data_options, Cache::of_user().as_ref(), &|done, total| {
                reading.moved(done, total);
                Ok(())
            })?;
        warn_of_data(if validation { "validation data: " } else { "" }, data.report());
        Ok::<_, Error>(data)
    };
    let (mut data, mut val) = if builtin {
        let (training, held_out) = builtin::sources()?;
        (Data::from_documents(training, seq_len)?, Some(Data::from_documents(held_out, seq_len)?))
    } else {
        (open(&options.data, false)?, None)
    };
    if !options.val.is_empty() {
        val = Some(open(&options.val, true)?);
    } else if let Some(fraction) = options.val_fraction {
        let (training, held_out) = data.hold_out(fraction)?;
        (data, val) = (training, Some(held_out));
    }
    if let Some(checkpoint) = &checkpoint {
        check_template(checkpoint, &data, other_template)?;
        if builtin {
            check_builtin(checkpoint, &data, seq_len)?;
        }
        warn_of_other_data(checkpoint, val.as_ref());
    }
    let mut run_options = run_options(run, &options, &model, seq_len, builtin);
    let note = |given: &Noted| note(given, time, val.as_ref().map(Data::fingerprint));
    run_options.save = save_options(&options, given, note, &run_options, checkpoint.as_ref())?;
    let checkpoints = run_options.save.as_ref().map(|save| save.folder.clone());
    let planned = place(&options, &model, &mut run_options.trainer)?;
    run_options.predicted = Some(planned.predicted());
    run_options.simulated = Some(planned.rates.clone());
    let opening = Opening {
        model: options.model.clone(),
        weights: match &checkpoint {
            Some(checkpoint) => format!("resumed at step {}", checkpoint.manifest().step),
            None if model.is_fresh() => "fresh weights".to_owned(),
            None => "pretrained weights".to_owned(),
        },
        data: if builtin {
            "built-in (the sources of this program)".to_owned()
        } else {
            names(&options.data)
        },
        windows: data.windows(),
        held_out: val.as_ref().filter(|_| options.val_fraction.is_some()).map(Data::windows),
        report: data.report().clone(),
        threads: options.compute.threads,
        gemm_table: run_options.trainer.gemm_table.clone(),
        autotune: autotune_hint(&options, seq_len),
        outputs: outputs(&run_options),
    };
    let changes = Changes::of(&options.resume_change);
    run_options.resume = checkpoint.map(|checkpoint| Resume { checkpoint, changes });

    let terminal = stderr().is_terminal();
    let loading = Bytes::new("loading", terminal && !options.quiet);
    let mut run = Run::open(model, data, val, run_options, &|done, total| {
        loading.moved(done, total);
        Ok(())
    })?;
    // Not before: a run that is refused needs no warnings.
    warnings.iter().for_each(|warning| message!("{warning}"));
    let schedule = *run.lr_schedule();
    let mut progress = Progress::new(schedule.steps, terminal, options.quiet);
    progress.say(opening.describe(&schedule, run.trainer(), &planned).trim_end());
    if options.verbose {
        progress.say(planned.summary().trim_end());
        progress.say(with_uses(&run.trainer().plan().to_string()).trim_end());
    }
    let done = run.trainer().stats().steps;
    if done >= schedule.steps {
        progress.say(&format!(
            "the run is complete: {done} of {} steps are done; to continue it: --steps {} --resume-change steps,warmup",
            schedule.steps,
            2 * done
        ));
    }
    let ended = stop.finishing(|stop| run.train(&mut progress, stop));
    progress.finish();
    let outcome = ended.map_err(|error| with_advice(error, checkpoints.as_deref()))?;

    if let Some(measured) = outcome.times {
        let predicted = planned.predicted();
        progress.say(predicted.compared_with(&measured).trim_end());
        let off = (predicted.step_seconds / measured.step_seconds - 1.0).abs();
        if options.placement.machine.is_none() && off > FAR_OFF {
            progress.say(&format!(
                "the prediction is for machine {}; to measure this one: horizon calibrate --out here.json, then train \
                 with --machine here.json",
                planned.machine_name()
            ));
        }
    }
    if outcome.stopped {
        progress.say(&format!("stopped after step {} of {}", outcome.steps, schedule.steps));
    }
    if let Some(folder) = &outcome.saved
        && outcome.stopped
    {
        progress.say(&format!("to continue: horizon train --resume {}", quoted(folder)));
    }
    if let Some(folder) = &outcome.exported {
        progress.say(&format!("exported to {}", shown(folder)));
        if !outcome.end_tokens.is_empty() {
            progress.say(&format!(
                "added to eos_token_id in generation_config.json, since trained turns end with it: {}",
                escaped(&outcome.end_tokens.join(", "), "")
            ));
        }
    }
    if outcome.stopped {
        return Ok(stop.exit_code().expect("only a signal stops a run"));
    }
    if builtin && !options.quiet {
        // All of the run is written.
        show_sample(&mut run, &mut progress, options.seed)
            .unwrap_or_else(|error| message!("warning: no sample: {}", error.message_for(Front::Command)));
    }
    Ok(ExitCode::SUCCESS)
}

/// The commands that autotune the GEMMs of a run without a table.
fn autotune_hint(options: &TrainOptions, seq_len: usize) -> String {
    format!(
        "GEMMs use cuBLASLt's first choices; to autotune them, once: horizon calibrate --device {} --autotune {} \
         --autotune-only --micro-batch {} --seq-len {seq_len} --out gemm.json, then train with --gemm-table gemm.json",
        options.compute.device,
        quoted(&options.model),
        options.micro_batch
    )
}

/// Relative error of a prediction above which the simulated machine is too unlike this one.
const FAR_OFF: f64 = 0.25;

fn names(paths: &[DataPath]) -> String {
    paths.iter().map(|data| shown(&data.path)).collect::<Vec<_>>().join(", ")
}

/// The outputs of a run, for its first lines; empty if there are none.
fn outputs(run: &RunOptions) -> String {
    let checkpoints = run.save.as_ref().map(|save| &save.folder);
    let outputs = [("log", run.log.as_ref()), ("export", run.out.as_ref()), ("checkpoints", checkpoints)];
    let shown = outputs.iter().filter_map(|(name, path)| {
        path.map(|path| format!("{name} {}", escaped(&path.display().to_string(), "")))
    });
    shown.collect::<Vec<_>>().join(", ")
}

fn run_options(
    run: RunId,
    options: &TrainOptions,
    model: &ModelSource,
    seq_len: usize,
    builtin: bool,
) -> RunOptions {
    RunOptions {
        run,
        trainer: TrainerOptions {
            device: options.compute.device,
            pinning: options.pinning,
            gemm_table: options.gemm_table.clone().or_else(|| beside(options.placement.machine.as_deref()?)),
            mode: options.state.mode,
            grad_dtype: options.state.grad_dtype.into(),
            shape: Shape { b: options.micro_batch, t: seq_len },
            micros_max: options.grad_accum,
            device_mem: options.device_mem,
            host_mem: options.host_mem,
            threads: options.compute.threads,
            adam: AdamOptions {
                beta1: options.beta1,
                beta2: options.beta2,
                eps: options.eps,
                weight_decay: options.weight_decay,
            },
            clip: options.clip,
            ..TrainerOptions::default()
        },
        steps: options.steps.or(builtin.then_some(BUILTIN_STEPS)),
        lr_shape: options.schedule.into(),
        lr: options.lr.unwrap_or(match (model.is_preset(), model.is_fresh()) {
            (true, _) => 3e-3,
            (false, true) => 3e-4,
            (false, false) => 2e-5,
        }),
        min_lr: options.min_lr,
        warmup: options.warmup,
        seed: options.seed,
        shuffle: !options.no_shuffle,
        val_every: options.val_every,
        val_micros_max: options.val_batches,
        out: options.out.clone(),
        export_dtype: options.export_dtype.into(),
        log: options.log.clone(),
        predicted: None,
        trace: options.trace.clone(),
        simulated: None,
        save: None,
        resume: None,
    }
}

/// The GEMM table next to a machine file, if there is one. Warns if only one of an older format is
/// there.
fn beside(machine: &str) -> Option<PathBuf> {
    let machine = Path::new(machine);
    let table = Some(Table::beside(machine)).filter(|table| table.is_file());
    let older = machine.with_extension("products.json");
    if table.is_none() && older.is_file() {
        message!("warning: {} is of an older format: autotune again", shown(&older));
    }
    table
}

/// Refuses a chat template that differs from that of the run to resume, if the data is other data
/// with it. Token files are the same with any template.
fn check_template(checkpoint: &Checkpoint, data: &Data, other: Option<&Path>) -> Result<()> {
    let same = |from: Position| from.fingerprint == Some(data.fingerprint());
    let same_data = checkpoint.manifest().position.is_none_or(same);
    match other.filter(|_| !same_data) {
        None => Ok(()),
        Some(template) => Err(Error::argument(format!(
            "--chat-template {} differs from the chat template of the run to resume, so the data differs, too: leave \
             the option out, the checkpoint has the template",
            template.display()
        ))),
    }
}

/// Refuses the built-in data of another build than that which wrote the checkpoint.
fn check_builtin(checkpoint: &Checkpoint, data: &Data, seq_len: usize) -> Result<()> {
    let manifest = checkpoint.manifest();
    let is_same = |from: Position| {
        from.windows == data.windows() && from.fingerprint.is_none_or(|hash| hash == data.fingerprint())
    };
    // Other windows are refused by the name of the option.
    if manifest.numeric.get("seq-len") != Some(&seq_len.into()) || manifest.position.is_none_or(is_same) {
        return Ok(());
    }
    Err(Error::argument(format!(
        "the built-in data is that of the program that wrote the checkpoint (horizon {}), and this program has other \
         sources: resume with that program, or begin a new run",
        escaped(&manifest.horizon, "")
    )))
}

/// Warns if the validation data differs from that of the run to resume, or if the checkpoint cannot
/// tell whether the training data does.
fn warn_of_other_data(checkpoint: &Checkpoint, val: Option<&Data>) {
    let manifest = checkpoint.manifest();
    if manifest.position.is_some_and(|from| from.fingerprint.is_none()) {
        message!(
            "warning: an earlier version wrote this checkpoint, without the hash of all data: that the data is the \
             same is not checked"
        );
    }
    if let (Some(noted), Some(val)) = (validation(&manifest.note), val)
        && noted != val.fingerprint()
    {
        message!(
            "warning: the validation data differs from that of the run to resume: validation losses before and \
             after are not comparable"
        );
    }
}

/// Refuses outputs that conflict with inputs or with each other. The model with which a resumed run
/// began is an input, too, though it is read no more.
fn check_paths(options: &TrainOptions, resumed: Option<&Checkpoint>, model_is_given: bool) -> Result<()> {
    let resumed = resumed.map(Checkpoint::folder);
    let mut paths = Paths::default();
    let is_noted = resumed.is_some() && !model_is_given;
    let beside = resumed.and_then(Path::parent);
    let is_checkpoint = beside.is_some_and(|folder| Path::new(&options.model).starts_with(folder));
    if preset(&options.model).is_none() && !(is_noted && is_checkpoint) {
        let option = if is_noted { "the --model of the checkpoint," } else { "--model" };
        paths = paths.reads_model(option, &options.model)?;
    }
    if let Some(machine) = options.placement.machine.as_deref() {
        let table = Table::beside(Path::new(machine));
        paths = paths.reads_machine(machine)?.reads("the GEMM table next to --machine", table)?;
    }
    let files = [("--chat-template", &options.encoding.chat_template), ("--gemm-table", &options.gemm_table)];
    for (option, file) in files {
        paths = file.iter().try_fold(paths, |paths, file| paths.reads(option, file))?;
    }
    paths
        .reads_data("--data", &options.data)?
        .reads_data("--val", &options.val)?
        .writes_folder("--out", options.out.as_ref())?
        .writes_file("--log", options.log.as_ref())?
        .writes_file("--trace", options.trace.as_ref())?
        .checkpoints(options.checkpoint_dir.as_deref(), resumed)?
        .check()
}

/// Adds what to do to the error of a run: how to continue it, and how if loss or norm is not finite.
fn with_advice(error: Error, checkpoints: Option<&Path>) -> Error {
    let diverged = matches!(error.status(), Status::NonFinite | Status::StepPartial);
    let checkpoint = checkpoints.and_then(|folder| open(folder).ok());
    let advice = match checkpoint.as_ref().map(|checkpoint| quoted(checkpoint.folder())) {
        Some(folder) if diverged => format!(
            "lower --lr or lengthen --warmup, and resume from the last checkpoint: --resume {folder} \
             --resume-change lr,min-lr,warmup"
        ),
        Some(folder) => format!("to continue: horizon train --resume {folder}"),
        None if diverged => "lower --lr or lengthen --warmup, and train again".to_owned(),
        None => return error,
    };
    error.map(|message| format!("{message}; {advice}"))
}

/// The folder and interval of checkpoints. They note the options given, and the values of those
/// left out that depend on model and data, so that a resumed run has the same.
fn save_options(
    options: &TrainOptions,
    mut given: Noted,
    note: impl Fn(&Noted) -> Map<String, Value>,
    run: &RunOptions,
    resumed: Option<&Checkpoint>,
) -> Result<Option<SaveOptions>> {
    let beside = resumed.and_then(|checkpoint| checkpoint.folder().parent());
    let Some(folder) = options.checkpoint_dir.as_deref().or(beside) else {
        if options.checkpoint_every.is_some() || options.keep.is_some() {
            return Err(Error::argument(
                "--checkpoint-every and --keep need a folder for checkpoints: give --checkpoint-dir DIR",
            ));
        }
        return Ok(None);
    };
    let is_folder = preset(&options.model).is_none();
    let model = if is_folder {
        absolute(Path::new(&options.model))?.display().to_string()
    } else {
        options.model.clone()
    };
    let noted = &mut given.options;
    noted.insert("model".to_owned(), vec![model]);
    noted.insert("seq-len".to_owned(), vec![run.trainer.shape.t.to_string()]);
    noted.insert("lr".to_owned(), vec![run.lr.to_string()]);
    noted.extend(run.steps.map(|steps| ("steps".to_owned(), vec![steps.to_string()])));
    Ok(Some(SaveOptions {
        folder: folder.to_owned(),
        every: options.checkpoint_every.unwrap_or(0),
        keep: options.keep.and_then(NonZeroUsize::new),
        note: note(&given),
    }))
}

/// Searches for the placement, except for the options that the user has fixed. The step is
/// simulated on `--machine` or on the described machine most like this one; memory is this
/// machine's.
///
/// Errors: `--gemm-table` on a CPU device, which would ignore it; those of [`Planned::search`].
fn place(options: &TrainOptions, model: &ModelSource, trainer: &mut TrainerOptions) -> Result<Planned> {
    let config = &model.config.model;
    let device = trainer.device.resolve(config, trainer.shape)?;
    if options.gemm_table.is_some() && device == DeviceChoice::Cpu {
        return Err(Error::argument(format!(
            "--gemm-table is for CUDA devices, and --device {} computes on the CPU: leave the table out, or choose \
             --device cuda",
            trainer.device
        )));
    }
    let named = options.placement.machine.as_deref();
    let (machine, limits) = here(device, named, options.device_mem, options.host_mem)?;
    warn_of_memory(&limits);
    let fixed = options.placement.fixed(config.dims.l, options.state.mode, options.clip)?;
    let planned = Planned::search(&options.model, config, trainer, &machine, limits, &fixed, Why::Times)?;
    trainer.place(&planned.plan().policy.placement);
    Ok(planned)
}

/// Prints the trained model's continuation of the beginning of a function.
fn show_sample(run: &mut Run, progress: &mut Progress, seed: u64) -> Result<()> {
    const PROMPT: &str = "pub fn ";
    let tokens: Vec<i32> = PROMPT.bytes().map(i32::from).collect();
    let mut text = PROMPT.as_bytes().to_vec();
    let mut sampler = Sampler::new(0.7, seed)?;
    progress.say("sample of the trained model:\n");
    continue_text(run.trainer(), &tokens, SAMPLE_TOKENS, 256, &mut sampler, |token| {
        text.extend(u8::try_from(token));
        Ok(ControlFlow::Continue(()))
    })?;
    print(format!("{}\n", printable(&text)).as_bytes())
}
