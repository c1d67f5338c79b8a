//! An adversary: schedules that random faults hit too rarely, played out against the cluster again and
//! again. It sees everything, and only cuts links, holds processes up, kills and starts them.

use ringlite::replica::Status;
use ringlite_raft::Role;

use super::clock::TICK;
use super::cluster::Cluster;
use super::tally::Kind;

/// What the adversary is after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// Figure 8 of the Raft paper, in a cluster of three: a leader brings an entry of an older term to a
    /// majority and is killed before one of its own term follows; then a node leads that never saw it.
    FigureEight,
    /// One turn of a node, in a cluster of five, takes the entries of a leader that nobody else has, what
    /// its successor puts in their place, and from the next leader that this is committed; then the node is
    /// killed between its writes.
    Succession,
}

/// How far a scheme is; nodes by their position.
#[derive(Clone, Copy, Debug)]
enum Stage {
    /// Everything works.
    Peace,
    /// Nobody hears the leader any more, or the victim alone does.
    Unheard { first: usize, victim: Option<usize> },
    /// Another node leads.
    Replaced {
        first: usize,
        second: usize,
        victim: Option<usize>,
    },
    /// The second leader is down, and the first one may lead again.
    Returned { first: usize, second: usize },
    /// A third leader is to come, while the victim stands still.
    Third { second: usize, victim: usize },
    /// The end is near: of the first leader, or of the victim.
    Ends { down: usize, doomed: usize },
    /// The one that saw nothing of it may lead.
    Last,
}

pub(crate) struct Adversary {
    scheme: Scheme,
    stage: Stage,
    /// Then the stage ends, or the scheme is given up.
    until: u64,
}

impl Adversary {
    pub(super) fn new(scheme: Scheme) -> Adversary {
        Adversary {
            scheme,
            stage: Stage::Peace,
            until: 0,
        }
    }
}

impl Cluster {
    /// The adversary's next move.
    pub(super) fn plot(&mut self, mut adversary: Adversary) -> Adversary {
        self.end_the_doomed();
        let is_over = self.now >= adversary.until;
        if let Some(next) = self.next_stage(&adversary, is_over) {
            let election = u64::from(self.settings.election_ticks_max) * TICK;
            adversary.until = self.now
                + match next {
                    Stage::Peace => self.random.between(20, 2 * election),
                    Stage::Ends { .. } => self.random.between(4, 8),
                    _ => 8 * election,
                };
            adversary.stage = next;
        } else if is_over {
            self.make_peace();
            adversary.until = self.now + self.random.between(20, 400);
            adversary.stage = Stage::Peace;
        }
        adversary
    }

    fn next_stage(&mut self, adversary: &Adversary, is_over: bool) -> Option<Stage> {
        match (adversary.scheme, adversary.stage) {
            (scheme, Stage::Peace) => {
                let first = self.leader().filter(|_| is_over)?;
                let others = self.nodes.len() as u64 - 1;
                let follower = (first + 1 + self.random.below(others) as usize) % self.nodes.len();
                let victim = (scheme == Scheme::Succession).then_some(follower);
                self.silence(first, victim);
                if let Some(victim) = victim {
                    self.nodes[victim].stands_still_until = u64::MAX;
                    self.deafen(first);
                }
                Some(Stage::Unheard { first, victim })
            }
            (_, Stage::Unheard { first, victim }) => {
                let second = self.leads_beside(first)?;
                if victim.is_none() {
                    // Nor does anybody hear of its no-op.
                    self.silence(second, None);
                }
                Some(Stage::Replaced {
                    first,
                    second,
                    victim,
                })
            }
            (
                _,
                Stage::Replaced {
                    first,
                    second,
                    victim: None,
                },
            ) => {
                let term = self.status(second)?.term;
                let disk = &self.nodes[second].disk;
                let last = disk.durable(disk.durable_last())?;
                if last.term.0 == term {
                    self.network.mend();
                    self.crash_for_good(second);
                    return Some(Stage::Returned { first, second });
                }
                None
            }
            (
                _,
                Stage::Replaced {
                    second,
                    victim: Some(victim),
                    ..
                },
            ) => {
                let term = self.status(second)?.term;
                // That its no-op is committed, and nothing beyond it.
                let knows = |at: usize| {
                    let status = self.status(at);
                    status.is_some_and(|status| {
                        let end = self.nodes[at].told.entries.get(&status.commit);
                        let is_told = end.is_some_and(|end| end.term.0 == term);
                        is_told && status.last == status.commit
                    })
                };
                if (0..self.nodes.len()).any(|at| at != second && knows(at)) {
                    self.network.mend();
                    self.silence(second, None);
                    self.crash_for_good(second);
                    return Some(Stage::Third { second, victim });
                }
                None
            }
            (_, Stage::Returned { first, second }) => {
                let leader = self.status(first)?;
                let third = 3 - first - second;
                let disk = &self.nodes[third].disk;
                let index = disk.durable_last();
                let held = disk.durable(index)?;
                let is_old = held.term.0 < leader.term && index > leader.commit;
                let is_of_first = self.nodes[first].told.entries.get(&index) == Some(&held);
                if leader.role == Role::Leader && is_old && is_of_first {
                    // Before the leader hears of it, and can send its own entry.
                    self.silence(first, None);
                    return Some(Stage::Ends {
                        down: second,
                        doomed: first,
                    });
                }
                None
            }
            (_, Stage::Third { second, victim }) => {
                self.leads_beside(second)?;
                Some(Stage::Ends {
                    down: second,
                    doomed: victim,
                })
            }
            (_, Stage::Ends { .. }) if !is_over => None,
            (Scheme::FigureEight, Stage::Ends { down, doomed }) => {
                self.tally.count(Kind::FigureEight);
                self.network.mend();
                self.crash_for_good(doomed);
                self.start_again(down);
                Some(Stage::Last)
            }
            (Scheme::Succession, Stage::Ends { down, doomed }) => {
                self.tally.count(Kind::Succession);
                self.network.mend();
                let crashes_at = self.now + self.random.between(2, 6);
                let victim = &mut self.nodes[doomed];
                victim.stands_still_until = self.now;
                victim.crashes_at = victim.process.is_some().then_some(crashes_at);
                self.start_again(down);
                Some(Stage::Last)
            }
            (_, Stage::Last) => {
                let is_led = self.leader().is_some();
                let is_past = self.nodes.iter().all(|node| node.crashes_at.is_none());
                if is_led && is_past {
                    self.make_peace();
                    return Some(Stage::Peace);
                }
                None
            }
        }
    }

    fn status(&self, at: usize) -> Option<Status> {
        let process = self.nodes[at].process.as_ref();
        process.map(|process| process.replica.status())
    }

    /// A leader of a later term than that node knows of, or than it had when it went down.
    fn leads_beside(&self, other: usize) -> Option<usize> {
        let disk = &self.nodes[other].disk;
        let term = match self.status(other) {
            Some(status) => status.term,
            None => disk
                .durable(disk.durable_last())
                .map_or(0, |held| held.term.0),
        };
        let leads = |at: &usize| {
            let status = self.status(*at);
            status.is_some_and(|status| status.role == Role::Leader && status.term > term)
        };
        (0..self.nodes.len()).find(|at| *at != other && leads(at))
    }

    /// Nobody but `hearer` hears the node.
    fn silence(&mut self, at: usize, hearer: Option<usize>) {
        let now = self.now;
        for peer in (0..self.nodes.len()).filter(|peer| Some(*peer) != hearer) {
            self.network.cut((at, peer), now, u64::MAX);
        }
        self.tally.count(Kind::OneWay);
    }

    /// The node hears nobody.
    fn deafen(&mut self, at: usize) {
        let now = self.now;
        for peer in 0..self.nodes.len() {
            self.network.cut((peer, at), now, u64::MAX);
        }
    }

    /// Until the adversary starts it again.
    fn crash_for_good(&mut self, at: usize) {
        if self.nodes[at].process.is_some() {
            let power_fails = self.random.per_mille(300);
            self.crash(at, power_fails);
        }
        self.nodes[at].restarts_at = None;
    }

    fn start_again(&mut self, at: usize) {
        if self.nodes[at].process.is_none() {
            self.start(at);
        }
    }

    fn make_peace(&mut self) {
        self.network.mend();
        for at in 0..self.nodes.len() {
            let node = &mut self.nodes[at];
            node.stands_still_until = node.stands_still_until.min(self.now);
            self.start_again(at);
        }
    }
}
