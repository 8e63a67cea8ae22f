//! `horizon install`. A fake cargo stands for the build of the library: its shared library is that
//! of this test, its static library prints another version. With `HZ_LONG=1` cargo builds both.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::Command;

use serde_json::json;

use super::Ran;

const VERSION: &str = env!("CARGO_PKG_VERSION");
const MAIN: &str =
    "#include <horizon.h>\n#include <stdio.h>\nint main(void) { return puts(hz_version()) < 0; }\n";
const PROJECT: &str = "
    cmake_minimum_required(VERSION 3.10)
    project(user C)
    find_package(Horizon 0.2 QUIET)
    if(Horizon_FOUND)
      message(FATAL_ERROR \"0.2 is another version\")
    endif()
    find_package(Horizon 0.1 REQUIRED)
    foreach(kind horizon horizon_static)
      add_executable(with_${kind} main.c)
      target_link_libraries(with_${kind} Horizon::${kind})
    endforeach()
";

fn is_long() -> bool {
    std::env::var_os("HZ_LONG").is_some()
}

/// A temporary folder with a C program, and a fake cargo unless the test is long.
struct Sandbox(tempfile::TempDir);

impl Sandbox {
    fn new() -> Sandbox {
        let sandbox = Sandbox(tempfile::tempdir().unwrap());
        sandbox.write("main.c", MAIN);
        sandbox.write("CMakeLists.txt", PROJECT);
        if !is_long() {
            sandbox.fake_cargo();
        }
        sandbox
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn write(&self, path: &str, text: &str) {
        fs::write(self.at(path), text).unwrap();
    }

    fn fake_cargo(&self) {
        self.write("fake.c", "const char *hz_version(void) { return \"of the archive\"; }\n");
        self.sh("cc -c fake.c && ar rcs libhorizon.a fake.o").well();
        let built = std::env::current_exe().unwrap().with_file_name("libhorizon.so");
        let messages = [
            json!({ "message": { "level": "note", "message": "native-static-libs: -lpthread -lm" } }),
            json!({
                "package_id": format!("path+file:///clone#horizon-lm@{VERSION}"),
                "target": { "name": "horizon" },
                "filenames": [built, self.at("libhorizon.a")],
            }),
        ];
        self.write("messages", &messages.map(|message| message.to_string()).join("\n"));
        self.write(
            "cargo",
            &format!("#!/bin/sh\necho \"$@\" > {0}/arguments\ncat {0}/messages\n", self.0.path().display()),
        );
        fs::set_permissions(self.at("cargo"), fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn sh(&self, line: &str) -> Ran {
        Command::new("sh").args(["-euc", line]).current_dir(self.0.path()).output().unwrap().into()
    }

    /// `horizon install` in the sandbox.
    fn install(&self, arguments: &[&str]) -> Ran {
        self.install_with(arguments, &[])
    }

    fn install_with(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Ran {
        let mut command = Command::new(env!("CARGO_BIN_EXE_horizon"));
        command.arg("install").args(arguments).current_dir(self.0.path()).env_remove("DESTDIR");
        if !is_long() {
            command.env("CARGO", self.at("cargo"));
        }
        command.envs(variables.iter().copied()).output().unwrap().into()
    }

    /// Every file and symlink below a folder, with its inode.
    fn files(&self, folder: &str) -> BTreeMap<PathBuf, u64> {
        let (mut found, mut folders) = (BTreeMap::new(), vec![self.at(folder)]);
        while let Some(folder) = folders.pop() {
            for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
                match fs::symlink_metadata(&path).unwrap() {
                    data if data.is_dir() => folders.push(path),
                    data => drop(found.insert(path, data.ino())),
                }
            }
        }
        found
    }
}

/// Returns whether a tool runs. `HZ_REQUIRE_CPP=1` makes its absence a failure.
fn has(tool: &str) -> bool {
    let has = Command::new(tool).arg("--version").output().is_ok_and(|output| output.status.success());
    let must = std::env::var_os("HZ_REQUIRE_CPP").is_some_and(|value| value == "1");
    assert!(has || !must, "HZ_REQUIRE_CPP=1, but {tool} does not run");
    if !has {
        println!("skipped: {tool} does not run; Debian's package {tool} has it");
    }
    has
}

#[test]
fn c_programs_find_the_installed_library() {
    let sandbox = Sandbox::new();
    sandbox.install(&["--prefix", "first"]).well();
    let dynamic = sandbox.sh("readelf -d first/lib/libhorizon.so").well().out;
    let (minor, _) = VERSION.rsplit_once('.').unwrap();
    assert!(
        dynamic.contains(&format!("[libhorizon.so.{minor}]")) && dynamic.contains("NODELETE"),
        "{dynamic}"
    );
    assert!(sandbox.sh("first/bin/horizon --version").well().out.contains(VERSION));
    if is_long() {
        assert_eq!(sandbox.sh("nm first/lib/libhorizon.so 2>&1 || true").out.lines().count(), 1, "stripped");
    }
    let of_archive = if is_long() { format!("{VERSION}\n") } else { "of the archive\n".to_owned() };
    if has("pkg-config") {
        let config = "$(PKG_CONFIG_PATH=first/lib/pkgconfig pkg-config --cflags --libs horizon";
        let shared = format!("cc main.c {config}) -Wl,-rpath,$PWD/first/lib -o shared && ./shared");
        assert_eq!(sandbox.sh(&shared).well().out, format!("{VERSION}\n"));
        let archive = format!(
            "cc main.c {config} --static | sed s/-lhorizon/-l:libhorizon.a/) -o archive && ./archive"
        );
        assert_eq!(sandbox.sh(&archive).well().out, of_archive);
    }
    sandbox.sh("mv first moved").well();
    if has("pkg-config") {
        let moved = "PKG_CONFIG_PATH=moved/lib/pkgconfig pkg-config --define-prefix --libs --cflags horizon";
        let found = sandbox.sh(moved).well().out;
        assert!(found.contains("moved/lib") && !found.contains("first"), "{found}");
    }
    if has("cmake") {
        let cmake = "cmake -B build -DCMAKE_PREFIX_PATH=$PWD/moved && cmake --build build";
        sandbox.sh(cmake).well();
        assert_eq!(sandbox.sh("build/with_horizon").well().out, format!("{VERSION}\n"));
        assert_eq!(sandbox.sh("build/with_horizon_static").well().out, of_archive);
    }
}

#[test]
fn an_install_is_staged_repeated_and_removed() {
    let sandbox = Sandbox::new();
    let place = ["--prefix", "/opt/hz", "--libdir", "lib/x86_64-linux-gnu", "--includedir", "/opt/include"];
    let staged = [&place[..], &["--destdir", "stage"]].concat();
    let listed = sandbox.install(&[&staged[..], &["--dry-run"]].concat()).well().out;
    assert!(!sandbox.at("stage").exists(), "a dry run writes nothing");
    sandbox.install(&staged).well();
    let first = sandbox.files("stage");
    let mut listed: Vec<PathBuf> = listed.lines().map(PathBuf::from).collect();
    listed.sort_unstable();
    assert!(first.keys().eq(&listed), "{first:?}");
    for path in [
        "opt/include/horizon.h",
        "opt/hz/share/man/man1/horizon-train.1",
        "opt/hz/share/doc/horizon/LICENSE",
        "opt/hz/share/doc/horizon/formats.md",
        "opt/hz/share/doc/horizon/examples/tokens.c",
        "opt/hz/share/horizon/install.list",
    ] {
        assert!(sandbox.at("stage").join(path).is_file(), "{path}");
    }
    let config =
        fs::read_to_string(sandbox.at("stage/opt/hz/lib/x86_64-linux-gnu/pkgconfig/horizon.pc")).unwrap();
    for line in ["prefix=/opt/hz", "libdir=${prefix}/lib/x86_64-linux-gnu", "includedir=/opt/include"] {
        assert!(config.lines().any(|found| found == line), "no {line} in {config}");
    }

    // The same staging folder, from the environment. A file that is lost or changed is written again.
    let again = |changed| {
        let ran = sandbox.install_with(&place, &[("DESTDIR", "stage")]).well();
        assert!(ran.out.contains(&format!(" {changed} of them new or changed\n")), "{}", ran.out);
        ran.err
    };
    again(0);
    assert_eq!(sandbox.files("stage"), first, "a second install changes nothing");
    let (header, licence) = ("stage/opt/include/horizon.h", "stage/opt/hz/share/doc/horizon/LICENSE");
    sandbox.write(header, "/* mine */");
    fs::remove_file(sandbox.at(licence)).unwrap();
    let warned = again(2);
    assert!(warned.contains("warning: replaced ") && warned.contains(header), "{warned}");

    // A changed file stays until it is removed by hand; files of others stay.
    sandbox.write(header, "/* mine */");
    sandbox.write("stage/opt/other", "of another package");
    let uninstall = ["--prefix", "/opt/hz", "--destdir", "stage", "--uninstall"];
    let listed = sandbox.install(&[&uninstall[..], &["--dry-run"]].concat()).well().out;
    assert_eq!(listed.lines().count(), first.len());
    sandbox.install(&uninstall).badly(1, &[header, "1 file stays", "remove it by hand"]);
    fs::remove_file(sandbox.at(header)).unwrap();
    assert!(sandbox.install(&uninstall).well().out.contains("; 1 of 1 files were missing"));
    assert_eq!(sandbox.files("stage").into_keys().collect::<Vec<_>>(), [sandbox.at("stage/opt/other")]);
    assert!(!sandbox.at("stage/opt/hz").exists(), "folders that were created are removed");
    sandbox.install(&uninstall).badly(1, &["install.list", "--prefix"]);
}

#[test]
fn files_that_a_new_version_no_longer_has_are_removed() {
    let sandbox = Sandbox::new();
    sandbox.install(&["--prefix", "here"]).well();
    let (list, old) = (sandbox.at("here/share/horizon/install.list"), sandbox.at("here/lib/old.so"));
    std::os::unix::fs::symlink("libhorizon.so", &old).unwrap();
    let before = fs::read_to_string(&list).unwrap();
    fs::write(&list, format!("{before}link:libhorizon.so lib/old.so\n")).unwrap();
    sandbox.install(&["--prefix", "here"]).well();
    assert!(fs::symlink_metadata(&old).is_err());
    assert_eq!(fs::read_to_string(&list).unwrap(), before);
    for (text, word) in
        [("0 /old", "line 1 names no prefix"), ("prefix /\n0 ../x", "line 2 names no installed file")]
    {
        fs::write(&list, text).unwrap();
        sandbox.install(&["--prefix", "here", "--uninstall"]).badly(1, &["install.list", word]);
    }
}

#[test]
fn a_copy_is_removed_without_the_original() {
    let sandbox = Sandbox::new();
    sandbox.install(&["--prefix", "one"]).well();
    let one = sandbox.files("one");
    sandbox.sh("cp -a one two && rm two/lib/libhorizon.so two/bin/horizon").well();
    let removed = sandbox.install(&["--prefix", "two", "--uninstall"]).well().out;
    assert!(removed.contains(&format!("; 2 of {} files were missing", one.len() - 1)), "{removed}");
    assert!(!sandbox.at("two").exists());
    assert_eq!(sandbox.files("one"), one);

    // Files outside the prefix belong to the original alone.
    sandbox
        .install(&["--prefix", "one", "--includedir", &sandbox.at("headers").display().to_string()])
        .well();
    sandbox.sh("cp -a one two && ln -s one three").well();
    for arguments in [&["--prefix", "two"][..], &["--prefix", "two", "--uninstall"]] {
        sandbox.install(arguments).badly(1, &["horizon.h", "--prefix ", "/one"]);
    }
    assert_eq!(sandbox.files("headers").len(), 2);
    sandbox.install(&["--prefix", "three", "--uninstall"]).well();
    assert!(!sandbox.at("headers").exists());
}

#[test]
fn an_install_that_failed_halfway_is_removed_or_repeated() {
    if is_long() {
        return;
    }
    // A fake cargo that is in the way: a folder at the path of the last file, and a killed install.
    let sandbox = Sandbox::new();
    let cargo = fs::read_to_string(sandbox.at("cargo")).unwrap();
    let left =
        "mkdir -p x/bin/horizon x/lib; touch x/lib/.libhorizon.a.partial-1 x/lib/.libhorizon.a.partial-x\n";
    sandbox.write("cargo", &format!("{cargo}cd {}; {left}", sandbox.0.path().display()));
    sandbox.install(&["--prefix", "x"]).badly(1, &["cannot write ", "x/bin/horizon"]);
    assert!(
        !sandbox.at("x/lib/.libhorizon.a.partial-1").exists() && sandbox.at("x/lib/libhorizon.a").exists()
    );
    sandbox.install(&["--prefix", "x"]).badly(1, &["x/bin/horizon is not a file"]);
    sandbox.install(&["--prefix", "x", "--uninstall"]).badly(1, &["x/bin/horizon stays", "1 file stays"]);
    assert_eq!(sandbox.files("x").len(), 2, "the list, and a file of others");
    sandbox.sh("rmdir x/bin/horizon && rm x/lib/.l*").well();
    sandbox.write("cargo", &cargo);
    sandbox.install(&["--prefix", "x"]).well();

    let folder = fs::File::open(sandbox.at("x/share/horizon")).unwrap();
    folder.lock().unwrap();
    for arguments in [&["--prefix", "x"][..], &["--prefix", "x", "--uninstall"]] {
        sandbox.install(arguments).badly(1, &["another `horizon install`"]);
    }
    drop(folder);
    sandbox.install(&["--prefix", "x", "--uninstall"]).well();
    assert_eq!(sandbox.files("x").len(), 0);
}

#[test]
fn the_printed_commands_work_in_a_folder_with_spaces() {
    let sandbox = Sandbox::new();
    let report = sandbox.install(&["--prefix", "with a space"]).well().out;
    let command = |name: &str| {
        let line = report.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_once("cmake -D").map_or(line, |(_, options)| options).trim().to_owned()
    };
    if has("pkg-config") {
        sandbox.sh(&format!("{} && ./a.out", command("C "))).well();
    }
    sandbox.sh(&format!("{} --version", command("command"))).well();
    sandbox.sh(&command("uninstall")).well();
    assert!(!sandbox.at("with a space").exists());
}

#[test]
fn a_failed_install_says_why() {
    let sandbox = Sandbox::new();
    // Root, too, cannot write there.
    sandbox.install(&["--prefix", "/sys/horizon"]).badly(1, &["/sys/horizon", "--prefix ~/.local", "sudo"]);
    sandbox.install(&["--prefix", "~/x"]).badly(1, &["--prefix is `~/x`", "$HOME"]);
    sandbox.install(&["--prefix", "a$b"]).badly(1, &["--prefix is `a$b`", "quotes, #, $"]);
    sandbox.install(&["--prefix", "main.c/x"]).badly(1, &["cannot write ", "/main.c is not a folder"]);
    sandbox.sh("mkdir -p clone/include clone/tests/c/examples && touch clone/include/horizon.h").well();
    let clone = sandbox.install_with(&["--prefix", "clone"], &[("CARGO_MANIFEST_DIR", "clone")]);
    clone.badly(1, &["clone/include/horizon.h is a source file", "--prefix"]);
    assert_eq!(sandbox.files("clone").len(), 1);
    sandbox.install(&["--prefix", "x", "--libdir", "../lib"]).badly(1, &["--libdir", "`..`"]);
    let gone = sandbox.install_with(&["--prefix", "x"], &[("CARGO_MANIFEST_DIR", "/nowhere")]);
    gone.badly(1, &["/nowhere", "in a clone"]);
    if !is_long() {
        let arguments = fs::read_to_string(sandbox.at("arguments")).unwrap();
        assert!(
            arguments.contains(" --locked ") && arguments.contains(" --no-default-features "),
            "{arguments}"
        );
        sandbox.write("messages", "");
        sandbox.install(&["--prefix", "x"]).badly(1, &["no horizon", VERSION]);
        sandbox.write("cargo", "#!/bin/sh\nexit 101\n");
        sandbox.install(&["--prefix", "x"]).badly(1, &["cannot build the library", "101"]);
        fs::remove_file(sandbox.at("cargo")).unwrap();
        sandbox.install(&["--prefix", "x"]).badly(1, &["cannot build the library", "does not start"]);
    }
    assert!(!sandbox.at("x").exists());
}
