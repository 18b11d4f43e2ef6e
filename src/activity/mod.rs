//! The current work and its duration: on a terminal a line that is redrawn in place, elsewhere an occasional message.
//!
//! Code names its work with [`begin`]; the one wait (`host::wait`) names what it waits for.

pub mod event;

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use crate::secrets::masked;
use crate::terminal;
use event::Event;

/// How often the line is redrawn on a terminal.
const FRAME: Duration = Duration::from_millis(200);

/// Shorter work gets no line.
const AT_ONCE: Duration = Duration::from_millis(500);

/// The longest silence where no line is drawn.
const HEARTBEAT: Duration = Duration::from_secs(30);

/// How often programs get a progress event.
const PROGRESS: Duration = Duration::from_secs(5);

/// How long a detail stays valid. Code that waits repeats it ten times a second.
const FRESH: Duration = Duration::from_secs(1);

/// The current work.
#[derive(Debug)]
struct Work {
    /// Without its secrets hidden: few of these words are ever shown.
    what: String,
    began: Instant,
    thread: ThreadId,
    /// What it waits for, or how far it is, and when the code last reported this.
    detail: Option<(String, Instant)>,
    /// The time of the last progress event.
    reported: Duration,
}

static NOW: Mutex<Option<Work>> = Mutex::new(None);

/// Whether someone watches, and if so, whether the line is drawn.
static DRAWS: OnceLock<bool> = OnceLock::new();

fn now() -> MutexGuard<'static, Option<Work>> {
    NOW.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Shows the current work from now on. `draws`: on a terminal, where one line is redrawn.
pub fn watch(draws: bool) {
    if DRAWS.set(draws).is_ok() {
        // Without the thread there is no line, but everything else works.
        let _ = std::thread::Builder::new().name("activity".into()).spawn(move || {
            loop {
                std::thread::park_timeout(FRAME);
                tick(draws);
            }
        });
    }
}

/// Whether the line is drawn, so that messages need not repeat it.
pub fn is_drawn() -> bool {
    DRAWS.get().is_some_and(|draws| *draws) && now().is_some()
}

/// Work that continues until this is dropped.
#[derive(Debug)]
#[must_use]
pub struct Activity;

/// Begins work on this thread, e.g. "step 7/23 docker". When it ends, the work that it was a part of is not shown again.
pub fn begin(what: &str) -> Activity {
    let thread = std::thread::current().id();
    *now() =
        Some(Work { what: what.to_owned(), began: Instant::now(), thread, detail: None, reported: Duration::ZERO });
    Activity
}

impl Drop for Activity {
    fn drop(&mut self) {
        now().take_if(|work| work.thread == std::thread::current().id());
        terminal::erase();
    }
}

/// Whether someone watches.
pub fn is_watched() -> bool {
    DRAWS.get().is_some()
}

/// Reports what the work of this thread waits for, or how far it is. Work in the background reports nothing.
pub fn detail(text: &str) {
    if !is_watched() {
        return;
    }
    if let Some(work) = now().as_mut().filter(|work| work.thread == std::thread::current().id()) {
        work.detail = Some((masked(text), Instant::now()));
    }
}

/// The work of this thread as the start of a message about a part of it: "step 7/23 docker: ", or nothing.
pub fn prefix() -> String {
    let now = now();
    let own = now.as_ref().filter(|work| work.thread == std::thread::current().id());
    own.map_or(String::new(), |work| format!("{}: ", masked(&work.what)))
}

fn tick(draws: bool) {
    let mut now = now();
    let Some(work) = now.as_mut().filter(|work| work.began.elapsed() >= AT_ONCE) else { return };
    let elapsed = work.began.elapsed();
    let detail = work.detail.as_ref().filter(|(_, said)| said.elapsed() < FRESH).map(|(text, _)| text.as_str());
    let what = masked(&work.what);
    let line = line(&what, detail, elapsed);
    if event::is_read() {
        if elapsed >= work.reported + PROGRESS {
            work.reported = elapsed;
            let doing = detail.map(str::to_owned);
            event::emit(Event::Progress { what, doing, seconds: elapsed.as_secs() });
        }
    } else if draws {
        terminal::draw(&line);
    } else if elapsed >= HEARTBEAT && terminal::silence() >= HEARTBEAT {
        drop(now);
        tracing::info!("{line}");
    }
}

fn line(what: &str, detail: Option<&str>, elapsed: Duration) -> String {
    let detail = detail.map_or(String::new(), |detail| format!(": {detail}"));
    let seconds = elapsed.as_secs();
    let took = if seconds < 60 { format!("{seconds} s") } else { length(Duration::from_secs(seconds)) };
    format!("{what}, {took}{detail}")
}

/// A bar that shows how much is done.
pub fn bar(done: u64, all: u64) -> String {
    const WIDTH: u64 = 20;
    let filled = done.saturating_mul(WIDTH).checked_div(all).unwrap_or(0).min(WIDTH);
    (0..WIDTH).map(|n| if n < filled { '=' } else { ' ' }).collect()
}

/// A length of time for people: `35 ms`, `12 s`, `2 min 5 s`, `1 h 2 min`.
pub fn length(length: Duration) -> String {
    let seconds = length.as_secs();
    match seconds {
        0 => format!("{} ms", length.subsec_millis()),
        1..60 if length.subsec_nanos() == 0 => format!("{seconds} s"),
        1..60 => format!("{seconds}.{} s", length.subsec_millis() / 100),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// A length of time for programs, in milliseconds.
pub fn millis(length: Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_for_people() {
        for (ms, text) in [
            (0, "0 ms"),
            (349, "349 ms"),
            (12_000, "12 s"),
            (12_345, "12.3 s"),
            (59_999, "59.9 s"),
            (125_000, "2 min 5 s"),
            (3_725_000, "1 h 2 min"),
        ] {
            assert_eq!(length(Duration::from_millis(ms)), text);
        }
    }

    #[test]
    fn the_line_says_what_and_for_how_long() {
        let seconds = Duration::from_secs;
        assert_eq!(line("step 7/23 docker", None, AT_ONCE), "step 7/23 docker, 0 s");
        assert_eq!(line("step 7/23 docker", None, seconds(2)), "step 7/23 docker, 2 s");
        let detail = Some("`apt-get install`, 70 s");
        let expected = "step 7/23 docker, 1 min 15 s: `apt-get install`, 70 s";
        assert_eq!(line("step 7/23 docker", detail, seconds(75)), expected);
    }

    #[test]
    fn work_belongs_to_its_thread_and_ends() {
        // Another test's thread may begin other work at any moment.
        let work = begin("pulling");
        std::thread::spawn(|| assert_eq!(prefix(), "")).join().unwrap();
        drop(work);
        assert_eq!(prefix(), "");
    }
}
