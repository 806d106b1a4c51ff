//! What the queue does with writers that fail, tear lines, or do not come back.

use std::sync::{Arc, mpsc};

use super::*;

/// Takes up to `room` bytes, then says that the disk is full.
#[derive(Default)]
struct Disk {
    written: Vec<u8>,
    room: usize,
}

impl Disk {
    fn with_room(room: usize) -> Self {
        Self {
            room,
            ..Self::default()
        }
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.written).unwrap()
    }
}

impl Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(self.room - self.written.len());
        if n == 0 {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        self.written.extend_from_slice(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn notice(lost: u64, why: &str) -> Vec<u8> {
    format!("lost {lost}: {why}\n").into_bytes()
}

fn write(queue: &Queue, out: &mut impl Write) {
    queue.write_some(out, Duration::ZERO, &notice);
}

#[test]
fn lines_come_out_whole_and_in_order() {
    let queue = Queue::new();
    let mut disk = Disk::with_room(1000);
    queue.push(b"one\n");
    queue.push(b"two\n");
    write(&queue, &mut disk);
    queue.push(b"three\n");
    write(&queue, &mut disk);
    write(&queue, &mut disk);
    assert_eq!(disk.text(), "one\ntwo\nthree\n");
    assert_eq!(queue.state.lock().bytes, 0);
}

#[test]
fn what_a_full_disk_did_not_take_is_told_where_it_is_missing() {
    let queue = Queue::new();
    let mut disk = Disk::with_room(6);
    for line in ["one\n", "two\n", "three\n"] {
        queue.push(line.as_bytes());
    }
    write(&queue, &mut disk);
    for _ in 0..5 {
        queue.push(b"four\n");
        write(&queue, &mut disk);
    }
    assert_eq!(disk.text(), "one\ntw");
    disk.room = 1000;
    queue.push(b"five\n");
    write(&queue, &mut disk);
    assert_eq!(
        disk.text(),
        "one\ntw\nlost 7: No space left on device (os error 28)\nfive\n"
    );
    assert_eq!(queue.state.lock().bytes, 0);
}

#[test]
fn the_queue_is_bounded_and_counts_what_it_does_not_take() {
    let queue = Queue::new();
    let line = [b'x'; 1023];
    let line = [&line[..], b"\n"].concat();
    let room = limits::LOG_QUEUE_OUTPUT_BYTES_MAX / line.len();
    for _ in 0..room + 5 {
        queue.push(&line);
    }
    assert!(queue.state.lock().bytes <= limits::LOG_QUEUE_OUTPUT_BYTES_MAX);
    let mut disk = Disk::with_room(usize::MAX / 2);
    write(&queue, &mut disk);
    let lines: Vec<&str> = disk.text().lines().collect();
    assert_eq!(lines.len(), 1 + room);
    assert_eq!(lines[0], "lost 5: the queue was full, for nobody read");
    queue.push(b"again\n");
    write(&queue, &mut disk);
    assert!(disk.text().ends_with("x\nagain\n"), "there is room again");
}

#[test]
fn a_long_line_is_cut_and_says_so() {
    let queue = Queue::new();
    queue.push(&vec![b'x'; 10 * limits::LOG_LINE_BYTES_MAX]);
    let mut disk = Disk::with_room(usize::MAX / 2);
    write(&queue, &mut disk);
    assert_eq!(disk.written.len(), limits::LOG_LINE_BYTES_MAX);
    assert!(disk.text().ends_with("x [cut]\n"));
}

/// A pipe that nobody reads: a write comes back when the other end says so.
struct Pipe {
    entered: mpsc::Sender<()>,
    leave: mpsc::Receiver<()>,
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.entered.send(());
        // The other end is gone once the test has seen enough: then writes succeed at once.
        let _ = self.leave.recv();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn nobody_waits_for_a_pipe_that_is_not_read_and_the_end_waits_no_longer_than_it_may() {
    let (entered, has_entered) = mpsc::channel();
    let (leave, may_leave) = mpsc::channel();
    let queue = Arc::new(Queue::new());
    let writer = std::thread::spawn({
        let queue = queue.clone();
        let mut pipe = Pipe {
            entered,
            leave: may_leave,
        };
        move || {
            for _ in 0..2 {
                queue.write_some(&mut pipe, Duration::from_secs(60), &notice);
            }
        }
    });
    queue.push(b"stuck\n");
    has_entered.recv().unwrap();
    // More than the queue holds, while the write hangs: each returns.
    for _ in 0..2 * limits::LOG_QUEUE_OUTPUT_BYTES_MAX / 1024 {
        queue.push(&[b'x'; 1024]);
    }
    assert!(!queue.flush(Duration::from_millis(10)));
    assert!(queue.state.lock().lost > 0);
    drop(leave);
    writer.join().unwrap();
}

#[test]
fn the_end_waits_for_what_can_be_written_and_not_for_what_cannot() {
    for room in [1000, 0] {
        let queue = Arc::new(Queue::new());
        queue.push(b"last\n");
        let writer = std::thread::spawn({
            let queue = queue.clone();
            move || {
                let mut disk = Disk::with_room(room);
                // As the thread of the log, which ends with the process.
                while Arc::strong_count(&queue) > 1 {
                    queue.write_some(&mut disk, Duration::from_millis(1), &notice);
                }
                disk
            }
        });
        assert!(queue.flush(Duration::from_secs(60)));
        drop(queue);
        let disk = writer.join().unwrap();
        assert_eq!(disk.text(), if room > 0 { "last\n" } else { "" });
    }
}
