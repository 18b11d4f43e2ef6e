//! Simulates ensembles in which one server was replaced and whose runs act in any order, to check the rule for turns.
//!
//! The model follows the behavior of real servers. A pair can talk if the one with the higher number has the address of the
//! other in its list, or, since 3.5, always. A quorum that can talk elects its member with the newest data, even
//! if other servers are left out. A leader commits what a quorum has; others may lag, until some time has passed.

use super::turn::{Data, ServerState, Turn, decide_turn};

struct Server {
    up: bool,
    /// Whether its list has the address of the replaced server.
    new_list: bool,
    serves: bool,
    /// The last write that it has; it has all earlier ones too.
    has: u64,
}

struct Ensemble {
    servers: Vec<Server>,
    replaced: usize,
    learns: bool,
    leader: Option<usize>,
    /// The last write that the ensemble has confirmed to a client.
    committed: u64,
    /// Random choices; when they run out, every choice is 0.
    chance: Box<dyn FnMut(usize) -> usize>,
}

impl Ensemble {
    /// An ensemble whose servers serve all the time, except the replaced one, which has just been started. Before that, the last
    /// writes reached as few of the others as possible.
    fn new(size: usize, replaced: usize, learns: bool, chance: Vec<usize>) -> Ensemble {
        let mut chance = chance.into_iter();
        let server = |n| Server { up: true, new_list: n == replaced, serves: n != replaced, has: 0 };
        let mut ensemble = Ensemble {
            servers: (0..size).map(server).collect(),
            replaced,
            learns,
            leader: None,
            committed: 9,
            chance: Box::new(move |count| chance.next().map_or(0, |n| n % count)),
        };
        let start = (ensemble.chance)(size);
        let others = (0..size).map(|n| (start + n) % size).filter(|n| *n != replaced);
        let acknowledged: Vec<usize> = others.take(ensemble.quorum() - 1).collect();
        acknowledged.iter().for_each(|n| ensemble.servers[*n].has = 9);
        ensemble.leader = acknowledged.first().copied();
        ensemble
    }

    fn quorum(&self) -> usize {
        self.servers.len() / 2 + 1
    }

    fn all(&self, wanted: impl Fn(&Server) -> bool) -> Vec<usize> {
        (0..self.servers.len()).filter(|n| wanted(&self.servers[*n])).collect()
    }

    fn answers(&self) -> Vec<ServerState> {
        let answer = |(n, server): (usize, &Server)| match server {
            Server { up: false, .. } => ServerState::Nothing,
            Server { serves: false, .. } => ServerState::Waiting,
            _ => ServerState::Member { leads: self.leader == Some(n), learns: self.learns },
        };
        self.servers.iter().enumerate().map(answer).collect()
    }

    fn can_talk(&self, one: usize, other: usize) -> bool {
        self.learns || one.min(other) != self.replaced || self.servers[one.max(other)].new_list
    }

    /// Whether `one` sees that a quorum of `group` follows `leader`.
    fn can_follow(&self, one: usize, leader: usize, group: &[usize]) -> bool {
        // A follower connects to the leader by its own list.
        let has_address = self.learns || leader != self.replaced || self.servers[one].new_list;
        has_address
            && self.can_talk(one, leader)
            && group.iter().filter(|n| self.can_talk(one, **n)).count() >= self.quorum()
    }

    fn settle(&mut self, everybody_joins: bool) {
        let mut group = self.all(|server| server.up && server.serves);
        if group.len() < self.quorum() || self.leader.is_none_or(|leader| !group.contains(&leader)) {
            group = self.elect();
        }
        let Some(leader) = self.leader else { return };
        for n in self.all(|server| server.up && !server.serves) {
            if self.can_follow(n, leader, &group) && (everybody_joins || (self.chance)(2) == 1) {
                self.servers[n].serves = true;
                self.servers[n].has = self.servers[leader].has;
                group.push(n);
            }
        }
    }

    /// Any quorum that can form, or an empty list.
    fn elect(&mut self) -> Vec<usize> {
        self.servers.iter_mut().for_each(|server| server.serves = false);
        self.leader = None;
        let up = self.all(|server| server.up);
        let groups = (0..1_usize << self.servers.len())
            .map(|bits| -> Vec<usize> { up.iter().copied().filter(|n| bits >> n & 1 == 1).collect() });
        let mut possible: Vec<(usize, Vec<usize>)> = Vec::new();
        for group in groups.filter(|group| group.len() >= self.quorum()) {
            let Some(leader) = group.iter().copied().max_by_key(|n| (self.servers[*n].has, *n)) else { continue };
            if group.iter().all(|n| *n == leader || self.can_follow(*n, leader, &group)) {
                possible.push((leader, group));
            }
        }
        if possible.is_empty() {
            return Vec::new();
        }
        let (leader, group) = possible.swap_remove((self.chance)(possible.len()));
        let has = self.servers[leader].has;
        assert!(has >= self.committed, "server {} leads {group:?} and lacks what was committed", leader + 1);
        for n in &group {
            self.servers[*n].serves = true;
            self.servers[*n].has = has;
        }
        self.leader = Some(leader);
        group
    }

    /// A client's write: a quorum has it; the other members may lag.
    fn write(&mut self) {
        let group = self.all(|server| server.up && server.serves);
        let Some(leader) = self.leader.filter(|leader| group.contains(leader) && group.len() >= self.quorum()) else {
            return;
        };
        self.committed += 1;
        let start = (self.chance)(group.len());
        let followers = (0..group.len()).map(|n| group[(start + n) % group.len()]).filter(|n| *n != leader);
        let followers: Vec<usize> = followers.take(self.quorum() - 1).collect();
        followers.iter().chain([&leader]).for_each(|n| self.servers[*n].has = self.committed);
    }

    /// Time passes while the answers stay the same.
    fn time_passes(&mut self) {
        let Some(leader) = self.leader else { return };
        let has = self.servers[leader].has;
        for n in self.all(|server| server.up && server.serves) {
            self.servers[n].has = has;
        }
    }

    /// The servers with the old list whose turn it is, and whether they must wait for steady answers.
    fn turns(&self) -> Vec<(usize, bool)> {
        let answers = self.answers();
        let waits = |n: usize| match decide_turn(&answers, n, Data::Member) {
            Turn::Yes => Some((n, false)),
            Turn::IfSteady(_) => Some((n, true)),
            Turn::NotYet(_) | Turn::Never(_) => None,
        };
        self.all(|server| server.up && !server.new_list).into_iter().filter_map(waits).collect()
    }

    fn stop(&mut self, n: usize) {
        self.servers[n].up = false;
        self.servers[n].serves = false;
    }

    fn start(&mut self, n: usize) {
        self.servers[n].up = true;
        self.servers[n].new_list = true;
    }

    /// Stops one of the servers whose turn it is. `at_once`: the others may stop too, because the runs asked together.
    fn take_turn(&mut self, at_once: bool) -> bool {
        let mut turns = self.turns();
        if turns.is_empty() {
            return false;
        }
        let served = self.all(|server| server.serves).len();
        let (first, steady) = turns.swap_remove((self.chance)(turns.len()));
        if steady {
            self.time_passes();
        }
        let costs = self.servers[first].serves;
        self.stop(first);
        if at_once {
            for (n, waits) in turns {
                if (steady || !waits) && (self.chance)(2) == 1 {
                    self.stop(n);
                }
            }
        } else if costs && served >= self.quorum() {
            // The rest is a quorum, or becomes one when this server is back, because no other was stopped before.
            let down = self.all(|server| !server.up).len();
            let rest = self.all(|server| server.serves).len();
            assert!(rest >= self.quorum() || (down == 1 && rest + 1 >= self.quorum()), "{:?}", self.answers());
        }
        true
    }

    /// Takes random steps, then does all the remaining work.
    fn live(&mut self, steps: usize, at_once: bool) {
        for _ in 0..steps {
            match (self.chance)(5) {
                0 => self.settle(false),
                1 => self.write(),
                2 => {
                    let down = self.all(|server| !server.up);
                    if !down.is_empty() {
                        let next = down[(self.chance)(down.len())];
                        self.start(next);
                    }
                }
                _ => drop(self.take_turn(at_once)),
            }
        }
        for _ in 0..=self.servers.len() {
            self.all(|server| !server.up).into_iter().for_each(|n| self.start(n));
            self.settle(true);
            self.write();
            assert!(self.leader.is_some(), "no quorum: {:?}", self.answers());
            if self.all(|server| !server.new_list).is_empty() {
                break;
            }
            assert!(self.take_turn(at_once), "nobody's turn: {:?}", self.answers());
        }
        assert!(self.servers.iter().all(|server| server.serves && server.new_list), "{:?}", self.answers());
    }
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(2000))]

    #[test]
    fn any_server_can_be_replaced_whatever_the_order_of_the_runs(
        size in proptest::sample::select(vec![3_usize, 5, 7]), replaced in 0_usize..7, learns: bool, at_once: bool,
        chance in proptest::collection::vec(0_usize..840, 0..200),
    ) {
        Ensemble::new(size, replaced % size, learns, chance).live(60, at_once);
    }
}

/// Checks that the model is not too kind: it must show that the replaced server waits forever until a member restarts.
#[test]
fn only_before_3_5_a_replaced_server_waits() {
    for size in [3, 5] {
        for replaced in 0..size {
            for learns in [false, true] {
                let mut ensemble = Ensemble::new(size, replaced, learns, vec![size - 1]);
                ensemble.settle(true);
                let is_last = replaced + 1 == size;
                assert_eq!(ensemble.servers[replaced].serves, learns || is_last, "{} of {size}", replaced + 1);
            }
        }
    }
}
