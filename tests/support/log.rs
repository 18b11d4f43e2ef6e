//! The library's log lines on this thread.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use tracing::Level;

/// Does some work, and calls `hear` with each line that it logs, from `level` on.
pub fn hearing<T>(level: Level, hear: impl FnMut(&str) + Send + 'static, work: impl FnOnce() -> T) -> T {
    let ear = Ear(Arc::new(Mutex::new(hear)));
    let subscriber = tracing_subscriber::fmt().with_max_level(level).with_ansi(false).with_writer(move || ear.clone());
    tracing::subscriber::with_default(subscriber.finish(), work)
}

/// Does some work, and returns its log lines with the result.
pub fn heard<T>(level: Level, work: impl FnOnce() -> T) -> (T, Vec<String>) {
    let lines = Arc::<Mutex<Vec<String>>>::default();
    let kept = Arc::clone(&lines);
    let result = hearing(level, move |line| kept.lock().unwrap().push(line.to_owned()), work);
    let lines = lines.lock().unwrap().clone();
    (result, lines)
}

struct Ear<F>(Arc<Mutex<F>>);

impl<F> Clone for Ear<F> {
    fn clone(&self) -> Self {
        Ear(Arc::clone(&self.0))
    }
}

impl<F: FnMut(&str)> Write for Ear<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (self.0.lock().unwrap())(&String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
