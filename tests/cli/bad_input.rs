//! Errors: each has a clear message and a nonzero status, and leaves no partial file under a final
//! name.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{Ran, horizon_in, names, short, write_text};

/// A folder with a text, and a tiny model trained for one step on it.
fn furnished() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_text(&dir.path().join("text.txt"));
    horizon_in(dir.path(), &short(&["--data", "text.txt", "--steps", "1", "--out", "model"])).well();
    dir
}

fn train(dir: &Path, more: &[&str]) -> Ran {
    horizon_in(dir, &short(more))
}

fn token_file(path: &Path, tokens: &[u16]) {
    let header = [20_240_520, 1, tokens.len() as i32];
    let mut out: Vec<u8> = header.iter().flat_map(|w: &i32| w.to_le_bytes()).collect();
    out.resize(1024, 0);
    out.extend(tokens.iter().flat_map(|t| t.to_le_bytes()));
    fs::write(path, out).unwrap();
}

#[test]
fn data_that_is_not_data() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    write_text(&here.join("text.txt"));
    train(here, &["--data", "none.txt"]).badly(1, &["none.txt", "No such file"]);
    train(here, &["--data", "text.txt", "--val", "none.bin"]).badly(1, &["none.bin", "No such file"]);
    fs::write(here.join("chat.jsonl"), "\n{\"txt\": 5}\n").unwrap();
    train(here, &["--data", "chat.jsonl"]).badly(1, &["chat.jsonl, line 2", "no field to train on", "`txt`"]);
    fs::write(here.join("table.parquet"), "PAR1").unwrap();
    train(here, &["--data", "table.parquet"]).badly(1, &["table.parquet", "damaged or truncated Parquet"]);
    train(here, &["--data", "text.txt:0"]).badly(2, &["--data", "weight is 0"]);
    train(here, &["--data", "text.txt", "--val-fraction", "1"]).badly(1, &["--val-fraction is 1"]);
    train(here, &["--data", "text.txt", "--val-fraction", "0.1", "--val", "text.txt"])
        .badly(2, &["--val-fraction", "cannot be used with"]);
    fs::write(here.join("short.txt"), "too short").unwrap();
    train(here, &["--data", "short.txt"]).badly(1, &["short.txt", "9 tokens", "33"]);
    fs::create_dir(here.join("empty")).unwrap();
    train(here, &["--data", "empty"]).badly(1, &["empty contains no files to read"]);
    fs::write(here.join("noise.bin"), [7; 2000]).unwrap();
    train(here, &["--data", "noise.bin"]).badly(1, &["noise.bin", "not a token file"]);
    let mut tokens = vec![1u16; 100];
    tokens[64] = 256;
    token_file(&here.join("tokens.bin"), &tokens);
    train(here, &["--data", "tokens.bin"]).badly(1, &["tokens.bin", "token 64 is 256", "0 … 255"]);
    tokens[64] = 255;
    token_file(&here.join("tokens.bin"), &tokens);
    train(here, &["--data", "tokens.bin"]).well();
    let bytes = fs::read(here.join("tokens.bin")).unwrap();
    fs::write(here.join("tokens.bin"), &bytes[..bytes.len() - 1]).unwrap();
    train(here, &["--data", "tokens.bin"]).badly(1, &["tokens.bin", "truncated"]);
}

#[test]
fn a_step_without_a_target() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("letters");
    fs::create_dir(&folder).unwrap();
    for name in ["a", "b", "c"] {
        fs::write(folder.join(name), name).unwrap();
    }
    let arguments = ["train", "--data", "letters", "--seq-len", "1", "--micro-batch", "1", "--out", "out"];
    horizon_in(dir.path(), &arguments)
        .badly(1, &["nothing to train on in 3 documents", "the first of its document"]);
    assert_eq!(names(dir.path()), ["letters"]);
}

#[test]
fn models_that_are_not_models() {
    let dir = furnished();
    let here = dir.path();
    let on =
        |model: &str| train(here, &["--model", model, "--data", "text.txt", "--steps", "1", "--out", "out"]);
    on("nowhere").badly(1, &["nowhere", "tiny, small"]);
    let download =
        "download it, e.g. `hf download meta-llama/Llama-3.1-8B --local-dir DIR`, then --model DIR";
    for name in ["llama3.1-8b", "meta-llama/Llama-3.1-8B"] {
        on(name).badly(1, &[name, "folder", download]);
        horizon_in(here, &["sample", "--model", name]).badly(1, &[download]);
    }
    on("model/config.json").badly(1, &["model/config.json is a file", "the folder of the model"]);
    on("dense-1t").badly(1, &["dense-1t is a name for `plan`", "a Hugging Face folder"]);
    train(here, &["--model", "model"]).badly(1, &["--data"]);

    let copy = |name: &str| {
        let folder = here.join(name);
        fs::create_dir(&folder).unwrap();
        for file in ["config.json", "model.safetensors"] {
            fs::copy(here.join("model").join(file), folder.join(file)).unwrap();
        }
        folder
    };
    let config = |folder: &Path, from: &str, to: &str| {
        let path = folder.join("config.json");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from));
        fs::write(path, text.replace(from, to)).unwrap();
    };
    let bad = copy("bad-json");
    config(&bad, "{", "");
    on("bad-json").badly(1, &["bad-json/config.json", "not a JSON object"]);
    let bad = copy("other");
    config(&bad, "LlamaForCausalLM", "GPT2LMHeadModel");
    on("other").badly(1, &["other/config.json", "GPT2LMHeadModel", "LlamaForCausalLM"]);
    let wrapped = copy("wrapped");
    config(&wrapped, "LlamaForCausalLM", "FSDPLlamaForCausalLM");
    let ran = horizon_in(here, &["sample", "--model", "wrapped", "--prompt", "a", "--tokens", "1"]).well();
    let warning = "warning: wrapped: the architecture \"FSDPLlamaForCausalLM\" is read as LlamaForCausalLM";
    assert_eq!(ran.err.matches(warning).count(), 1, "{}", ran.err);
    let bad = copy("gelu");
    config(&bad, "silu", "gelu");
    on("gelu").badly(1, &["gelu/config.json", "hidden_act"]);
    let bad = copy("words");
    config(&bad, "\"vocab_size\": 256", "\"vocab_size\": 32000");
    let words = "words has no tokenizer.json and a vocabulary of 32000 tokens: text cannot be tokenized; copy \
                 tokenizer.json into it, or give token files";
    train(here, &["--model", "words", "--init", "--data", "text.txt"]).badly(1, &[words]);
    token_file(&here.join("tokens.bin"), &[31_999; 200]);
    train(here, &["--model", "words", "--init", "--data", "tokens.bin", "--steps", "1"]).well();
    let bad = copy("wide");
    config(&bad, "\"hidden_size\": 128", "\"hidden_size\": 256");
    on("wide").badly(1, &["model.embed_tokens.weight", "[256, 128]", "[256, 256]"]);
    let bad = copy("cut");
    let weights = fs::read(bad.join("model.safetensors")).unwrap();
    fs::write(bad.join("model.safetensors"), &weights[..weights.len() / 2]).unwrap();
    on("cut").badly(1, &["cut/model.safetensors", "truncated"]);
    fs::remove_file(bad.join("model.safetensors")).unwrap();
    on("cut").badly(1, &["cut", "model.safetensors", "--init"]);
    let own = copy("own-tokenizer");
    fs::write(own.join("tokenizer.json"), "{}").unwrap();
    on("own-tokenizer").badly(1, &["own-tokenizer/tokenizer.json", "not a Hugging Face tokenizer"]);
    let sample = |model: &str| horizon_in(here, &["sample", "--model", model, "--prompt", "a"]);
    sample("own-tokenizer").badly(1, &["own-tokenizer/tokenizer.json", "not a Hugging Face tokenizer"]);
    horizon_in(here, &["sample", "--model", "model", "--chat"])
        .badly(1, &["no chat template", "--chat-template"]);
    let negative = ["sample", "--model", "model", "--temperature", "-1"];
    horizon_in(here, &negative).badly(1, &["temperature is -1"]);
    let ran = horizon_in(here, &["sample", "--model", "model", "--prompt", "-x", "--tokens", "1"]).well();
    assert!(ran.out.starts_with("-x"), "{}", ran.out);
    sample("tiny").badly(1, &["tiny", "--out DIR"]);
    assert!(!here.join("out").exists());
}

#[test]
fn options_that_cannot_be() {
    let dir = tempfile::tempdir().unwrap();
    write_text(&dir.path().join("text.txt"));
    let with = |more: &[&str]| train(dir.path(), &[&["--data", "text.txt"], more].concat());
    with(&["--steps", "0"]).badly(2, &["'0' for '--steps <N>': it must be at least 1\n"]);
    with(&["--steps", "1.5"]).badly(2, &["--steps", "it must be a whole number, 1 or more\n"]);
    with(&["--warmup", "-1"]).badly(2, &["--warmup", "it must be a whole number, 0 or more\n"]);
    with(&["--lr", "abc"]).badly(2, &["'abc' for '--lr <X>': it must be a number, e.g. 2e-5\n"]);
    with(&["--clip", "1,0"]).badly(2, &["--clip", "it must be a number"]);
    with(&["--threads", "1000000"]).badly(2, &["--threads", "1000000", "at most"]);
    with(&["--spill", "all,none"]).badly(1, &["--spill", "none alone"]);
    with(&["--spill", "none,3"]).badly(1, &["--spill", "none alone"]);
    with(&["--sweeps", "1", "--accum-on-device", "all"]).badly(1, &["--accum-on-device", "--sweeps 1"]);
    with(&["--micro-batch", "0"]).badly(2, &["--micro-batch", "at least 1"]);
    with(&["--device-mem", "8Q"]).badly(2, &["--device-mem", "unit"]);
    with(&["--device-mem", "64K"]).badly(1, &["device memory", "64.0 KiB"]);
    with(&["--host-mem", "1M"]).badly(1, &["host memory", "1.0 MiB"]);
    with(&["--mode", "streamed"])
        .badly(1, &["--mode streamed", "cannot clip to 1", "--clip 0", "--grad-place device"]);
    with(&["--grad-place", "disk"]).badly(2, &["--grad-place", "host", "device"]);
    with(&["--recompute", "some"]).badly(2, &["--recompute", "full, linears, mlp, selective, none"]);
    with(&["--recompute", "none:3-1"]).badly(2, &["--recompute", "ends before it begins"]);
    with(&["--recompute", "none:none"]).badly(2, &["--recompute", "none:none names no layer"]);
    with(&["--recompute", "selective:0,1"]).badly(2, &["--recompute", "1 has no HOW", "full:0,full:2-3"]);
    with(&["--recompute", "none:0-1,mlp:1-2"]).badly(1, &["--recompute names layer 1 twice"]);
    with(&["--recompute", "full:all,mlp:0"]).badly(1, &["--recompute names layer 0 twice"]);
    with(&["--recompute", "full,mlp"]).badly(1, &["--recompute has several items without layers"]);
    with(&["--resident", "0-2,1"]).badly(1, &["--resident names layer 1 twice"]);
    with(&["--spill", "first"]).badly(2, &["--spill", "LAYERS must be all"]);
    with(&["--resident", "0-99"]).badly(1, &["--resident names layer 99", "4 layers"]);
    with(&["--slots", "1"]).badly(2, &["--slots", "at least 2", "double buffering"]);
    with(&["--slabs", "1"]).badly(2, &["--slabs", "at least 2"]);
    with(&["--sweeps", "0"]).badly(2, &["--sweeps", "at least 1"]);
    with(&["--device", "cpu", "--gemm-table", "gemm.json"])
        .badly(1, &["--gemm-table is for CUDA devices", "--device cpu computes on the CPU"]);
    with(&["--verbose"]).badly(2, &["--verbose", "--quiet"]);
    with(&["--lr", "-1"]).badly(1, &["learning rate"]);
    with(&["--min-lr", "1"]).badly(1, &["final learning rate (min-lr) is 1"]);
    with(&["--steps", "5", "--warmup", "6"]).badly(1, &["warmup"]);
    with(&["--beta1", "1"]).badly(1, &["beta1"]);
    with(&["--clip", "-1"]).badly(1, &["clip"]);
    with(&["--seq-len", "2048"]).badly(1, &["2048", "max_position_embeddings, 1024"]);
}

#[test]
fn places_that_cannot_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    write_text(&here.join("text.txt"));
    let with = |more: &[&str]| train(here, &[&["--data", "text.txt", "--steps", "1"], more].concat());
    fs::write(here.join("file"), "").unwrap();
    with(&["--out", "file"]).badly(1, &["file", "Not a directory"]);
    with(&["--out", "file/out"]).badly(1, &["file/out"]);
    fs::remove_file(here.join("file")).unwrap();
    with(&["--out", "/proc/out"]).badly(1, &["/proc/out"]);
    fs::create_dir(here.join("mine")).unwrap();
    fs::write(here.join("mine/thesis.txt"), "years of work").unwrap();
    with(&["--out", "mine"]).badly(1, &["mine", "thesis.txt", "earlier export"]);
    assert_eq!(names(&here.join("mine")), ["thesis.txt"]);
    with(&["--checkpoint-dir", "mine"]).badly(1, &["mine", "thesis.txt", "not a folder of checkpoints"]);
    assert_eq!(names(&here.join("mine")), ["thesis.txt"]);
    with(&["--log", "/proc/no/log.jsonl"]).badly(1, &["/proc/no"]);
    with(&["--trace", "/proc/no/trace.json"]).badly(1, &["/proc/no"]);
    assert_eq!(names(here), ["mine", "text.txt"]);
}

/// Writing fails in the middle of the weights. A limit on file sizes stands for a full disk.
#[test]
fn an_export_that_fails_half_way() {
    let dir = furnished();
    let here = dir.path();
    let before = fs::read(here.join("model/model.safetensors")).unwrap();
    for out in ["model", "out"] {
        // Without the trap, which exec inherits, the limit would kill the process.
        let ran: Ran = Command::new("sh")
            .args(["-c", "trap '' XFSZ; ulimit -f 200; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_horizon")])
            .args(short(&["--data", "text.txt", "--steps", "1", "--out", out]))
            .current_dir(here)
            .output()
            .unwrap()
            .into();
        ran.badly(1, &["cannot export to", out, "too large"]);
        assert_eq!(names(here), ["model", "text.txt"]);
    }
    assert!(fs::read(here.join("model/model.safetensors")).unwrap() == before);
}

/// A disk that is too small from the start, and one that fills up during the run. Needs a small
/// file system of its own; skipped, with a message, where it cannot be mounted.
#[test]
fn a_full_disk() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    write_text(&here.join("text.txt"));
    fs::create_dir(here.join("disk")).unwrap();
    let on_disk = |size: &str, script: &str| -> Option<Ran> {
        let script = format!(
            "mount -t tmpfs -o size={size} none disk || exit 77\n{script}\nstatus=$?\nls -A disk\nexit $status"
        );
        let ran: Ran = Command::new("unshare")
            .args(["--map-root-user", "--mount", "sh", "-c", &script, env!("CARGO_BIN_EXE_horizon")])
            .current_dir(here)
            .output()
            .ok()?
            .into();
        let refused = ran.code == Some(77) || ran.err.contains("unshare:");
        if refused {
            println!("skipped: no file system of its own here ({})", ran.err.trim());
        }
        (!refused).then_some(ran)
    };
    let run = format!("\"$0\" {} --data text.txt --out disk/out", super::SHORT.join(" "));
    let records =
        format!("\"$0\" {} --data text.txt --log disk/log --trace disk/trace", super::SHORT.join(" "));
    let Some(full) = on_disk("4k", &format!("{records} --steps 60 && cat disk/log >&2")) else { return };
    assert_eq!(full.out, "log\n", "{}", full.err);
    let (warnings, lines): (Vec<&str>, Vec<&str>) =
        full.err.lines().partition(|line| line.starts_with("warning: "));
    assert!(warnings.iter().any(|line| line.contains("disk/log") && line.contains("without a log")));
    assert!(warnings.iter().any(|line| line.contains("disk/trace") && line.contains("no trace")));
    assert!(
        !lines.is_empty() && lines.iter().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok())
    );
    let Some(small) = on_disk("1m", &format!("{run} --steps 1")) else { return };
    assert_eq!(small.out, "");
    small.badly(1, &["disk/out", "needs 1.5 MiB of disk space", "1.0 MiB are free"]);
    let filling = format!(
        "{run} --steps 400 --log disk/log & child=$!\nuntil [ -s disk/log ]; do sleep 0.01; done\n\
         cat /dev/zero > disk/filler 2>/dev/null\nkill -INT $child\nwait $child"
    );
    let filled = on_disk("3m", &filling).expect("it could before");
    assert_eq!(filled.out, "filler\nlog\n");
    filled.badly(1, &["cannot export to", "disk/out", "No space left"]);
}
