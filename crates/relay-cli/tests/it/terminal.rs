//! A pseudo-terminal of any width, and the binary's output on it.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// A terminal in which a command runs. Dropping it kills the command.
pub(crate) struct Terminal {
    ours: File,
    child: Child,
    seen: String,
}

impl Terminal {
    /// Starts the command with standard output and standard error on a terminal with this many columns.
    #[track_caller]
    pub(crate) fn start(command: Command, columns: u16) -> Self {
        Self::begin(command, columns, false)
    }

    /// As [`Self::start`], with standard input on it too.
    #[track_caller]
    pub(crate) fn start_with_input(command: Command, columns: u16) -> Self {
        Self::begin(command, columns, true)
    }

    #[track_caller]
    fn begin(mut command: Command, columns: u16, input: bool) -> Self {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudo-terminal");
        grantpt(&ours).and_then(|()| unlockpt(&ours)).expect("a pseudo-terminal");
        resize(&ours, columns);
        let name = ptsname(&ours, Vec::new()).expect("its name");
        let theirs = File::options().read(true).write(true).open(name.to_str().expect("a path"));
        let theirs: OwnedFd = theirs.expect("its other end").into();
        let stdin = if input { theirs.try_clone().expect("a file descriptor").into() } else { Stdio::null() };
        command.stdin(stdin).stdout(theirs.try_clone().expect("a file descriptor")).stderr(theirs);
        let child = command.spawn().expect("the binary of this package starts");
        Self { ours: ours.into(), child, seen: String::new() }
    }

    pub(crate) fn resize(&self, columns: u16) {
        resize(&self.ours, columns);
    }

    /// Reads until the text so far matches, and returns it.
    #[track_caller]
    pub(crate) fn until(&mut self, fits: impl Fn(&str) -> bool) -> &str {
        while !fits(&self.seen) {
            assert!(self.read(), "the command has ended: {}", self.seen);
        }
        &self.seen
    }

    /// Sends the command a signal by its name.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args([&format!("-{name}"), &pid]).status();
        assert!(sent.expect("there is a kill").success());
    }

    /// Waits for the end. Returns the exit code and everything that was written.
    pub(crate) fn wait(mut self) -> (Option<i32>, String) {
        while self.read() {}
        (self.child.wait().expect("it ends").code(), std::mem::take(&mut self.seen))
    }

    /// Reads more; false at the end, when the other side is closed.
    fn read(&mut self) -> bool {
        let mut buffer = [0; 4096];
        let read = self.ours.read(&mut buffer).unwrap_or(0);
        self.seen += &String::from_utf8_lossy(&buffer[..read]).replace("\r\n", "\n");
        read > 0
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn resize(terminal: &impl std::os::fd::AsFd, columns: u16) {
    let size = Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(terminal, size).expect("a terminal takes a size");
}
