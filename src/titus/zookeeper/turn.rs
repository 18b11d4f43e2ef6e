//! When a server of an ensemble may be stopped or first started: a decision from what all servers answer.

use std::time::Duration;

/// So long must the answers stay the same before a server is stopped while another one does not serve. A server that
/// is restarted answers again well within this, and an election ends. A leader drops a follower that lags behind for
/// longer than `syncLimit`, 10 s in our zoo.cfg (ZooKeeper Administrator's Guide, "Cluster Options"): after this each
/// member has all that was written before.
pub const STEADY: Duration = Duration::from_secs(12);

/// The time between two servers whose turn comes by the same answers: the one that is stopped first answers no longer.
pub const GAP: Duration = Duration::from_secs(3);

/// What a server answers to the four letters `srvr`, whose line `Mode:` 3.4 and later have
/// (ZooKeeper Administrator's Guide, "The Four Letter Words").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It serves alone.
    Standalone,
    /// It serves as one of an ensemble.
    Member {
        /// Whether it leads the ensemble.
        leads: bool,
        /// Whether it learns the address of a replaced server without a restart: 3.5 and later.
        learns: bool,
    },
    /// It runs, and has no ensemble to serve with.
    Waiting,
    /// It does not answer.
    Nothing,
}

impl Answer {
    /// Returns what a server's text says, or `None` for text that is not ZooKeeper's.
    pub fn of(text: &str) -> Option<Answer> {
        let after = |name| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let learns = after("Zookeeper version:").and_then(release).is_none_or(|release| release >= (3, 5));
        match after("Mode:") {
            Some("standalone") => Some(Answer::Standalone),
            Some(mode @ ("leader" | "follower" | "observer")) => {
                Some(Answer::Member { leads: mode == "leader", learns })
            }
            None if text.contains("not currently serving requests") => Some(Answer::Waiting),
            _ => None,
        }
    }

    /// Whether it serves as one of an ensemble.
    pub fn is_member(self) -> bool {
        matches!(self, Answer::Member { .. })
    }
}

/// Returns major and minor number of a version like `3.4.14-4c25d480`.
fn release(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split('.').map_while(|number| number.parse().ok());
    Some((numbers.next()?, numbers.next()?))
}

/// What this server's own data is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Data {
    /// None: it was never started, or it only waited.
    Fresh,
    /// Of a server that served alone.
    Standalone,
    /// Of a server that was in step with the leader of an ensemble.
    Member,
}

/// Whether this server's container may now be first started, or stopped to be replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// It may.
    Yes,
    /// It may when all answers have stayed the same for so long. A server that does not answer may have
    /// data, and be on its way from serving alone to being a member; one that waits for a quorum
    /// may be in an election.
    IfSteady(Duration),
    /// Not yet; what is missing.
    NotYet(String),
    /// Never, because data would be lost; why.
    Never(String),
}

/// Decides so that data never gets lost, and a quorum that is there is lost at most while this server restarts.
///
/// Servers without data could outvote the only one with data, which would then discard its own.
/// So they wait for it, all but as many as it needs for a quorum, and it waits for those.
/// `answers` are those of all servers in the order of the list, in which ours is at `own`.
pub fn turn(answers: &[Answer], own: usize, data: Data) -> Turn {
    let quorum = answers.len() / 2 + 1;
    let others = || answers.iter().enumerate().filter(|(n, _)| *n != own);
    let count = |wanted: Answer| others().filter(|(_, answer)| **answer == wanted).count();
    let members = others().filter(|(_, answer)| answer.is_member()).count();
    let named = |wanted: fn(Answer) -> bool| {
        others().filter(|(_, a)| wanted(**a)).map(|(n, _)| format!("{}", n + 1)).collect::<Vec<_>>().join(", ")
    };
    if answers.len() < 2 {
        return Turn::Yes;
    }
    let alone = named(|answer| answer == Answer::Standalone);
    match data {
        Data::Fresh if alone.contains(',') => {
            Turn::Never(format!("servers {alone} each serve alone, with data of their own"))
        }
        // So few cannot be a quorum without it.
        Data::Fresh if others().filter(|(n, a)| *n < own && **a != Answer::Standalone).count() + 2 <= quorum => {
            Turn::Yes
        }
        Data::Fresh if !alone.is_empty() => Turn::NotYet(format!(
            "server {alone} serves alone and has the data: it must become a member first; run titus-bootstrap there"
        )),
        Data::Fresh if members == 0 && count(Answer::Nothing) > 0 => Turn::IfSteady(STEADY),
        Data::Fresh => Turn::Yes,
        Data::Standalone if members > 0 => Turn::Never(format!(
            "this server has served alone and has data, and servers {} are an ensemble without it: it would discard its data to join them",
            named(Answer::is_member)
        )),
        Data::Standalone if !alone.is_empty() => {
            Turn::Never(format!("this server has served alone and has data, and so has server {alone}"))
        }
        Data::Standalone if count(Answer::Waiting) + 1 < quorum => Turn::NotYet(format!(
            "this server serves alone until {} of the others run, to be a quorum with them; run titus-bootstrap there",
            quorum - 1
        )),
        Data::Standalone => Turn::Yes,
        Data::Member => turn_of_member(answers, own, quorum),
    }
}

fn turn_of_member(answers: &[Answer], own: usize, quorum: usize) -> Turn {
    let others = || answers.iter().enumerate().filter(|(n, _)| *n != own);
    let members = others().filter(|(_, answer)| answer.is_member()).count();
    let waiting = others().filter(|(_, answer)| **answer == Answer::Waiting).count();
    let are_quorum = members >= quorum.min(answers.len() - 1);
    let (leads, learns) = match answers.get(own) {
        Some(Answer::Member { leads, learns }) => (*leads, *learns),
        // It does not serve, so nothing is lost by stopping it, unless it is in an election.
        Some(Answer::Nothing) => return Turn::Yes,
        _ if are_quorum => return Turn::Yes,
        _ => return Turn::IfSteady(STEADY),
    };
    // Runs on several nodes know nothing of each other: followers go by their number, the leader last.
    let is_before =
        |n: usize, answer: &Answer| matches!(answer, Answer::Member { leads: false, .. }) && (leads || n < own);
    let place = others().filter(|(n, answer)| is_before(*n, answer)).count();
    let gap = GAP * u32::try_from(place).unwrap_or(u32::MAX);
    // Before 3.5 a server dials those with a lower number, at the addresses of its own list. So a new one that waits can
    // wait for this one's restart, which costs the ensemble its quorum until this one is back, with its data.
    let may_wait_for_us = !learns && waiting > 0 && members + 1 >= quorum && members + waiting + 1 == answers.len();
    match members + 1 == answers.len() {
        true if place == 0 => Turn::Yes,
        true => Turn::IfSteady(gap),
        false if are_quorum || may_wait_for_us => Turn::IfSteady(STEADY + gap),
        false => Turn::NotYet(format!(
            "without this server {members} of {} would serve, and {quorum} are a quorum; fix or start the others first",
            answers.len()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::Answer::{Member, Nothing, Standalone, Waiting};
    use super::*;

    /// Follower and leader, of 3.4 and of later ones.
    const F34: Answer = Member { leads: false, learns: false };
    const L34: Answer = Member { leads: true, learns: false };
    const F: Answer = Member { leads: false, learns: true };
    const L: Answer = Member { leads: true, learns: true };

    #[test]
    fn modes_and_versions_are_read() {
        let srvr = |version, mode| {
            Answer::of(&format!(
                "Zookeeper version: {version}\nLatency min/avg/max: 0/0/0\nMode: {mode}\nNode count: 4\n"
            ))
        };
        assert_eq!(srvr("3.4.10-39d3a4f", "standalone"), Some(Standalone));
        for (version, mode, expected) in [
            ("3.4.14-4c25d480e66aadd371de8bd2fd8da255ac140bcf, built on 03/06/2019 16:18 GMT", "follower", F34),
            ("3.4.6-1569965, built on 02/20/2014 09:09 GMT", "leader", L34),
            ("3.5.0-alpha-1615249, built on 08/01/2014 22:13 GMT", "leader", L),
            ("3.8.0-${mvngit.commit.id}, built on 2024-12-29 17:54 UTC", "follower", F),
            ("3.10.1", "observer", F),
            ("unknown", "leader", L),
        ] {
            assert_eq!(srvr(version, mode), Some(expected), "{version}");
        }
        assert_eq!(Answer::of("Mode: follower\n"), Some(F));
        assert_eq!(Answer::of("This ZooKeeper instance is not currently serving requests\n"), Some(Waiting));
        assert_eq!(Answer::of("HTTP/1.1 400 Bad Request\r\n"), None);
        assert_eq!(Answer::of(""), None);
    }

    #[test]
    fn fresh_servers_do_not_outvote_the_one_that_has_the_data() {
        // The first of the fresh ones may wait beside it, so that they can be two of three.
        assert_eq!(turn(&[Standalone, Nothing, Nothing], 1, Data::Fresh), Turn::Yes);
        assert!(matches!(turn(&[Standalone, Waiting, Nothing], 2, Data::Fresh), Turn::NotYet(_)));
        assert!(matches!(turn(&[Nothing, Nothing, Standalone], 1, Data::Fresh), Turn::NotYet(_)));
        assert_eq!(turn(&[Waiting, Waiting, Nothing], 2, Data::Fresh), Turn::Yes);
        assert_eq!(turn(&[Nothing, Waiting, Nothing], 2, Data::Fresh), Turn::IfSteady(STEADY));
        assert_eq!(turn(&[Nothing, L, Nothing], 2, Data::Fresh), Turn::Yes);
        assert!(matches!(turn(&[Standalone, Standalone, Nothing], 2, Data::Fresh), Turn::Never(_)));
        let five = [Standalone, Waiting, Waiting, Nothing, Nothing];
        assert_eq!(turn(&five, 2, Data::Fresh), Turn::Yes);
        assert!(matches!(turn(&five, 3, Data::Fresh), Turn::NotYet(_)));
    }

    #[test]
    fn the_one_that_has_the_data_serves_until_it_can_be_a_quorum() {
        assert!(matches!(turn(&[Standalone, Nothing, Nothing], 0, Data::Standalone), Turn::NotYet(_)));
        assert_eq!(turn(&[Standalone, Waiting, Nothing], 0, Data::Standalone), Turn::Yes);
        assert!(matches!(turn(&[Nothing, F, L], 0, Data::Standalone), Turn::Never(_)));
        assert!(matches!(turn(&[Standalone, Standalone, Waiting], 0, Data::Standalone), Turn::Never(_)));
    }

    #[test]
    fn a_member_stops_only_while_the_others_are_a_quorum() {
        for (leader, follower) in [(L, F), (L34, F34)] {
            let decide = |answers: &[Answer], own| turn(answers, own, Data::Member);
            assert_eq!(decide(&[follower, leader, follower], 0), Turn::Yes);
            assert!(matches!(decide(&[leader, follower, Nothing], 0), Turn::NotYet(_)));
            // It does not serve: nothing is lost by stopping it, unless it is in an election.
            assert_eq!(decide(&[Nothing, Nothing, Nothing], 0), Turn::Yes);
            assert_eq!(decide(&[Waiting, follower, leader], 0), Turn::Yes);
            assert_eq!(decide(&[Waiting, Waiting, Nothing], 0), Turn::IfSteady(STEADY));
            // Two servers are never a quorum with one of them gone.
            assert_eq!(decide(&[leader, follower], 1), Turn::Yes);
            // From three to five: the new ones come first.
            assert!(matches!(decide(&[follower, follower, leader, Nothing, Nothing], 0), Turn::NotYet(_)));
            let four = [follower, follower, leader, follower, Nothing];
            assert_eq!(decide(&four, 0), Turn::IfSteady(STEADY));
            assert_eq!(decide(&[leader], 0), Turn::Yes);
            // Another one was just stopped.
            assert!(matches!(decide(&[follower, Nothing, leader], 0), Turn::NotYet(_)));
        }
    }

    #[test]
    fn runs_at_once_stop_one_server_after_the_other_and_the_leader_last() {
        let all = [F, L, F, F, F];
        let turns: Vec<Turn> = (0..5).map(|own| turn(&all, own, Data::Member)).collect();
        assert_eq!(turns[0], Turn::Yes);
        for (own, place) in [(2, 1), (3, 2), (4, 3), (1, 4)] {
            assert_eq!(turns[own], Turn::IfSteady(GAP * place), "server {}", own + 1);
        }
    }

    #[test]
    fn before_3_5_a_replaced_server_waits_for_the_restart_of_another() {
        for (answers, first, last) in [
            ([Waiting, F34, L34], 1, 2),
            ([F34, Waiting, L34], 0, 2),
            ([L34, Waiting, F34], 2, 0),
            // It may have tried to serve for a moment only.
            ([F34, L34, Waiting], 0, 1),
        ] {
            assert_eq!(turn(&answers, first, Data::Member), Turn::IfSteady(STEADY), "{answers:?}");
            assert_eq!(turn(&answers, last, Data::Member), Turn::IfSteady(STEADY + GAP), "{answers:?}");
        }
        // Later ones let it in without.
        assert!(matches!(turn(&[Waiting, F, L], 1, Data::Member), Turn::NotYet(_)));
        // It is not there yet, or another one is down.
        assert!(matches!(turn(&[Nothing, F34, L34], 1, Data::Member), Turn::NotYet(_)));
        assert!(matches!(turn(&[Waiting, F34, F34, L34, Nothing], 1, Data::Member), Turn::NotYet(_)));
        // Two of five.
        assert_eq!(turn(&[Waiting, F34, F34, L34, Waiting], 1, Data::Member), Turn::IfSteady(STEADY));
        // Too few of them have data.
        assert!(matches!(turn(&[Waiting, F34, Waiting, L34, Waiting], 1, Data::Member), Turn::NotYet(_)));
        // Of five without one the others are a quorum.
        assert_eq!(turn(&[Waiting, F34, F34, F34, L34], 4, Data::Member), Turn::IfSteady(STEADY + GAP * 3));
        assert_eq!(turn(&[Waiting, F, F, F, L], 1, Data::Member), Turn::IfSteady(STEADY));
    }

    proptest::proptest! {
        /// However servers that were one and fresh ones take their turns, a quorum never
        /// forms without the one that has the data.
        #[test]
        fn no_order_of_turns_loses_data(size in 2_usize..8, holder in 0_usize..8, order in proptest::collection::vec(0_usize..8, 0..40)) {
            let holder = holder % size;
            let mut answers = vec![Nothing; size];
            answers[holder] = Standalone;
            for own in order.into_iter().map(|n| n % size) {
                if answers[own] == Waiting || answers[own].is_member() {
                    continue;
                }
                let data = if own == holder { Data::Standalone } else { Data::Fresh };
                if turn(&answers, own, data) == Turn::Yes {
                    answers[own] = Waiting;
                }
                let up = answers.iter().filter(|a| **a == Waiting).count();
                if up > size / 2 {
                    proptest::prop_assert!(answers[holder] == Waiting, "a quorum without the data: {answers:?}");
                }
            }
        }
    }
}
