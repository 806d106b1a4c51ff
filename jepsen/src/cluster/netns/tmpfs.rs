//! Small disks: a tmpfs for each node, and the ballast that fills one.
//!
//! What holds here:
//!
//! - A disk is unmounted when its [`Disk`] is dropped. The name of its source tells which process
//!   it was mounted for, so that a later one can unmount it when that process is gone.
//! - While a disk is full it stays full: what a node frees is filled within a few milliseconds.

use std::{
    ffi::CString,
    fs::{self, File},
    io::{self, Write},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::mpsc,
    thread::JoinHandle,
    time::Duration,
};

use super::topology::owner_of;
use crate::terminal;

/// Name of the file that takes the room.
const BALLAST: &str = "ballast";
/// Most bytes that are written to it at once.
const PIECE_BYTES: usize = 256 << 10;
/// Time between two attempts to write more.
const REFILL_EVERY: Duration = Duration::from_millis(5);

/// A tmpfs that is mounted.
#[derive(Debug)]
pub(super) struct Disk {
    at: PathBuf,
    ballast: Option<Ballast>,
}

impl Disk {
    /// Mounts a tmpfs of so many bytes at a directory. `source` tells in the list of mounts whose
    /// it is.
    pub fn mount(source: &str, at: &Path, bytes: u64) -> io::Result<Self> {
        let c_source = CString::new(source)?;
        let c_at = CString::new(at.as_os_str().as_bytes())?;
        let options = CString::new(format!("size={bytes},mode=0700"))?;
        let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
        // SAFETY: all pointers are to strings that end with a zero and outlive the call.
        let result = unsafe {
            libc::mount(
                c_source.as_ptr(),
                c_at.as_ptr(),
                c"tmpfs".as_ptr(),
                flags,
                options.as_ptr().cast(),
            )
        };
        match result {
            0 => Ok(Self {
                at: at.to_owned(),
                ballast: None,
            }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Fills all that is free, and what becomes free later. Returns when nothing is free.
    pub fn fill(&mut self) -> io::Result<()> {
        if self.ballast.is_none() {
            self.ballast = Some(Ballast::load(&self.at.join(BALLAST))?);
        }
        Ok(())
    }

    /// Gives the room back.
    pub fn relieve(&mut self) -> io::Result<()> {
        match self.ballast.take() {
            Some(ballast) => ballast.drop_off(),
            None => Ok(()),
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Its file goes with the tmpfs.
        let _ = self.relieve();
        if let Err(error) = unmount(&self.at) {
            terminal::note(format_args!(
                "cannot unmount {}: {error}",
                self.at.display()
            ));
        }
    }
}

/// A file that grows as long as there is room.
#[derive(Debug)]
struct Ballast {
    file: PathBuf,
    /// Dropping it ends the thread.
    stop: mpsc::Sender<()>,
    thread: JoinHandle<io::Result<()>>,
}

impl Ballast {
    fn load(path: &Path) -> io::Result<Self> {
        let mut file = File::create(path)?;
        if let Err(error) = fill(&mut file) {
            let _ = fs::remove_file(path);
            return Err(error);
        }
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("ballast".to_owned())
            .spawn(move || {
                while stopped.recv_timeout(REFILL_EVERY) == Err(mpsc::RecvTimeoutError::Timeout) {
                    fill(&mut file)?;
                }
                Ok(())
            })?;
        Ok(Self {
            file: path.to_owned(),
            stop,
            thread,
        })
    }

    fn drop_off(self) -> io::Result<()> {
        drop(self.stop);
        let filled = self.thread.join().expect("the thread does not panic");
        fs::remove_file(&self.file)?;
        filled
    }
}

/// Writes until there is no room.
fn fill(file: &mut File) -> io::Result<()> {
    let piece = vec![0; PIECE_BYTES];
    loop {
        match file.write(&piece) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::StorageFull => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Takes a mount out of the tree at once; the kernel frees it when its last file is closed.
fn unmount(at: &Path) -> io::Result<()> {
    let at = CString::new(at.as_os_str().as_bytes())?;
    // SAFETY: the pointer is to a string that ends with a zero and outlives the call.
    match unsafe { libc::umount2(at.as_ptr(), libc::MNT_DETACH) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Unmounts the disks that were mounted for processes of which `whose` is true.
pub(super) fn unmount_all_of(whose: &dyn Fn(u32) -> bool) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    for (source, at) in disks(&mounts) {
        if owner_of(source).is_some_and(whose)
            && let Err(error) = unmount(&at)
        {
            terminal::note(format_args!("cannot unmount {}: {error}", at.display()));
        }
    }
}

/// The tmpfs in a list of mounts as in `/proc/self/mounts`: source and place.
fn disks(mounts: &str) -> impl Iterator<Item = (&str, PathBuf)> {
    mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        let (source, at, kind) = (fields.next()?, fields.next()?, fields.next()?);
        (kind == "tmpfs").then(|| (source, PathBuf::from(unescaped(at))))
    })
}

/// The kernel writes blanks and backslashes in paths as a backslash and three octal digits.
fn unescaped(text: &str) -> std::ffi::OsString {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let octal = after.get(..3).and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 8).ok()
        });
        match (first, octal) {
            (b'\\', Some(byte)) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    std::os::unix::ffi::OsStringExt::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_found_in_the_list_of_mounts() {
        let mounts = "proc /proc proc rw 0 0\n\
                      hf-12-n1 /tmp/a\\040b\\134c tmpfs rw,size=4k 0 0\n\
                      hf-12-n2 /tmp/x ext4 rw 0 0\n";
        let found: Vec<_> = disks(mounts).collect();
        assert_eq!(found, [("hf-12-n1", PathBuf::from("/tmp/a b\\c"))]);
    }
}
