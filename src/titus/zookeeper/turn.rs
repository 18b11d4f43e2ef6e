//! Decides, from the answers of all servers, when a server of an ensemble may stop or start for the first time.

use std::time::Duration;

/// How long the answers must stay the same before a server stops while another one does not serve. A server that
/// restarts answers again well within this time, and an election ends. A leader drops a follower that lags behind for
/// longer than `syncLimit`, 10 s in our zoo.cfg (ZooKeeper Administrator's Guide, "Cluster Options"), so after this time
/// each member has all earlier writes.
pub const STEADY: Duration = Duration::from_secs(12);

/// The pause between two servers whose turn follows from the same answers: by then, the first one no longer answers.
pub const GAP: Duration = Duration::from_secs(3);

/// A server's answer to the four letters `srvr`; 3.4 and later include the line `Mode:`
/// (ZooKeeper Administrator's Guide, "The Four Letter Words").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerState {
    /// It serves alone.
    Standalone,
    /// It serves as a member of an ensemble.
    Member {
        /// Whether it leads the ensemble.
        leads: bool,
        /// Whether it learns the address of a replaced server without a restart, which 3.5 and later do.
        learns: bool,
    },
    /// It runs, but has no ensemble to serve with.
    Waiting,
    /// It does not answer.
    Nothing,
}

impl ServerState {
    /// Parses a server's answer. Returns `None` for text that is not ZooKeeper's.
    pub fn parse(text: &str) -> Option<ServerState> {
        let after = |name| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let learns = after("Zookeeper version:").and_then(release).is_none_or(|release| release >= (3, 5));
        match after("Mode:") {
            Some("standalone") => Some(ServerState::Standalone),
            Some(mode @ ("leader" | "follower" | "observer")) => {
                Some(ServerState::Member { leads: mode == "leader", learns })
            }
            None if text.contains("not currently serving requests") => Some(ServerState::Waiting),
            _ => None,
        }
    }

    /// Whether it serves as a member of an ensemble.
    pub fn is_member(self) -> bool {
        matches!(self, ServerState::Member { .. })
    }
}

/// The major and minor number of a version like `3.4.14-4c25d480`.
fn release(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split('.').map_while(|number| number.parse().ok());
    Some((numbers.next()?, numbers.next()?))
}

/// The state of this server's own data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Data {
    /// No data: the server was never started, or it only waited.
    Fresh,
    /// Data of a server that served alone.
    Standalone,
    /// Data of a server that was in step with the leader of an ensemble.
    Member,
}

/// Whether this server's container may start for the first time, or stop for its replacement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// Yes, now.
    Yes,
    /// Yes, after all answers have stayed the same for this long. A server that does not answer may have
    /// data and be changing from serving alone to being a member; one that waits for a quorum
    /// may be in an election.
    IfSteady(Duration),
    /// Not yet, with the reason.
    NotYet(String),
    /// Never, because data would be lost, with the reason.
    Never(String),
}

/// Decides so that data is never lost, and an existing quorum is lost at most while this server restarts.
///
/// Servers without data could outvote the only server with data, which would then discard its own.
/// So they wait for it, except as many as it needs for a quorum; it waits for those.
/// `answers` are those of all servers in the order of the list; this server is at `own`.
pub fn decide_turn(answers: &[ServerState], own: usize, data: Data) -> Turn {
    let quorum = answers.len() / 2 + 1;
    let others = || answers.iter().enumerate().filter(|(n, _)| *n != own);
    let count = |wanted: ServerState| others().filter(|(_, answer)| **answer == wanted).count();
    let members = others().filter(|(_, answer)| answer.is_member()).count();
    let named = |wanted: fn(ServerState) -> bool| {
        others().filter(|(_, a)| wanted(**a)).map(|(n, _)| format!("{}", n + 1)).collect::<Vec<_>>().join(", ")
    };
    if answers.len() < 2 {
        return Turn::Yes;
    }
    let alone = named(|answer| answer == ServerState::Standalone);
    match data {
        Data::Fresh if alone.contains(',') => {
            Turn::Never(format!("servers {alone} each serve alone, with data of their own"))
        }
        // This few cannot form a quorum without it.
        Data::Fresh if answers.iter().take(own).filter(|a| **a != ServerState::Standalone).count() + 2 <= quorum => {
            Turn::Yes
        }
        Data::Fresh if !alone.is_empty() => Turn::NotYet(format!(
            "server {alone} serves alone and has the data: it must become a member first; run titus-bootstrap there"
        )),
        Data::Fresh if members == 0 && count(ServerState::Nothing) > 0 => Turn::IfSteady(STEADY),
        Data::Fresh => Turn::Yes,
        Data::Standalone if members > 0 => Turn::Never(format!(
            "this server has served alone and has data, but servers {} form an ensemble without it: it would discard its data to join them",
            named(ServerState::is_member)
        )),
        Data::Standalone if !alone.is_empty() => {
            Turn::Never(format!("this server has served alone and has data, and so has server {alone}"))
        }
        Data::Standalone if count(ServerState::Waiting) + 1 < quorum => Turn::NotYet(format!(
            "this server serves alone until {} of the others run and form a quorum with it; run titus-bootstrap there",
            quorum - 1
        )),
        Data::Standalone => Turn::Yes,
        Data::Member => decide_member_turn(answers, own, quorum),
    }
}

fn decide_member_turn(answers: &[ServerState], own: usize, quorum: usize) -> Turn {
    let others = || answers.iter().enumerate().filter(|(n, _)| *n != own);
    let members = others().filter(|(_, answer)| answer.is_member()).count();
    let waiting = others().filter(|(_, answer)| **answer == ServerState::Waiting).count();
    let are_quorum = members >= quorum.min(answers.len() - 1);
    let (leads, learns) = match answers.get(own) {
        Some(ServerState::Member { leads, learns }) => (*leads, *learns),
        // It does not serve, so stopping it loses nothing, unless it is in an election.
        Some(ServerState::Nothing) => return Turn::Yes,
        _ if are_quorum => return Turn::Yes,
        _ => return Turn::IfSteady(STEADY),
    };
    // Runs on different nodes do not know of each other: followers go in the order of their numbers, the leader last.
    let before = answers.iter().take(if leads { answers.len() } else { own });
    let place = before.filter(|answer| matches!(answer, ServerState::Member { leads: false, .. })).count();
    let gap = GAP * u32::try_from(place).unwrap_or(u32::MAX);
    // Before 3.5, a server dials those with a lower number at the addresses in its own list. So a new server may be
    // waiting for this one's restart, which costs the ensemble its quorum until this one is back with its data.
    let may_wait_for_us = !learns && members + 1 >= quorum && members + waiting + 1 == answers.len();
    match members + 1 == answers.len() {
        true if place == 0 => Turn::Yes,
        true => Turn::IfSteady(gap),
        false if are_quorum || may_wait_for_us => Turn::IfSteady(STEADY + gap),
        false => Turn::NotYet(format!(
            "without this server {members} of {} would serve, but a quorum is {quorum}; fix or start the others first",
            answers.len()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::ServerState::{Member, Nothing, Standalone, Waiting};
    use super::*;

    /// Followers and leaders of 3.4 and of later releases.
    const F34: ServerState = Member { leads: false, learns: false };
    const L34: ServerState = Member { leads: true, learns: false };
    const F: ServerState = Member { leads: false, learns: true };
    const L: ServerState = Member { leads: true, learns: true };

    #[test]
    fn modes_and_versions_are_read() {
        let srvr = |version, mode| {
            ServerState::parse(&format!(
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
        assert_eq!(ServerState::parse("Mode: follower\n"), Some(F));
        assert_eq!(ServerState::parse("This ZooKeeper instance is not currently serving requests\n"), Some(Waiting));
        assert_eq!(ServerState::parse("HTTP/1.1 400 Bad Request\r\n"), None);
        assert_eq!(ServerState::parse(""), None);
    }

    #[test]
    fn fresh_servers_do_not_outvote_the_one_that_has_the_data() {
        // The first fresh server may wait beside it, so that they form two of three.
        assert_eq!(decide_turn(&[Standalone, Nothing, Nothing], 1, Data::Fresh), Turn::Yes);
        assert!(matches!(decide_turn(&[Standalone, Waiting, Nothing], 2, Data::Fresh), Turn::NotYet(_)));
        assert!(matches!(decide_turn(&[Nothing, Nothing, Standalone], 1, Data::Fresh), Turn::NotYet(_)));
        assert_eq!(decide_turn(&[Waiting, Waiting, Nothing], 2, Data::Fresh), Turn::Yes);
        assert_eq!(decide_turn(&[Nothing, Waiting, Nothing], 2, Data::Fresh), Turn::IfSteady(STEADY));
        assert_eq!(decide_turn(&[Nothing, L, Nothing], 2, Data::Fresh), Turn::Yes);
        assert!(matches!(decide_turn(&[Standalone, Standalone, Nothing], 2, Data::Fresh), Turn::Never(_)));
        let five = [Standalone, Waiting, Waiting, Nothing, Nothing];
        assert_eq!(decide_turn(&five, 2, Data::Fresh), Turn::Yes);
        assert!(matches!(decide_turn(&five, 3, Data::Fresh), Turn::NotYet(_)));
    }

    #[test]
    fn the_one_that_has_the_data_serves_until_it_can_be_a_quorum() {
        assert!(matches!(decide_turn(&[Standalone, Nothing, Nothing], 0, Data::Standalone), Turn::NotYet(_)));
        assert_eq!(decide_turn(&[Standalone, Waiting, Nothing], 0, Data::Standalone), Turn::Yes);
        assert!(matches!(decide_turn(&[Nothing, F, L], 0, Data::Standalone), Turn::Never(_)));
        assert!(matches!(decide_turn(&[Standalone, Standalone, Waiting], 0, Data::Standalone), Turn::Never(_)));
        assert!(matches!(decide_turn(&[Standalone, Nothing], 0, Data::Standalone), Turn::NotYet(_)));
        assert_eq!(decide_turn(&[Standalone, Waiting], 0, Data::Standalone), Turn::Yes);
    }

    #[test]
    fn a_member_stops_only_while_the_others_are_a_quorum() {
        for (leader, follower) in [(L, F), (L34, F34)] {
            let decide = |answers: &[ServerState], own| decide_turn(answers, own, Data::Member);
            assert_eq!(decide(&[follower, leader, follower], 0), Turn::Yes);
            assert!(matches!(decide(&[leader, follower, Nothing], 0), Turn::NotYet(_)));
            // It does not serve: stopping it loses nothing, unless it is in an election.
            assert_eq!(decide(&[Nothing, Nothing, Nothing], 0), Turn::Yes);
            assert_eq!(decide(&[Waiting, follower, leader], 0), Turn::Yes);
            assert_eq!(decide(&[Waiting, Waiting, Nothing], 0), Turn::IfSteady(STEADY));
            // Two servers do not have a quorum without one of them.
            assert_eq!(decide(&[leader, follower], 1), Turn::Yes);
            assert_eq!(decide(&[leader, Waiting], 1), Turn::Yes);
            // When three become five, the new ones start first.
            assert!(matches!(decide(&[follower, follower, leader, Nothing, Nothing], 0), Turn::NotYet(_)));
            let four = [follower, follower, leader, follower, Nothing];
            assert_eq!(decide(&four, 0), Turn::IfSteady(STEADY));
            assert_eq!(decide(&[leader], 0), Turn::Yes);
            // Another server was just stopped.
            assert!(matches!(decide(&[follower, Nothing, leader], 0), Turn::NotYet(_)));
        }
    }

    #[test]
    fn runs_at_once_stop_one_server_after_the_other_and_the_leader_last() {
        let all = [F, L, F, F, F];
        let turns: Vec<Turn> = (0..5).map(|own| decide_turn(&all, own, Data::Member)).collect();
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
            // It may have tried to serve for a moment.
            ([F34, L34, Waiting], 0, 1),
        ] {
            assert_eq!(decide_turn(&answers, first, Data::Member), Turn::IfSteady(STEADY), "{answers:?}");
            assert_eq!(decide_turn(&answers, last, Data::Member), Turn::IfSteady(STEADY + GAP), "{answers:?}");
        }
        // Later releases let it in without a restart.
        assert!(matches!(decide_turn(&[Waiting, F, L], 1, Data::Member), Turn::NotYet(_)));
        // The new server is not running yet, or another one is down.
        assert!(matches!(decide_turn(&[Nothing, F34, L34], 1, Data::Member), Turn::NotYet(_)));
        assert!(matches!(decide_turn(&[Waiting, F34, F34, L34, Nothing], 1, Data::Member), Turn::NotYet(_)));
        // Two of five are down.
        assert_eq!(decide_turn(&[Waiting, F34, F34, L34, Waiting], 1, Data::Member), Turn::IfSteady(STEADY));
        // Two of four are not a quorum, but three are.
        assert_eq!(decide_turn(&[Waiting, F34, F34, L34], 1, Data::Member), Turn::IfSteady(STEADY));
        assert!(matches!(decide_turn(&[Nothing, F34, F34, L34], 1, Data::Member), Turn::NotYet(_)));
        // Too few servers have data.
        assert!(matches!(decide_turn(&[Waiting, F34, Waiting, L34, Waiting], 1, Data::Member), Turn::NotYet(_)));
        // The other four of five form a quorum.
        assert_eq!(decide_turn(&[Waiting, F34, F34, F34, L34], 4, Data::Member), Turn::IfSteady(STEADY + GAP * 3));
        assert_eq!(decide_turn(&[Waiting, F, F, F, L], 1, Data::Member), Turn::IfSteady(STEADY));
    }

    proptest::proptest! {
        /// In whatever order fresh servers and former single servers take their turns, a quorum never
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
                if decide_turn(&answers, own, data) == Turn::Yes {
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
