use super::*;

fn chain(error: &FileError) -> String {
    let source = std::error::Error::source(error).map(|source| format!(": {source}"));
    format!("{error}{}", source.unwrap_or_default())
}

#[test]
fn a_content_survives_reopening_and_leaves_nothing_beside_it_but_the_lock() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c");
    let file = LockedFile::open("cursor file", &path).unwrap();
    assert_eq!(file.read().unwrap(), None);
    file.replace(b"one").unwrap();
    file.replace(b"two").unwrap();
    drop(file);
    let names: std::collections::BTreeSet<_> =
        fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["c", "c.lock"].map(Into::into).into());
    assert_eq!(LockedFile::open("x", &path).unwrap().read().unwrap(), Some(b"two".to_vec()));
}

#[test]
fn two_users_of_one_file_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c");
    let first = LockedFile::open("cursor file", &path).unwrap();
    let error = LockedFile::open("cursor file", &path).unwrap_err();
    assert_eq!(chain(&error), format!("cursor file {} is in use by another process", path.display()));
    drop(first);
    assert!(LockedFile::open("cursor file", &path).is_ok());
}

#[cfg(unix)]
#[test]
fn a_lock_that_was_removed_is_taken_again_or_found_to_be_another_ones() {
    let dir = tempfile::tempdir().unwrap();
    let (path, lock) = (dir.path().join("c"), dir.path().join("c.lock"));
    let first = LockedFile::open("cursor file", &path).unwrap();
    first.replace(b"one").unwrap();
    fs::remove_file(&lock).unwrap();
    first.replace(b"two").unwrap();
    let error = chain(&LockedFile::open("cursor file", &path).unwrap_err());
    assert!(error.ends_with("is in use by another process"), "{error}");
    // Another process takes the lock before the first one has noticed.
    fs::remove_file(&lock).unwrap();
    let second = LockedFile::open("cursor file", &path).unwrap();
    let error = chain(&first.replace(b"three").unwrap_err());
    assert!(error.ends_with("is in use by another process"), "{error}");
    second.replace(b"four").unwrap();
    assert_eq!(second.read().unwrap(), Some(b"four".to_vec()));
    // The lock is released.
    drop((first, second));
    assert!(LockedFile::open("cursor file", &path).is_ok());
}

/// A real disk that is full: a file system of 64 KiB in memory.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_found_at_the_start_or_leaves_what_was_there() {
    struct Mounted(tempfile::TempDir);
    impl Drop for Mounted {
        fn drop(&mut self) {
            let _ = std::process::Command::new("umount").arg(self.0.path()).status();
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let mut mount = std::process::Command::new("mount");
    let mount = mount.args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"]).arg(dir.path()).output();
    if !mount.is_ok_and(|mount| mount.status.success()) {
        eprintln!("SKIPPED: a full disk needs the right to mount; the next test makes files full instead");
        return;
    }
    let disk = Mounted(dir);
    let (path, filler) = (disk.0.path().join("c"), disk.0.path().join("filler"));
    let fill = || {
        let mut file = File::create(&filler).unwrap();
        while file.write_all(&[0; 512]).is_ok() {}
    };
    let file = LockedFile::open("cursor file", &path).unwrap();
    file.replace(b"one").unwrap();
    fill();
    let error = file.replace(b"two").unwrap_err();
    assert!(chain(&error).contains("No space left on device"), "{}", chain(&error));
    assert_eq!(file.read().unwrap(), Some(b"one".to_vec()));
    assert_eq!(names(disk.0.path()), ["c", "c.lock", "filler"]);
    drop(file);
    let error = chain(&LockedFile::open("cursor file", &path).unwrap_err());
    assert!(error.contains("No space left on device"), "{error}");
    fs::remove_file(&filler).unwrap();
    let file = LockedFile::open("cursor file", &path).unwrap();
    file.replace(b"two").unwrap();
    assert_eq!(file.read().unwrap(), Some(b"two".to_vec()));
    assert_eq!(names(disk.0.path()), ["c", "c.lock"]);
}

/// Run by the test below in a process that can no longer write to files.
#[cfg(unix)]
#[test]
#[ignore = "run by another test, in a process of its own"]
fn in_a_process_without_room() {
    let path = PathBuf::from(std::env::var_os("RELAY_TEST_FILE").unwrap());
    let error = chain(&LockedFile::open("cursor file", path).unwrap_err());
    assert!(error.contains("cannot write its temporary file: File too large"), "{error}");
    println!("refused without room");
}

#[cfg(unix)]
#[test]
fn a_process_that_has_no_room_left_is_told_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c");
    LockedFile::open("cursor file", &path).unwrap().replace(b"one").unwrap();
    let output = std::process::Command::new("sh")
        // The signal is ignored, so the write fails as on a full disk.
        .args(["-c", "trap '' XFSZ; ulimit -f 0; exec \"$0\" --exact files::tests::in_a_process_without_room --ignored --nocapture | cat"])
        .arg(std::env::current_exe().unwrap())
        .env("RELAY_TEST_FILE", &path)
        .output()
        .unwrap();
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("refused without room"), "{said}");
    assert_eq!(fs::read(&path).unwrap(), b"one");
    assert_eq!(names(dir.path()), ["c", "c.lock"]);
}

#[test]
fn a_write_that_fails_leaves_what_was_there() {
    let dir = tempfile::tempdir().unwrap();
    let file = LockedFile::open("state file", dir.path().join("c")).unwrap();
    file.replace(b"one").unwrap();
    // Nothing can be written with that name, as on a disk that is full or read-only.
    fs::create_dir(dir.path().join("c.tmp")).unwrap();
    assert!(LockedFile::open("other file", dir.path().join("d")).is_ok());
    let error = chain(&file.replace(b"two").unwrap_err());
    assert!(error.contains("cannot create its temporary file: "), "{error}");
    assert_eq!(file.read().unwrap(), Some(b"one".to_vec()));
    fs::remove_dir(dir.path().join("c.tmp")).unwrap();
    file.replace(b"two").unwrap();
    assert_eq!(file.read().unwrap(), Some(b"two".to_vec()));
}

#[test]
fn a_directory_that_is_not_there_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let error = chain(&LockedFile::open("cursor file", dir.path().join("no/c")).unwrap_err());
    assert!(error.contains("cannot find where it is to be: "), "{error}");
}

#[test]
fn a_file_without_a_bound_is_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c");
    let file = LockedFile::open("cursor file", &path).unwrap();
    File::create(&path).unwrap().set_len(MAX_BYTES + 1).unwrap();
    assert!(chain(&file.read().unwrap_err()).contains("over 64 MiB"));
}

#[cfg(unix)]
#[test]
fn a_private_file_is_its_owners() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c");
    fs::write(dir.path().join("c.tmp"), "left behind").unwrap();
    let file = LockedFile::open("cache", &path).unwrap().private();
    file.replace(b"secret").unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_mark_at_the_start_is_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c");
    for (bytes, read) in
        [("\u{feff}text", "text"), ("\u{feff}", ""), ("\u{feff}\u{feff}x", "\u{feff}x"), ("x", "x")]
    {
        fs::write(&path, bytes).unwrap();
        let file = LockedFile::open("cursor file", &path).unwrap();
        assert_eq!(file.read().unwrap().unwrap(), read.as_bytes());
        assert_eq!(fs::read_to_string(&path).unwrap(), bytes, "opening changes nothing");
    }
}

#[test]
fn what_could_not_be_replaced_later_is_refused_at_once_and_nothing_is_left_behind() {
    let dir = tempfile::tempdir().unwrap();
    for there in [false, true] {
        let sub = dir.path().join(format!("{there}"));
        fs::create_dir_all(sub.join("c.tmp")).unwrap();
        if there {
            fs::write(sub.join("c"), "one").unwrap();
        }
        let error = LockedFile::open("cursor file", sub.join("c")).unwrap_err();
        assert!(chain(&error).contains("cannot create its temporary file: "), "{}", chain(&error));
        fs::remove_dir(sub.join("c.tmp")).unwrap();
        assert_eq!(names(&sub), if there { vec!["c"] } else { vec![] });
        assert!(LockedFile::open("cursor file", sub.join("c")).is_ok());
    }
    let error = chain(&LockedFile::open("cursor file", dir.path()).unwrap_err());
    assert!(error.contains("cannot "), "{error}");
}

#[test]
fn a_place_that_cannot_be_taken_is_named_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let file = LockedFile::open("cursor file", dir.path().join("c")).unwrap();
    for code in [16, 18] {
        let error = file.not_replaced(io::Error::from_raw_os_error(code));
        assert!(matches!(error, FileError::Mounted { .. }), "{error:?}");
        assert!(error.to_string().contains("mount the directory that holds it"), "{error}");
    }
    assert!(matches!(file.not_replaced(ErrorKind::PermissionDenied.into()), FileError::Io { .. }));
}

#[test]
fn a_write_that_fails_leaves_no_temporary_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c");
    let file = LockedFile::open("cursor file", &path).unwrap();
    // No file can replace a directory that is not empty.
    fs::create_dir_all(path.join("sub")).unwrap();
    assert!(chain(&file.replace(b"two").unwrap_err()).contains("cannot replace it: "));
    assert_eq!(names(dir.path()), ["c", "c.lock"]);
}

/// Without the check, the first save would replace a device by a file.
#[cfg(unix)]
#[test]
fn what_is_no_regular_file_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    std::os::unix::fs::symlink(&socket, dir.path().join("link")).unwrap();
    for name in ["socket", "link"] {
        let error = LockedFile::open("cursor file", dir.path().join(name)).unwrap_err();
        assert!(chain(&error).contains("cannot read: it is not a regular file"), "{error}");
    }
    assert_eq!(names(dir.path()), ["link", "socket"]);
}

#[cfg(unix)]
mod links {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn two_names_of_one_file_are_one_file() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link, other) =
            (dir.path().join("real"), dir.path().join("link"), dir.path().join("links"));
        fs::create_dir(&real).unwrap();
        symlink("real/c", &link).unwrap();
        symlink(&real, &other).unwrap();
        // In the first round the file does not exist yet.
        for content in [b"one", b"two"] {
            let file = LockedFile::open("cursor file", &link).unwrap();
            file.replace(content).unwrap();
            for name in [real.join("c"), other.join("c"), link.clone()] {
                let error = LockedFile::open("cursor file", &name).unwrap_err();
                assert!(matches!(error, FileError::InUse { .. }), "{error}");
                assert_eq!(fs::read(&name).unwrap(), content);
            }
            assert!(fs::symlink_metadata(&link).unwrap().is_symlink(), "the link is still one");
            assert_eq!(file.path(), link);
        }
        assert_eq!(names(dir.path()), ["link", "links", "real"]);
        assert_eq!(names(&real), ["c", "c.lock"]);
    }

    #[test]
    fn a_link_that_leads_elsewhere_later_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        symlink("one", &link).unwrap();
        let file = LockedFile::open("cursor file", &link).unwrap();
        file.replace(b"1").unwrap();
        fs::remove_file(&link).unwrap();
        symlink("two", &link).unwrap();
        let error = chain(&file.replace(b"2").unwrap_err());
        assert!(error.contains("leads elsewhere"), "{error}");
        assert_eq!(names(dir.path()), ["link", "one", "one.lock"]);
        let loops = dir.path().join("loop");
        symlink("loop", &loops).unwrap();
        assert!(LockedFile::open("cursor file", &loops).is_err());
    }

    #[test]
    fn the_mode_of_a_file_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c");
        fs::write(&path, "one").unwrap();
        for mode in [0o600, 0o640, 0o664] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            LockedFile::open("cursor file", &path).unwrap().replace(b"two").unwrap();
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode);
        }
    }
}
