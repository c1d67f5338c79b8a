//! An adversary: schedules that random faults hit too rarely, played out against the cluster again and
//! again. It sees everything, and only cuts links, holds processes up, kills and starts them, and damages
//! what may be damaged.

use ringlite::replica::Status;
use ringlite::replica::member::Member;
use ringlite::replica::request::MemberRequest;
use ringlite_raft::{MemberRole, Role};

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
    /// Two of three hold what is committed. The log of one is damaged while it is down; it comes back to the
    /// one that never saw it, and perhaps to the leader that has counted what is lost.
    Amnesia,
    /// Three of five vote. While the other two voters are away, an operator has the leader make voters of
    /// the two standbys, both at once: with them it would be a majority, of which the other voters, who are
    /// a majority too, know nothing.
    Annexation,
}

impl Scheme {
    /// How many nodes it takes.
    pub(super) fn size(self) -> usize {
        match self {
            Scheme::FigureEight | Scheme::Amnesia => 3,
            Scheme::Succession | Scheme::Annexation => 5,
        }
    }
}

/// How far a scheme is; nodes by their position.
#[derive(Clone, Copy, Debug)]
enum Stage {
    /// Everything works.
    Peace,
    /// Nobody hears the first leader any more, or the victim alone does.
    Unheard { first: usize, victim: usize },
    /// Nobody hears the second one, either.
    Replaced { first: usize, second: usize },
    /// The second leader is down, and another one is to come.
    Succeeded { first: usize, second: usize },
    /// What comes up in the end, and what goes down.
    Doomed { up: usize, down: usize },
    /// One node is cut off from these two.
    Apart { first: usize, damaged: usize },
    /// The damaged one and the one that lacks it are alone, or with a leader that has it.
    Alone { down: usize },
    /// The leader is alone with those that are to become voters.
    Annexed { first: usize },
    /// Somebody leads again, perhaps who saw nothing of it.
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
        let stage = adversary.stage;
        let next = match (adversary.scheme, stage) {
            (_, Stage::Peace) if !is_over => None,
            (_, Stage::Last) => self.last(),
            (Scheme::FigureEight, _) => self.figure_eight(stage, is_over),
            (Scheme::Succession, _) => self.succession(stage, is_over),
            (Scheme::Amnesia, _) => self.amnesia(stage, is_over),
            (Scheme::Annexation, _) => self.annexation(stage),
        };
        if next.is_none() && !is_over {
            return adversary;
        }
        if next.is_none() {
            self.make_peace();
        }
        adversary.stage = next.unwrap_or(Stage::Peace);
        let election = u64::from(self.settings.election_ticks_max) * TICK;
        let time = match adversary.stage {
            Stage::Peace | Stage::Apart { .. } => self.random.between(20, 2 * election),
            Stage::Doomed { .. } => self.random.between(4, 8),
            Stage::Alone { .. } => 4 * election,
            _ => 8 * election,
        };
        adversary.until = self.now + time;
        adversary
    }

    fn figure_eight(&mut self, stage: Stage, is_over: bool) -> Option<Stage> {
        match stage {
            Stage::Peace => {
                let first = self.leader()?;
                self.silence(first, None);
                Some(Stage::Unheard {
                    first,
                    victim: first,
                })
            }
            Stage::Unheard { first, .. } => {
                let second = self.leads_beside(first)?;
                self.silence(second, None);
                Some(Stage::Replaced { first, second })
            }
            Stage::Replaced { first, second } => {
                let term = self.status(second)?.term;
                let (_, last) = self.nodes[second].disk.durable_end()?;
                if last.term.0 != term {
                    return None;
                }
                // Its no-op is on its own disk alone.
                self.network.mend();
                self.crash_for_good(second);
                Some(Stage::Succeeded { first, second })
            }
            Stage::Succeeded { first, second } => {
                let leader = self.status(first)?;
                let (index, held) = self.nodes[3 - first - second].disk.durable_end()?;
                let is_old = held.term.0 < leader.term && index > leader.commit;
                let is_of_first = self.nodes[first].told.entries.get(&index) == Some(&held);
                if leader.role != Role::Leader || !is_old || !is_of_first {
                    return None;
                }
                // Before it hears of that, and can send an entry of its own term.
                self.silence(first, None);
                Some(Stage::Doomed {
                    up: second,
                    down: first,
                })
            }
            Stage::Doomed { up, down } if is_over => {
                self.tally.count(Kind::FigureEight);
                self.network.mend();
                self.crash_for_good(down);
                self.start_again(up);
                Some(Stage::Last)
            }
            _ => None,
        }
    }

    fn succession(&mut self, stage: Stage, is_over: bool) -> Option<Stage> {
        match stage {
            Stage::Peace => {
                let first = self.leader()?;
                let victim = (first + 1 + self.random.below(4) as usize) % 5;
                self.silence(first, Some(victim));
                self.deafen(first);
                self.nodes[victim].stands_still_until = u64::MAX;
                Some(Stage::Unheard { first, victim })
            }
            Stage::Unheard { first, victim } => {
                let second = self.leads_beside(first)?;
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
                if !(0..5).any(|at| at != second && knows(at)) {
                    return None;
                }
                self.network.mend();
                self.silence(second, None);
                self.crash_for_good(second);
                Some(Stage::Succeeded {
                    first: victim,
                    second,
                })
            }
            Stage::Succeeded { first, second } => {
                self.leads_beside(second)?;
                Some(Stage::Doomed {
                    up: second,
                    down: first,
                })
            }
            Stage::Doomed { up, down } if is_over => {
                self.tally.count(Kind::Succession);
                self.network.mend();
                let crashes_at = self.now + self.random.between(2, 6);
                let victim = &mut self.nodes[down];
                victim.stands_still_until = self.now;
                victim.crashes_at = victim.process.is_some().then_some(crashes_at);
                self.start_again(up);
                Some(Stage::Last)
            }
            _ => None,
        }
    }

    fn amnesia(&mut self, stage: Stage, is_over: bool) -> Option<Stage> {
        match stage {
            Stage::Peace => {
                let first = self.leader()?;
                let damaged = (first + 1 + self.random.below(2) as usize) % 3;
                let third = 3 - first - damaged;
                self.silence(third, None);
                self.deafen(third);
                Some(Stage::Apart { first, damaged })
            }
            Stage::Apart { first, damaged } => {
                if !is_over || !self.faults.atlas.may_damage(damaged) {
                    return None;
                }
                self.crash_for_good(damaged);
                if self.random.per_mille(500) {
                    self.crash_for_good(first);
                }
                self.network.mend();
                self.rot_log(damaged);
                self.start_again(damaged);
                Some(Stage::Alone { down: first })
            }
            Stage::Alone { down } if is_over => {
                self.tally.count(Kind::Amnesia);
                self.start_again(down);
                Some(Stage::Last)
            }
            _ => None,
        }
    }

    fn annexation(&mut self, stage: Stage) -> Option<Stage> {
        match stage {
            Stage::Peace => {
                let first = self.leader()?;
                if !self.operators.is_idle() {
                    return None;
                }
                let members = self.nodes[first].running().replica.members();
                // Of the last time.
                if let Some(assigned) = members.iter().find(|member| member.assigned.is_some()) {
                    let (id, role) = (assigned.id, None);
                    self.request(first, MemberRequest::Assign { id, role });
                    return None;
                }
                let is_voter = |member: &&Member| member.role == MemberRole::Voter;
                let (voters, standbys): (Vec<_>, Vec<_>) = members.iter().partition(is_voter);
                if voters.len() != 3 {
                    return None;
                }
                let places = |members: &[&Member]| -> Vec<usize> {
                    let ids = members.iter().map(|member| member.id);
                    ids.filter_map(|id| self.position(id)).collect()
                };
                let mut away = places(&voters);
                away.retain(|voter| *voter != first);
                let mut beside = places(&standbys);
                beside.push(first);
                let now = self.now;
                for voter in away {
                    for peer in &beside {
                        self.network.cut((voter, *peer), now, u64::MAX);
                        self.network.cut((*peer, voter), now, u64::MAX);
                    }
                }
                for standby in standbys {
                    let (id, role) = (standby.id, Some(MemberRole::Voter));
                    self.request(first, MemberRequest::Assign { id, role });
                }
                self.tally.count(Kind::Annexation);
                Some(Stage::Annexed { first })
            }
            Stage::Annexed { first } => {
                self.leads_beside(first)?;
                Some(Stage::Last)
            }
            _ => None,
        }
    }

    fn last(&mut self) -> Option<Stage> {
        let is_past = self.nodes.iter().all(|node| node.crashes_at.is_none());
        if !is_past || self.leader().is_none() {
            return None;
        }
        self.make_peace();
        Some(Stage::Peace)
    }

    fn status(&self, at: usize) -> Option<Status> {
        let process = self.nodes[at].process.as_ref();
        process.map(|process| process.replica.status())
    }

    /// A leader of a later term than that node knows of, or than it had when it went down.
    fn leads_beside(&self, other: usize) -> Option<usize> {
        let end = self.nodes[other].disk.durable_end();
        let term = match self.status(other) {
            Some(status) => status.term,
            None => end.map_or(0, |(_, held)| held.term.0),
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
        if self.nodes[at].process.is_none() && self.nodes[at].refuses.is_none() {
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
