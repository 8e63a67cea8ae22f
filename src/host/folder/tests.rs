use std::os::unix::fs::symlink;
use std::sync::Barrier;
use std::thread;

use super::*;
use crate::base::{Error, Result, Status};
use crate::host::start_scoped_thread;

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Returns true for a folder with only files named `one` and `two`.
fn may_replace(folder: &Path) -> Result<bool> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(false) };
    let names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
    match names.iter().find(|name| *name != "one" && *name != "two") {
        Some(name) => Err(Error::argument(format!("{} is foreign", name.display()))),
        None => Ok(!names.is_empty()),
    }
}

fn plan(folder: &Path) -> NewFolder {
    NewFolder::plan(folder, 0, may_replace).unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o777
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn put(path: &Path, content: &str) -> Result<()> {
    replace_file(path, |out| out.write_all(content.as_bytes()).map_err(|error| Error::writing(path, &error)))
}

#[test]
fn a_folder_appears_complete_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let new = plan(&dir.path().join("a/b"));
    assert!(names(&dir.path().join("a")).is_empty());
    let fill = |content: &'static str| {
        move |filling: &Filling| {
            filling.whole("one", content.as_bytes())?;
            let two = filling.sized("two", 6)?;
            two.write_at(3, b"def")?;
            two.write_at(0, b"abc")?;
            two.sync()
        }
    };
    new.write(fill("first")).unwrap();
    assert_eq!(names(new.folder()), ["one", "two"]);
    assert_eq!(fs::read(new.folder().join("two")).unwrap(), b"abcdef");

    let failing = |_: &Filling| Err(Error::argument("no"));
    assert!(new.write(failing).is_err());
    assert_eq!(fs::read(new.folder().join("one")).unwrap(), b"first");
    new.write(fill("second")).unwrap();
    assert_eq!(fs::read(new.folder().join("one")).unwrap(), b"second");
    assert_eq!(names(&dir.path().join("a")), ["b"]);
}

#[test]
fn a_dropped_folder_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let filling = plan(&dir.path().join("a")).begin().unwrap();
    filling.whole("one", b"first").unwrap();
    assert_eq!(names(dir.path()).len(), 1);
    drop(filling);
    assert!(names(dir.path()).is_empty());
}

#[test]
fn a_folder_of_somebody_else_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let new = plan(&dir.path().join("a"));
    let foreign = |_: &Filling| {
        fs::create_dir(new.folder()).unwrap();
        fs::write(new.folder().join("thesis"), "").unwrap();
        Ok(())
    };
    assert!(new.write(foreign).unwrap_err().message().contains("thesis is foreign"));
    assert_eq!(names(dir.path()), ["a"]);
    assert_eq!(names(new.folder()), ["thesis"]);
}

/// The existing folder passes the first check, and fails the second.
#[test]
fn a_folder_that_was_swapped_is_put_back() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("a");
    let second = |path: &Path| match path.ends_with("a") {
        true => Ok(true),
        false => may_replace(path),
    };
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("thesis"), "").unwrap();
    let new = NewFolder::plan(&folder, 0, second).unwrap();
    let error = new.write(|filling| filling.whole("one", b"")).unwrap_err();
    assert_eq!(error.message(), "thesis is foreign");
    assert_eq!(names(dir.path()), ["a"]);
    assert_eq!(names(&folder), ["thesis"]);
}

#[test]
fn writers_of_one_folder_do_not_disturb_each_other() {
    const WRITERS: usize = 4;
    let dir = tempfile::tempdir().unwrap();
    let (folder, start) = (dir.path().join("a"), Barrier::new(WRITERS));
    let write = &|number: usize| {
        start.wait();
        for _ in 0..8 {
            let content = [number as u8; 100];
            plan(&folder)
                .write(|filling| filling.whole("one", &content).and_then(|()| filling.whole("two", &content)))
                .unwrap();
        }
    };
    thread::scope(|scope| {
        let start = |number| start_scoped_thread(scope, "writer", move || write(number)).unwrap();
        let writers: Vec<_> = (0..WRITERS).map(start).collect();
        writers.into_iter().for_each(|writer| writer.join().unwrap());
    });
    assert_eq!(names(dir.path()), ["a"]);
    let [one, two] = ["one", "two"].map(|name| fs::read(folder.join(name)).unwrap());
    assert!(one == two && one.len() == 100);
}

#[test]
fn writers_of_one_file_do_not_disturb_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("name");
    let mut first = NewFile::create(&path).unwrap();
    first.put(b"first").unwrap();
    // Opening the second sweeps; the first has a lock.
    put(&path, "second").unwrap();
    assert_eq!(names(dir.path()).len(), 2);
    first.finish().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"first");
    assert_eq!(names(dir.path()), ["name"]);
}

#[test]
fn remains_of_killed_writers_are_swept() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let theirs =
        [".b.partial-1", ".a.partial-x", ".a.partial-1-0", ".a.other-1", ".partial-1", "a.partial-1"];
    let links = [".a.partial-5-0123456789abcdef"];
    for name in [".a.partial-1", ".a.partial-4294967295-0123456789abcdef"].iter().chain(&theirs) {
        fs::write(at(name), "half").unwrap();
    }
    fs::write(at("victim"), "mine").unwrap();
    symlink("victim", at(links[0])).unwrap();
    put(&at("a"), "whole").unwrap();
    let mut left = [&theirs[..], &links, &["a", "victim"]].concat();
    left.sort();
    assert_eq!(names(dir.path()), left);
    // A writer that is alone also removes links, not what they lead to.
    Sweep { sole: true, may_replace: None }.next_to(&at("a"));
    assert!(!at(links[0]).is_symlink() && at("victim").exists());
}

#[test]
fn remains_of_killed_exports_are_swept_or_restored() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let make = |name: &str, file: &str| {
        fs::create_dir(at(name)).unwrap();
        fs::write(at(name).join(file), "").unwrap();
    };
    // A planted folder is not restored.
    make(".a.replaced-6-0123456789abcdef", "thesis");
    plan(&at("a")).write(|filling| filling.whole("one", b"")).unwrap();
    assert_eq!(names(dir.path()), [".a.replaced-6-0123456789abcdef", "a"]);
    fs::remove_dir_all(at("a")).unwrap();
    fs::remove_dir_all(at(".a.replaced-6-0123456789abcdef")).unwrap();
    make(".a.replaced-7-0123456789abcdef", "two");
    plan(&at("a"));
    assert_eq!((names(dir.path()), names(&at("a"))), (vec!["a".to_owned()], vec!["two".to_owned()]));
    make(".a.replaced-7-0123456789abcdef", "one");
    make(".a.replaced-8-0123456789abcdef", "thesis");
    make(".a.replaced", "one");
    make(".a.partial-9-0123456789abcdef", "half");
    symlink("..", at(".a.partial-9-0123456789abcdef/up")).unwrap();
    plan(&at("a"));
    assert_eq!(names(dir.path()), [".a.replaced-8-0123456789abcdef", "a"]);
}

#[test]
fn a_file_is_replaced_completely_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("name");
    for content in ["first", "second, longer", ""] {
        put(&path, content).unwrap();
        assert_eq!(fs::read(&path).unwrap(), content.as_bytes());
    }
    assert_eq!(names(dir.path()), ["name"]);
    let failing = replace_file(&path, |_| Err(Error::argument("no")));
    assert_eq!(failing.unwrap_err().message(), "no");
    assert_eq!(names(dir.path()), ["name"]);
    let nowhere = dir.path().join("no/name");
    check_replaceable(&path).unwrap();
    assert_eq!(names(dir.path()), ["name"]);
    assert!(check_replaceable(dir.path()).unwrap_err().message().contains("it is a folder"));
    for name in ["new/", "new/.", "new/..", "name/"] {
        let error = check_replaceable(&dir.path().join(name)).unwrap_err();
        assert!(error.message().contains("it names a folder"), "{error}");
    }
    assert!(check_replaceable(&nowhere).unwrap_err().message().contains("no/name"));
    assert!(put(&nowhere, "").unwrap_err().message().contains("no/name"));
}

#[test]
fn permissions_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("umask"), "").unwrap();
    put(&at("new"), "").unwrap();
    assert_eq!(mode(&at("new")), mode(&at("umask")));
    for bits in [0o600, 0o444, 0o666] {
        chmod(&at("new"), bits);
        let mut file = NewFile::create(&at("new")).unwrap();
        file.put(b"secret").unwrap();
        let hidden = names(dir.path()).into_iter().find(|name| name.starts_with('.')).unwrap();
        assert_eq!(mode(&at(&hidden)), 0o600);
        file.finish().unwrap();
        assert_eq!(mode(&at("new")), bits);
    }
    fs::create_dir(at("a")).unwrap();
    fs::write(at("a/one"), "").unwrap();
    chmod(&at("a"), 0o750);
    chmod(&at("a/one"), 0o640);
    let files = ["one", "two"];
    plan(&at("a")).write(|filling| files.iter().try_for_each(|name| filling.whole(name, b""))).unwrap();
    assert_eq!(["a", "a/one", "a/two"].map(|name| mode(&at(name))), [0o750, 0o640, mode(&at("umask"))]);
}

#[test]
fn links_are_followed_and_special_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("far")).unwrap();
    fs::write(at("far/old"), "old").unwrap();
    for (link, to) in [("near", "far/old"), ("twice", "near"), ("dangling", "far/none"), ("loop", "loop")] {
        symlink(to, at(link)).unwrap();
    }
    put(&at("twice"), "new").unwrap();
    put(&at("dangling"), "new").unwrap();
    assert!(put(&at("loop"), "new").is_err());
    assert!(["near", "twice", "dangling"].iter().all(|link| at(link).is_symlink()));
    assert_eq!(names(&at("far")), ["none", "old"]);
    assert_eq!(fs::read(at("far/old")).unwrap(), b"new");
    nix::unistd::mkfifo(&at("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    symlink("pipe", at("to pipe")).unwrap();
    let refused = [put(&at("pipe"), ""), put(&at("to pipe"), ""), check_output(&at("pipe"))];
    let in_folder = NewFile::create_in(dir.path(), "pipe").map(drop);
    for error in refused.into_iter().chain([in_folder]).map(Result::unwrap_err) {
        assert!(error.message().contains("a pipe"), "{error}");
        assert_eq!(error.status(), Status::InvalidArgument);
    }
    assert_eq!(names(dir.path()), ["dangling", "far", "loop", "near", "pipe", "to pipe", "twice"]);
    // In a folder whose links are not the user's.
    NewFile::create_in(dir.path(), "twice").unwrap().finish().unwrap();
    assert!(!at("twice").is_symlink() && at("near").is_symlink());
    assert_eq!(fs::read(at("far/old")).unwrap(), b"new");
}

#[test]
fn a_stream_is_written_into_as_it_is() {
    use std::io::Read;
    use std::os::fd::AsRawFd;
    let (mut reader, writer) = io::pipe().unwrap();
    let path = format!("/dev/fd/{}", writer.as_raw_fd());
    check_output(Path::new(&path)).unwrap();
    for text in ["two ", "lines"] {
        write_output(Path::new(&path), |out| {
            out.write_all(text.as_bytes()).map_err(|error| Error::writing(Path::new(&path), &error))
        })
        .unwrap();
    }
    drop(writer);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "two lines");
    write_output(Path::new("/dev/null"), |_| Ok(())).unwrap();
}

#[test]
fn a_lock_file_is_neither_followed_nor_changed() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("victim"), "mine").unwrap();
    symlink("victim", at("link")).unwrap();
    symlink("none", at("dangling")).unwrap();
    nix::unistd::mkfifo(&at("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    for name in ["link", "dangling", "pipe", "."] {
        let error = open_lock(&at(name)).unwrap_err().to_string();
        assert!(error.contains("is not a regular file; remove it"), "{error}");
    }
    open_lock(&at("victim")).unwrap();
    open_lock(&at("new")).unwrap();
    assert_eq!(fs::read(at("victim")).unwrap(), b"mine");
    assert_eq!(names(dir.path()), ["dangling", "link", "new", "pipe", "victim"]);
}

#[test]
fn an_unnamed_file_leaves_no_name() {
    let dir = tempfile::tempdir().unwrap();
    let file = unnamed_file(dir.path()).unwrap();
    assert!(file.metadata().unwrap().is_file() && names(dir.path()).is_empty());
}

#[test]
fn too_little_disk_space_is_refused_before_writing() {
    let dir = tempfile::tempdir().unwrap();
    let error = NewFolder::plan(&dir.path().join("a"), u64::MAX, may_replace).unwrap_err();
    assert_eq!(error.status(), Status::DiskFull);
    let error = plan(&dir.path().join("a")).write(|filling| filling.sized("huge", 1 << 62).map(drop));
    let error = error.unwrap_err();
    assert!(error.message().contains("huge"), "{error}");
    assert!(names(dir.path()).is_empty());
}

#[test]
#[should_panic(expected = "a write exceeds")]
fn a_write_beyond_the_end_panics() {
    let dir = tempfile::tempdir().unwrap();
    let _ = plan(&dir.path().join("a")).write(|filling| filling.sized("two", 6)?.write_at(4, b"def"));
}
