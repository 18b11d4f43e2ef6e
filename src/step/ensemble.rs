//! Decides when the container of a ZooKeeper server may start for the first time, or stop for a replacement.

use std::time::{Duration, Instant};

use serde::Deserialize;

use super::forms;
use crate::error::{Error, Kind, Result};
use crate::host::Host;
use crate::host::wait::Deadline;
use crate::template::{Renderer, Templated};
use crate::titus::zookeeper::{Data, ServerState, Turn, decide_turn};

/// The time limit of one question, which takes milliseconds. A server that has just begun to listen may never answer the
/// connections that it accepted too early (observed with 3.8), so the next try must come soon.
const TRY: Duration = Duration::from_secs(2);

const PAUSE: Duration = Duration::from_millis(200);

/// The ensemble in a role file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawEnsemble {
    servers: Templated<Vec<String>>,
    id: Templated<usize>,
    data: Templated<forms::Path>,
}

/// The servers of a ZooKeeper ensemble, and which of them this node is.
#[derive(Debug, Clone, PartialEq)]
pub struct Ensemble {
    servers: Vec<String>,
    own: usize,
    data: String,
}

impl RawEnsemble {
    pub(super) fn resolve(&self, renderer: &Renderer) -> Result<Ensemble> {
        let (servers, id) = (self.servers.get(renderer)?, self.id.get(renderer)?);
        let own = id.checked_sub(1).filter(|own| *own < servers.len().max(1));
        let own = own.ok_or_else(|| Error::config(format!("server {id} is not one of {}", servers.len())))?;
        Ok(Ensemble { servers, own, data: self.data.get(renderer)?.0 })
    }
}

/// Asks the server at `host:port` for its state.
///
/// # Errors
/// The outer result fails after a signal. The inner one fails when nothing answers, or when something other than ZooKeeper does.
pub fn ask(host: &Host, address: &str) -> Result<Result<ServerState, String>> {
    Ok(host.ask_tcp(address, "srvr", TRY)?.and_then(|text| {
        ServerState::parse(&text).ok_or_else(|| match text.lines().next() {
            Some(line) => format!("the answer is not ZooKeeper's: {line}"),
            None => "the connection was closed without an answer".into(),
        })
    }))
}

/// The server number in an answer to `conf` (ZooKeeper Administrator's Guide, "The Four Letter Words").
pub(crate) fn server_number(text: &str) -> Option<usize> {
    text.lines().find_map(|line| line.trim().strip_prefix("serverId=")?.trim().parse().ok())
}

impl Ensemble {
    /// Waits until this server's container may stop or start. `adopts` says that its data is still
    /// in a container that the program did not create and that served alone.
    ///
    /// # Errors
    /// Fails when data would be lost, and with `NotYet` at the deadline.
    pub fn wait_for_turn(&self, host: &Host, adopts: bool) -> Result<()> {
        self.wait_by_clock(host, adopts, Instant::now)
    }

    /// Waits by this clock, so that a test can have its own.
    fn wait_by_clock(&self, host: &Host, adopts: bool, mut now: impl FnMut() -> Instant) -> Result<()> {
        let mut deadline = Deadline::new("this ZooKeeper server's turn", host.deadlines.wait);
        let (mut before, mut steady_since) = (Vec::new(), now());
        let mut served_alone = vec![false; self.servers.len()];
        loop {
            let mut answers = self.answers(host)?;
            for (answer, alone) in answers.iter_mut().zip(&mut served_alone) {
                *alone |= *answer == ServerState::Standalone;
                // The server is restarting to become a member; it still has the only data.
                if *alone && *answer == ServerState::Nothing {
                    *answer = ServerState::Standalone;
                }
            }
            let asked = now();
            if answers != before {
                (before, steady_since) = (answers.clone(), asked);
            }
            let missing = match decide_turn(&answers, self.own, self.own_data(host, &answers, adopts)?) {
                Turn::Yes => return Ok(()),
                Turn::IfSteady(time) if asked.duration_since(steady_since) >= time => return Ok(()),
                Turn::IfSteady(time) => format!(
                    "all answers must stay the same for {}: a server that does not serve yet may do so soon, and another one may have to restart first",
                    humantime::format_duration(time)
                ),
                Turn::NotYet(missing) => missing,
                Turn::Never(why) => return Err(self.would_lose_data(&why)),
            };
            if !deadline.pause(PAUSE)? {
                return Err(Error::not_yet(deadline.timeout_message())
                    .cause(format!("{missing}\nthe servers are {}", self.describe_servers(&answers)))
                    .fix("follow the cause, and run titus-bootstrap here again; the run stopped nothing"));
            }
        }
    }

    /// Refuses to start this server if that would lose data.
    ///
    /// # Errors
    /// Fails when it would.
    pub fn refuse_loss(&self, host: &Host, adopts: bool) -> Result<()> {
        let answers = self.answers(host)?;
        match decide_turn(&answers, self.own, self.own_data(host, &answers, adopts)?) {
            Turn::Never(why) => Err(self.would_lose_data(&why)),
            _ => Ok(()),
        }
    }

    /// Refuses the number of a new server if a running server disagrees about the order: the list
    /// was reordered, or an instance replaced an earlier one.
    ///
    /// # Errors
    /// Fails when a server reports another number.
    pub fn refuse_numbers(&self, host: &Host) -> Result<()> {
        if self.servers.len() < 2 || self.data_on_disk(host)? == Data::Member {
            return Ok(());
        }
        for (n, server) in self.servers.iter().enumerate().filter(|(n, _)| *n != self.own) {
            // A server that serves alone has the number 0. One that does not answer or serve is ignored.
            let ask_number = || -> Result<Option<usize>> {
                Ok(host
                    .ask_tcp(server, "conf", TRY)?
                    .ok()
                    .and_then(|text| server_number(&text))
                    .filter(|said| *said > 0))
            };
            let mut said = ask_number()?;
            if said.is_none() && ask(host, server)?.is_ok_and(ServerState::is_member) {
                // An election may have ended just now; servers do not answer `conf` during one.
                said = ask_number()?;
            } else if said.is_none() {
                continue;
            }
            if said.is_none() {
                return Err(Error::new(Kind::TemporaryFailure, format!("{server} does not report its number"))
                    .cause("it serves as a member, but its answer to `conf` has no serverId")
                    .fix("run titus-bootstrap there first: its zoo.cfg must have conf in 4lw.commands.whitelist"));
            }
            if let Some(said) = said.filter(|said| *said != n + 1) {
                return Err(Error::config("the ZooKeeper servers are numbered in another order than zookeeper.servers")
                    .cause(format!("{server} is number {said}, but number {} in the list {}", n + 1, self.servers.join(", ")))
                    .fix("keep the existing servers in their order; if they are discovered by tag, give each instance the tag titus:zookeeper-id with its number"));
            }
        }
        Ok(())
    }

    fn answers(&self, host: &Host) -> Result<Vec<ServerState>> {
        self.servers.iter().map(|address| Ok(ask(host, address)?.unwrap_or(ServerState::Nothing))).collect()
    }

    fn own_data(&self, host: &Host, answers: &[ServerState], adopts: bool) -> Result<Data> {
        if adopts || answers.get(self.own) == Some(&ServerState::Standalone) {
            return Ok(Data::Standalone);
        }
        self.data_on_disk(host)
    }

    /// Reads the data's epoch. A server that serves alone writes none. A member writes 0 while it waits, and the leader's epoch,
    /// from 1 on, when it is in step with it (ZooKeeper's QuorumPeer and Learner). Files are named after their first
    /// transaction, whose upper half is the epoch. With epoch 0, a lower half other than 0 comes from a lone server. Snapshot 0 is
    /// that of an empty server; since 3.5, a server writes it before it serves.
    fn data_on_disk(&self, host: &Host) -> Result<Data> {
        let directory = format!("{}/version-2", self.data);
        let epoch = host.read_text(&format!("{directory}/currentEpoch"))?.unwrap_or_default();
        if epoch.trim().parse::<u64>().is_ok_and(|epoch| epoch > 0) {
            return Ok(Data::Member);
        }
        let was_alone = |name: &String| {
            let number = name.strip_prefix("log.").or_else(|| name.strip_prefix("snapshot."));
            let number = number.and_then(|number| u64::from_str_radix(number.split('.').next()?, 16).ok());
            number.is_some_and(|number| (1..1 << 32).contains(&number))
        };
        Ok(if host.list(&directory)?.iter().any(was_alone) { Data::Standalone } else { Data::Fresh })
    }

    fn describe_servers(&self, answers: &[ServerState]) -> String {
        let each = self.servers.iter().zip(answers).enumerate().map(|(n, (server, answer))| {
            let word = match answer {
                ServerState::Standalone => "serves alone",
                ServerState::Member { leads: true, .. } => "leads",
                ServerState::Member { .. } => "serves as a member",
                ServerState::Waiting => "waits for a quorum",
                ServerState::Nothing => "does not answer",
            };
            format!("{}: {server} {word}{}", n + 1, if n == self.own { " (this node)" } else { "" })
        });
        each.collect::<Vec<_>>().join(", ")
    }

    fn would_lose_data(&self, why: &str) -> Error {
        Error::failed("refused to start this ZooKeeper server with these servers: data would be lost")
            .cause(format!("{why}\nthe servers are {}", self.servers.join(", ")))
            .fix(format!(
                "decide which server's data to keep; on the others, stop the container zookeeper and move {} away; then run titus-bootstrap on all",
                self.data
            ))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// A server that gives this answer to each question. Returns its `host:port`.
    pub fn server(answer: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let _ = stream.read(&mut [0; 4]);
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        address
    }

    /// The answer of a server without a quorum.
    pub const WAITING: &str = "This ZooKeeper instance is not currently serving requests\n";

    fn tree() -> (tempfile::TempDir, Host) {
        let directory = tempfile::tempdir().unwrap();
        let deadlines = crate::host::Deadlines { wait: Duration::ZERO, ..Default::default() };
        let host = Host::tree(directory.path(), deadlines).unwrap();
        (directory, host)
    }

    #[test]
    fn what_is_no_zookeeper_is_reported() {
        let (_directory, host) = tree();
        assert!(ask(&host, &server("Mode: leader\n")).unwrap().is_ok_and(ServerState::is_member));
        assert!(ask(&host, &server("HTTP/1.1 400 Bad Request\r\n")).unwrap().unwrap_err().contains("HTTP/1.1 400"));
        assert!(ask(&host, &server("")).unwrap().unwrap_err().contains("closed"));
    }

    #[test]
    fn data_of_a_lone_server_never_meets_an_ensemble_without_it() {
        let (directory, host) = tree();
        let servers = vec![server(WAITING), server("Mode: leader\n"), server("Mode: follower\n")];
        let ensemble = Ensemble { servers, own: 0, data: "/var/lib/zookeeper".into() };
        ensemble.wait_for_turn(&host, false).unwrap();
        let data = directory.path().join("var/lib/zookeeper/version-2");
        std::fs::create_dir_all(&data).unwrap();
        std::fs::write(data.join("log.1"), "").unwrap();
        let message = ensemble.wait_for_turn(&host, false).unwrap_err().to_string();
        assert!(message.contains("servers 2, 3 form an ensemble without it"), "{message}");
        ensemble.refuse_loss(&host, false).unwrap_err();
        // Once it was a member, its data is the ensemble's.
        std::fs::write(data.join("currentEpoch"), "1").unwrap();
        ensemble.wait_for_turn(&host, false).unwrap();
        ensemble.wait_for_turn(&host, true).unwrap_err();
    }

    #[test]
    fn what_a_server_wrote_says_what_its_data_are() {
        // As observed on 3.4.14 and 3.8.0.
        for (epoch, files, expected) in [
            (None, vec![], Data::Fresh),
            (None, vec!["snapshot.0"], Data::Fresh),
            (None, vec!["log.1"], Data::Standalone),
            (None, vec!["snapshot.2f", "log.30"], Data::Standalone),
            (None, vec!["snapshot.2f.gz"], Data::Standalone),
            // It waits for a quorum.
            (Some("0"), vec!["acceptedEpoch"], Data::Fresh),
            (Some("0"), vec!["acceptedEpoch", "snapshot.0"], Data::Fresh),
            (Some("0"), vec!["acceptedEpoch", "log.1", "snapshot.0"], Data::Standalone),
            // It was killed while it copied the leader's data.
            (Some("0"), vec!["acceptedEpoch", "snapshot.0", "snapshot.100000000"], Data::Fresh),
            (Some("1"), vec!["acceptedEpoch"], Data::Member),
            (Some("12\n"), vec!["acceptedEpoch", "log.1", "snapshot.c00000000"], Data::Member),
        ] {
            let (directory, host) = tree();
            let ensemble = Ensemble { servers: Vec::new(), own: 0, data: "/var/lib/zookeeper".into() };
            let data = directory.path().join("var/lib/zookeeper/version-2");
            if epoch.is_some() || !files.is_empty() {
                std::fs::create_dir_all(&data).unwrap();
            }
            epoch.iter().for_each(|epoch| std::fs::write(data.join("currentEpoch"), epoch).unwrap());
            files.iter().for_each(|file| std::fs::write(data.join(file), "").unwrap());
            assert_eq!(ensemble.data_on_disk(&host).unwrap(), expected, "{epoch:?} {files:?}");
        }
    }

    #[test]
    fn a_new_server_takes_no_number_that_another_has() {
        let (directory, host) = tree();
        let conf = |id| server(Box::leak(format!("clientPort=2181\ndataDir=/tmp\nserverId={id}\n").into_boxed_str()));
        let ensemble = |servers| Ensemble { servers, own: 2, data: "/var/lib/zookeeper".into() };
        let not_allowed = || server("conf is not executed because it is not in the whitelist.\n");
        ensemble(vec![conf(1), not_allowed(), conf(1)]).refuse_numbers(&host).unwrap();
        let silent = ensemble(vec![conf(1), server("Mode: follower\n"), conf(1)]);
        let message = silent.refuse_numbers(&host).unwrap_err().to_string();
        assert!(message.contains("does not report its number") && message.contains("whitelist"), "{message}");
        ensemble(vec![conf(0), conf(2), server("")]).refuse_numbers(&host).unwrap();
        let of_two = |id| Ensemble { servers: vec![conf(id), server("")], own: 1, data: "/var/lib/zookeeper".into() };
        of_two(1).refuse_numbers(&host).unwrap();
        of_two(2).refuse_numbers(&host).unwrap_err();
        let moved = ensemble(vec![conf(2), conf(3), server("")]);
        let message = moved.refuse_numbers(&host).unwrap_err().to_string();
        assert!(
            message.contains("is number 2, but number 1 in the list") && message.contains("titus:zookeeper-id"),
            "{message}"
        );
        // A number under which the server never served does not count.
        let data = directory.path().join("var/lib/zookeeper/version-2");
        std::fs::create_dir_all(&data).unwrap();
        std::fs::write(directory.path().join("var/lib/zookeeper/myid"), "3\n").unwrap();
        std::fs::write(data.join("currentEpoch"), "0").unwrap();
        moved.refuse_numbers(&host).unwrap_err();
        // A server that has served keeps its number.
        std::fs::write(data.join("currentEpoch"), "1").unwrap();
        moved.refuse_numbers(&host).unwrap();
    }

    /// A server that restarts to become a member does not answer for a while.
    #[test]
    fn a_server_that_served_alone_still_has_the_data_when_it_does_not_answer() {
        let directory = tempfile::tempdir().unwrap();
        // Long enough for two questions on a busy machine.
        let deadlines = crate::host::Deadlines { wait: 10 * PAUSE, ..Default::default() };
        let host = Host::tree(directory.path(), deadlines).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let alone = listener.local_addr().unwrap().to_string();
        let questions = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&questions);
        std::thread::spawn(move || {
            let answers = std::iter::once("Mode: standalone\n").chain(std::iter::repeat(""));
            for (answer, stream) in answers.zip(listener.incoming()) {
                count.fetch_add(1, Ordering::Relaxed);
                let mut stream = stream.unwrap();
                let _ = stream.read(&mut [0; 4]);
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        let ensemble =
            |own| Ensemble { servers: vec![alone.clone(), server(""), server("")], own, data: "/var/lib/x".into() };
        let message = ensemble(2).wait_for_turn(&host, false).unwrap_err().to_string();
        assert!(message.contains("server 1 serves alone and has the data"), "{message}");
        assert!(questions.load(Ordering::Relaxed) > 1, "the last answer was the server's own");
        // A server that nobody has seen serve alone may have no data.
        let message = ensemble(2).wait_for_turn(&host, false).unwrap_err().to_string();
        assert!(message.contains("all answers must stay the same"), "{message}");
    }

    /// A clock that shows this much more each time.
    fn clock(step: Duration) -> impl FnMut() -> Instant {
        let mut time = Instant::now();
        move || {
            time += step;
            time
        }
    }

    #[test]
    fn answers_that_stay_the_same_for_long_enough_are_enough() {
        let directory = tempfile::tempdir().unwrap();
        let host = Host::tree(directory.path(), crate::host::Deadlines::all(Duration::from_secs(60))).unwrap();
        // The first server may have data, and start soon.
        let servers = vec![server(""), server(WAITING), server("")];
        let ensemble = Ensemble { servers, own: 2, data: "/var/lib/zookeeper".into() };
        let (mut looks, mut time) = (0, clock(Duration::from_secs(6)));
        let count = || {
            looks += 1;
            time()
        };
        ensemble.wait_by_clock(&host, false, count).unwrap();
        // At the beginning, and after each question: they are the same for 12 s at the third one.
        assert_eq!(looks, 1 + 3);
    }

    #[test]
    fn answers_that_change_are_never_enough() {
        let directory = tempfile::tempdir().unwrap();
        let deadlines = crate::host::Deadlines { wait: 2 * PAUSE, ..Default::default() };
        let host = Host::tree(directory.path(), deadlines).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let changing = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            for (answer, stream) in ["", WAITING].into_iter().cycle().zip(listener.incoming()) {
                let mut stream = stream.unwrap();
                let _ = stream.read(&mut [0; 4]);
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        let servers = vec![changing, server(""), server(WAITING), server("")];
        let ensemble = Ensemble { servers, own: 3, data: "/var/lib/zookeeper".into() };
        let message = ensemble.wait_by_clock(&host, false, clock(Duration::from_secs(12))).unwrap_err().to_string();
        assert!(message.contains("all answers must stay the same for 12s"), "{message}");
    }

    #[test]
    fn a_number_is_that_of_a_server_in_the_list() {
        let resolve = |servers: &str, id: usize| {
            let raw: RawEnsemble =
                toml::from_str(&format!("servers = [{servers}]\nid = {id}\ndata = '/var/lib/zookeeper'")).unwrap();
            raw.resolve(&Renderer::new(serde_json::json!({}))).map(|ensemble| ensemble.own)
        };
        let three = "'a:2181', 'b:2181', 'c:2181'";
        for (servers, id, own) in [(three, 1, 0), (three, 3, 2), ("'a:2181'", 1, 0), ("", 1, 0)] {
            assert_eq!(resolve(servers, id).unwrap(), own, "{id} of {servers}");
        }
        for (servers, id, words) in
            [(three, 0, "server 0 is not one of 3"), (three, 4, "server 4 is not one of 3"), ("", 2, "server 2 is not")]
        {
            let error = resolve(servers, id).unwrap_err();
            assert_eq!(error.kind, Kind::Config);
            assert!(error.what.contains(words), "{error}");
        }
    }

    #[test]
    fn a_deadline_says_what_is_missing() {
        let (_directory, host) = tree();
        let servers = vec![server("Mode: standalone\n"), server(WAITING), server(WAITING)];
        let message = Ensemble { servers, own: 2, data: "/var/lib/zookeeper".into() };
        let message = message.wait_for_turn(&host, false).unwrap_err().to_string();
        assert!(message.contains("server 1 serves alone") && message.contains("(this node)"), "{message}");
    }
}
