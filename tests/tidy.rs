//! Rules that the compiler does not check: the order of levels, file sizes, `unsafe`, leftovers.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The levels, lowest first. A module may use modules of lower rows; within its own row only those
/// of [`SAME_ROW`].
const LEVELS: [&[&str]; 12] = [
    &["base"],
    &["sys"],
    &["host", "device"],
    &["ops"],
    &["optim"],
    &["model"],
    &["schedule"],
    &["plan"],
    &["engine"],
    &["data", "hf", "checkpoint"],
    &["train"],
    &["capi"],
];

/// Allowed uses within a row: (user, used). The device contract copies between host spans and
/// device spans.
const SAME_ROW: [(&str, &str); 1] = [("device", "host")];

/// Folders and files that may contain `unsafe`.
const UNSAFE: [&str; 11] = [
    "src/sys/",
    "src/host/",
    "src/device/",
    "src/ops/",
    "src/optim/",
    "src/capi/",
    "src/engine/store.rs",
    "src/engine/operation_memory.rs",
    "src/engine/backend.rs",
    "src/engine/calibrate/lanes.rs",
    "src/engine/calibrate/memory.rs",
];

/// Folders and files that may contain an option of the command. Messages of all others, which C and
/// Rust programs get, name settings by `base::Name`.
const OPTIONS: [&str; 5] = ["src/bin/", "src/data/", "src/train/", "src/base/", "src/checkpoint/agree.rs"];

/// Files that open others without `host::input`, and which.
const READ_ELSEWHERE: [(&str, &str); 5] = [
    ("src/host/", "files of the kernel; folders, to sync them"),
    ("src/sys/", "files of the kernel"),
    ("src/data/token_writer.rs", "a folder, to sync it"),
    ("src/train/log.rs", "a log that a run continues"),
    ("src/bin/horizon/install/folders.rs", "a folder, to lock it"),
];

const LINES_MAX: usize = 600;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every file under `folder` with one of the endings, with its text, sorted.
fn files(folder: &str, endings: &[&str]) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for path in entries.map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| endings.iter().any(|ending| e == *ending)) {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path.strip_prefix(root()).unwrap().to_path_buf(), text));
            }
        }
    }
    found.sort();
    found
}

/// The module of a source file: `src/engine/store.rs` → `engine`.
fn module(path: &Path) -> Option<String> {
    let name = path.components().nth(1)?.as_os_str().to_str()?;
    let name = name.strip_suffix(".rs").unwrap_or(name);
    LEVELS.iter().flat_map(|row| row.iter()).any(|m| *m == name).then(|| name.to_string())
}

fn height(module: &str) -> Option<usize> {
    LEVELS.iter().position(|row| row.contains(&module))
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with("//")
}

#[test]
fn a_module_uses_only_lower_levels() {
    let mut faults = Vec::new();
    let mut uses = 0;
    for (path, text) in files("src", &["rs"]) {
        let Some(user) = module(&path) else { continue };
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !is_comment(line)) {
            for tail in line.split("crate::").skip(1) {
                let used: String = tail.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let Some(used_height) = height(&used) else { continue };
                uses += 1;
                let allowed = used == user
                    || used_height < height(&user).unwrap()
                    || SAME_ROW.contains(&(user.as_str(), used.as_str()));
                if !allowed {
                    faults.push(format!("{}:{}: {user} uses {used}", path.display(), number + 1));
                }
            }
        }
    }
    assert!(uses > 50, "only {uses} uses found: this test no longer reads the sources correctly");
    assert!(
        faults.is_empty(),
        "modules that use a level which is not lower than their own:\n{}",
        faults.join("\n")
    );
}

#[test]
fn every_module_has_a_level() {
    let text = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("pub mod ").and_then(|rest| rest.strip_suffix(';')) {
            assert!(height(name).is_some(), "src/lib.rs: module {name} has no level in this test");
        }
    }
}

#[test]
fn files_are_at_most_600_lines_long() {
    let code = ["rs", "cu", "cuh", "cc", "c", "cpp", "h", "py"];
    let long: Vec<String> = ["src", "csrc", "tests", "benches"]
        .iter()
        .flat_map(|folder| files(folder, &code))
        .filter(|(_, text)| text.lines().count() > LINES_MAX)
        .map(|(path, text)| format!("{}: {} lines", path.display(), text.lines().count()))
        .collect();
    assert!(long.is_empty(), "files over {LINES_MAX} lines; split them:\n{}", long.join("\n"));
}

/// True if a line contains `unsafe` code that needs an argument. Strings in our sources do not
/// contain the word.
fn opens_unsafe(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or("");
    code.split(|c: char| !(c.is_alphanumeric() || c == '_')).any(|word| word == "unsafe")
        && !code.contains("unsafe(no_mangle)")
        && !code.contains("unsafe extern")
        && !code.contains("unsafe fn(")
}

#[test]
fn unsafe_is_confined_and_argued() {
    let mut faults = Vec::new();
    for (path, text) in files("src", &["rs"]) {
        let lines: Vec<&str> = text.lines().collect();
        let name = path.to_string_lossy();
        let may = UNSAFE.iter().any(|allowed| name.starts_with(allowed));
        // The contract of a trait's function is documented at the trait.
        let mut implements = false;
        for (index, line) in lines.iter().enumerate() {
            let at = format!("{name}:{}", index + 1);
            if !line.is_empty() && !line.starts_with([' ', '/', '#']) {
                implements = line.contains("impl") && line.contains(" for ");
            }
            if is_comment(line) || !opens_unsafe(line) {
                continue;
            }
            if !may {
                faults.push(format!("{at}: this file may not contain `unsafe`"));
            }
            if implements && line.trim_start().starts_with("unsafe fn") {
                continue;
            }
            // The comment directly above, across attributes; for `unsafe fn` the `# Safety` section of its
            // doc.
            let above = lines[..index].iter().rev().map(|l| l.trim_start());
            let argued = above
                .take_while(|l| {
                    l.starts_with("//") || l.starts_with("#[") || l.starts_with(".") || l.ends_with('(')
                })
                .any(|l| l.starts_with("// SAFETY:") || l.starts_with("/// # Safety"));
            if !argued && !line.contains("// SAFETY:") {
                faults.push(format!("{at}: `unsafe` without a `// SAFETY:` above it: {}", line.trim()));
            }
        }
    }
    assert!(faults.is_empty(), "`unsafe` code that breaks the rules:\n{}", faults.join("\n"));
}

/// Lines of the sources, without comments and unit tests, that contain one of the texts, except in one file.
fn lines_with(texts: &[&str], folder: &str, except: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in files(folder, &["rs"]).into_iter().filter(|(path, _)| path != Path::new(except)) {
        let text = text.split("\n#[cfg(test)]\nmod tests").next().unwrap();
        let lines = text.lines().enumerate().filter(|(_, line)| !is_comment(line));
        let with = lines.filter(|(_, line)| texts.iter().any(|text| line.contains(text)));
        found
            .extend(with.map(|(number, line)| format!("{}:{}: {}", path.display(), number + 1, line.trim())));
    }
    found
}

#[test]
fn threads_are_started_in_one_place() {
    let texts = ["thread::spawn", "thread::Builder", "scope.spawn", "spawn_scoped("];
    let found = lines_with(&texts, "src", "src/host/thread.rs");
    assert!(found.is_empty(), "use host::start_thread or host::start_scoped_thread:\n{}", found.join("\n"));
}

#[test]
fn files_are_opened_to_read_in_one_place() {
    let texts = [
        " File::open(",
        "(File::open(",
        "fs::read(",
        "fs::read_to_string(",
        "OpenOptions",
        ".read(true)",
        "Mmap",
    ];
    let mut found = lines_with(&texts, "src", "src/host/input.rs");
    found.retain(|line| {
        let of_tests = line.contains("tests.rs:") || line.contains("/tests/");
        !of_tests && !READ_ELSEWHERE.iter().any(|(place, _)| line.starts_with(place))
    });
    assert!(found.is_empty(), "use host::input:\n{}", found.join("\n"));
}

#[test]
fn callbacks_may_unwind() {
    let found = lines_with(&["extern \"C\" fn("], "src/capi", "");
    assert!(
        found.is_empty(),
        "function pointers of C are `extern \"C-unwind\"` and are called by process::callback:\n{}",
        found.join("\n")
    );
}

#[test]
fn messages_of_the_library_have_no_options_of_the_command() {
    for (path, text) in files("src", &["rs"]) {
        if OPTIONS.iter().any(|may| path.starts_with(may)) {
            continue;
        }
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !is_comment(line)) {
            let mut dashes = line.match_indices("--");
            let option = dashes.any(|(at, _)| line[at + 2..].starts_with(|c: char| c.is_ascii_lowercase()));
            assert!(!option, "{}:{}: use base::Name: {line}", path.display(), number + 1);
        }
    }
}

#[test]
fn sources_have_no_leftovers() {
    // The words are assembled here so that this file does not match.
    let loose: Vec<String> = [
        ["TO", "DO"],
        ["FIX", "ME"],
        ["todo", "!("],
        ["unimplemented", "!("],
        ["#[ig", "nore"],
        ["dbg", "!("],
    ]
    .map(|halves| halves.concat())
    .into();
    let mut faults = Vec::new();
    for folder in ["src", "csrc", "tests", "benches", "include"] {
        for (path, text) in files(folder, &["rs", "cu", "cuh", "cc", "c", "cpp", "h", "py", "sh"]) {
            for (number, line) in text.lines().enumerate() {
                if loose.iter().any(|word| line.contains(word.as_str())) {
                    faults.push(format!("{}:{}: {}", path.display(), number + 1, line.trim()));
                }
            }
        }
    }
    assert!(faults.is_empty(), "leftovers:\n{}", faults.join("\n"));
}

#[test]
fn the_header_declares_the_exported_functions() {
    let header = fs::read_to_string(root().join("include/horizon.h")).unwrap();
    let mut declared: Vec<&str> = header
        .lines()
        .filter(|line| line.starts_with("HZ_API") || line.starts_with("HZ_CHECKED"))
        .filter_map(|line| {
            line.split(|c: char| !(c.is_alphanumeric() || c == '_'))
                .find(|w| w.starts_with("hz_") && line.contains(&format!("{w}(")))
        })
        .collect();
    declared.sort_unstable();
    let sources = files("src/capi", &["rs"]);
    // Functions, and structs with the functions that initialize them: `hz_x_t, hz_x_init {`.
    let mut exported: Vec<&str> = sources
        .iter()
        .flat_map(|(_, text)| text.lines())
        .filter_map(|line| {
            let function =
                line.split_once("extern \"C\" fn ").and_then(|(_, rest)| rest.split(['(', '<']).next());
            function.or_else(|| line.split_once("_t, ").and_then(|(_, rest)| rest.strip_suffix(" {")))
        })
        .filter(|name| name.starts_with("hz_"))
        .collect();
    exported.sort_unstable();
    assert!(!declared.is_empty(), "include/horizon.h declares nothing");
    assert_eq!(declared, exported, "include/horizon.h and src/capi differ");
}

/// The values in quotes of a list of `deny.toml`; of a table, those of its first field.
fn rules(section: &str, list: &str) -> Vec<String> {
    let text = fs::read_to_string(root().join("deny.toml")).unwrap();
    let (_, section) = text.split_once(&format!("\n[{section}]\n")).unwrap();
    let (_, list) = section.split_once(&format!("{list} = [\n")).unwrap();
    let (list, _) = list.split_once("\n]").unwrap();
    list.lines().map(|line| line.split('"').nth(1).unwrap().to_owned()).collect()
}

/// The rules of `cargo deny` that need neither that program nor a network.
#[test]
fn dependencies_have_known_licences_sources_and_versions() {
    // Lines such as `half v2.7.1|MIT OR Apache-2.0`; behind the version of other sources than the
    // registry of Rust is their place.
    let arguments = ["tree", "--locked", "--offline", "--workspace", "--all-features", "--prefix=none"];
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .args(["--edges=normal,build", "--format={p}|{l}|"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (licences, skipped) = (rules("licenses", "allow"), rules("bans", "skip"));
    let allowed = |one: &str| licences.iter().any(|licence| licence == one.trim_matches(['(', ')', ' ']));
    let mut found = Vec::new();
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in String::from_utf8(output.stdout).unwrap().lines().filter(|line| !line.is_empty()) {
        let mut fields = line.split('|');
        let (package, licence) = (fields.next().unwrap(), fields.next().unwrap());
        let words: Vec<&str> = package.split(' ').collect();
        let (name, version, place) = (words[0], words[1], words.get(2));
        match place {
            Some(place) if place.starts_with(&format!("({}", root().display())) => continue,
            Some(&"(proc-macro)") | None => {}
            Some(place) => found.push(format!("{name}: source {place}")),
        }
        let choices = licence.replace('/', " OR ");
        if !choices.split(" AND ").all(|terms| terms.split(" OR ").any(allowed)) {
            found.push(format!("{name}: licence {licence:?}"));
        }
        versions.entry(name.to_owned()).or_default().insert(version[1..].to_owned());
    }
    assert!(versions.len() > 100, "cargo names {} dependencies", versions.len());
    for (name, versions) in versions {
        let is_skipped = |version: &&String| {
            let of = |rule: &String| {
                rule.split_once('@').is_some_and(|(of, from)| {
                    of == name && version.strip_prefix(from).is_some_and(|rest| rest.starts_with('.'))
                })
            };
            skipped.iter().any(of)
        };
        if versions.iter().filter(|version| !is_skipped(version)).count() > 1 {
            found.push(format!("{name}: versions {}", Vec::from_iter(versions).join(", ")));
        }
    }
    assert!(found.is_empty(), "deny.toml does not allow:\n{}", found.join("\n"));
}
