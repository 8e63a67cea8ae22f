//! README.md: its commands are executed, its tables and outputs compared with the programs that
//! write them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use horizon::hf::FAMILIES;
use horizon::model::{shape, shape_names};

use super::data::{chat_model, write_chats};
use super::{Ran, horizon, horizon_in};

const README: &str = include_str!("../../README.md");
const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Commands that take minutes, and what shortens them here. `.ci/fresh` runs the first as it
/// stands.
const SHORTER: [(&str, &str); 1] = [("horizon train", "horizon train --steps 2")];

/// The sequence length of the model here.
const SEQ_LEN: &str = "--seq-len 96";

/// Commands that built and run this test: `.ci/run` has them.
const BUILT: [&str; 2] = ["cargo build --release", "cargo test --release"];

/// The fenced blocks of a document, in order: language and text.
fn blocks(document: &str) -> Vec<(&str, String)> {
    let (mut found, mut open) = (Vec::new(), false);
    for line in document.lines() {
        match line.strip_prefix("```") {
            Some(_) if open => open = false,
            Some(language) => {
                found.push((language, String::new()));
                open = true;
            }
            None if open => found.last_mut().unwrap().1.extend([line, "\n"]),
            None => {}
        }
    }
    found
}

/// Runs a command of the document in a folder, by the shell.
fn run(folder: &Path, command: &str) -> Ran {
    let path = format!("{}:{}", folder.join("target/release").display(), std::env::var("PATH").unwrap());
    let mut shell = Command::new("sh");
    shell.args(["-euc", command]).current_dir(folder).env("PATH", path);
    // Cargo's, which has the library of another build.
    shell.env_remove("LD_LIBRARY_PATH").output().unwrap().into()
}

/// A folder with all that the commands name: a model, conversations, sources, and the command and
/// the library of this build.
fn prepare(here: &Path) {
    chat_model(here);
    // Short sequences, so that steps are short.
    let path = here.join("model/config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["max_position_embeddings"] = 96.into();
    fs::write(path, config.to_string()).unwrap();
    write_chats(&here.join("chats.jsonl"));
    let train = ["train", "--model", "model", "--init", "--data", "chats.jsonl"];
    horizon_in(here, &[&train[..], &["--steps", "1", "--quiet", "--out", "my-model"]].concat()).well();
    let built = here.join("target/release");
    fs::create_dir_all(&built).unwrap();
    symlink(env!("CARGO_BIN_EXE_horizon"), built.join("horizon")).unwrap();
    let library = std::env::current_exe().unwrap().with_file_name("libhorizon.so");
    symlink(library, built.join("libhorizon.so")).unwrap();
    symlink("libhorizon.so", built.join(env!("HZ_SONAME"))).unwrap();
    for source in ["include", "tests", "README.md"] {
        symlink(Path::new(ROOT).join(source), here.join(source)).unwrap();
    }
}

/// The texts of the C programs that the README lists in a table.
fn examples() -> Vec<String> {
    let folder = fs::read_dir(Path::new(ROOT).join("tests/c/examples")).unwrap();
    let paths = folder.map(|entry| entry.unwrap().path());
    paths
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            assert!(README.contains(&format!("| [`{name}`](tests/c/examples/{name}) |")), "{name}");
            fs::read_to_string(&path).unwrap()
        })
        .collect()
}

#[test]
fn the_commands_of_the_readme_run() {
    let dir = tempfile::tempdir().unwrap();
    prepare(dir.path());
    let (mut executed, mut shown) = (0, String::new());
    for (language, text) in blocks(README) {
        match language {
            "sh" => {
                for line in text.lines() {
                    let command =
                        line.split(" # ").next().unwrap().trim().replace("cargo run --release --", "horizon");
                    if BUILT.contains(&&*command) {
                        let ci = fs::read_to_string(Path::new(ROOT).join(".ci/run")).unwrap();
                        assert!(ci.lines().any(|line| line.starts_with(&command)), ".ci/run runs {command}");
                        continue;
                    }
                    let shorter = SHORTER.iter().find(|(whole, _)| *whole == command);
                    let shorter = shorter.map_or(&*command, |(_, shorter)| shorter);
                    let ran = run(dir.path(), &shorter.replace("--seq-len 1024", SEQ_LEN));
                    assert_eq!(ran.code, Some(0), "{command}\n{}{}", ran.out, ran.err);
                    shown = ran.out;
                    executed += 1;
                }
            }
            // The output of the command before it.
            "text" => match text.strip_suffix("…\n") {
                Some(beginning) => {
                    assert_eq!(shown.get(..beginning.len()), Some(beginning), "the output differs")
                }
                None => assert_eq!(shown, text, "the output differs"),
            },
            "c" => assert!(examples().contains(&text), "README.md shows a C program that is not an example"),
            // A sample of what differs from run to run.
            "console" => {}
            _ => panic!("README.md has a block of `{language}`, which nothing here runs"),
        }
    }
    let picture = fs::read_to_string(Path::new(ROOT).join("benches/results/plot-plan.svg")).unwrap();
    assert!(
        fs::read_to_string(dir.path().join("plan.svg")).unwrap() == picture,
        "plot-plan.svg is another plan's"
    );
    assert!(executed >= 10, "{executed} commands");
    for made in ["tuned/config.json", "run/latest", "run.svg", "my-second-model/config.json"] {
        assert!(dir.path().join(made).exists(), "{made}");
    }
}

#[test]
fn tables_of_the_readme_are_those_that_programs_wrote() {
    let mut tables = 0;
    for line in README.lines() {
        let Some(file) = line.strip_prefix("<!-- ").and_then(|line| line.strip_suffix(" -->")) else {
            continue;
        };
        let written = fs::read_to_string(Path::new(ROOT).join(file)).unwrap();
        assert!(README.contains(&format!("{line}\n{written}")), "README.md differs from {file}");
        tables += 1;
    }
    assert_eq!(tables, 2);
}

/// The names in a cell: `a-1b`, `-2b` are a-1b and a-2b.
fn shapes(cell: &str) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for name in cell.split(", ").map(|name| name.trim_matches('`')).filter(|name| !name.is_empty()) {
        let short = name.starts_with('-');
        let before = names.last().filter(|_| short).map_or("", |last| last.rsplit_once('-').unwrap().0);
        names.push(format!("{before}{name}"));
    }
    names
}

#[test]
fn the_table_of_families_has_every_family_and_the_shapes_of_each() {
    let table = README.split("\n| family | `model_type` |").nth(1).unwrap().split("\n\n").next().unwrap();
    let rows = table.lines().skip(2).map(|line| line.trim_matches('|').split('|').map(str::trim));
    let rows: Vec<Vec<&str>> = rows.map(Iterator::collect).collect();
    let mut known: Vec<_> = shape_names().filter(|name| !name.starts_with("dense-")).collect();
    assert_eq!(rows.len(), FAMILIES.len());
    for (row, family) in rows.iter().zip(&FAMILIES) {
        assert_eq!(row[..2], [family.name, &format!("`{}`", family.model_type)]);
        for name in shapes(row[3]) {
            let at = known.iter().position(|known| *known == name).unwrap_or_else(|| panic!("{name}"));
            known.remove(at);
            assert!(family.can_describe(&shape(&name).unwrap()), "{name} is no {}", family.name);
        }
    }
    assert_eq!(known, [""; 0], "README.md does not name these shapes");
    let help = horizon(&["train", "--help"]).well().out;
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    let names = FAMILIES.iter().map(|family| family.model_type).collect::<Vec<_>>().join(", ");
    assert!(help.contains(&format!("model_type: {names}.")), "{help}");
}

#[test]
fn links_of_the_readme_lead_somewhere() {
    let mut links = 0;
    for part in README.split("](").skip(1) {
        let target = part.split(')').next().unwrap();
        assert!(Path::new(ROOT).join(target).exists(), "README.md links {target}");
        links += 1;
    }
    assert!(links > 10);
}
