//! What goes wrong, and when.

use super::adversary::Adversary;
use super::atlas::Atlas;
use super::cluster::Cluster;
use super::random::Random;
use super::settings::{Mode, Settings};
use super::tally::Kind;

/// How many of ten thousand units of time a fault strikes in.
type Chance = u64;

/// The chances of a run.
pub(crate) struct Faults {
    crash: Chance,
    restart: Chance,
    partition: Chance,
    reset: Chance,
    pause: Chance,
    /// Leadership is to be handed over.
    pub(super) transfer: Chance,
    /// A process is stopped in an orderly way.
    pub(super) stop: Chance,
    /// An operator changes something about the members.
    pub(super) membership: Chance,
    clock_jump: Chance,
    /// A disk becomes slow, or fast again.
    slow_disk: Chance,
    hung_disk: Chance,
    disk_error: Chance,
    full_disk: Chance,
    /// Damage to the disk of a node that is down.
    rot: Chance,
    misdirection: Chance,
    /// Damage to the file of a database.
    file_rot: Chance,
    pub(super) atlas: Atlas,
    /// Strikes instead of chance.
    adversary: Option<Adversary>,
}

impl Faults {
    pub(super) fn new(settings: &Settings, random: &mut Random) -> Faults {
        let by_chance = u64::from(settings.scheme.is_none());
        Faults {
            crash: random.one_of(&[0, 10, 30]),
            restart: random.between(50, 400),
            partition: random.one_of(&[0, 60, 150]),
            reset: random.one_of(&[0, 20, 60]),
            pause: random.one_of(&[0, 30, 100]),
            transfer: random.one_of(&[0, 20, 60]) * by_chance,
            stop: random.one_of(&[0, 10, 20]) * by_chance,
            membership: match settings.churns {
                true => random.one_of(&[30, 80]),
                false => 0,
            },
            clock_jump: random.one_of(&[0, 10, 50]),
            slow_disk: random.one_of(&[0, 20, 50]),
            hung_disk: random.one_of(&[0, 5, 15]),
            disk_error: random.one_of(&[0, 5, 15]),
            full_disk: random.one_of(&[0, 5, 15]),
            rot: match settings.mode {
                Mode::Recoverable | Mode::AnyFile => random.one_of(&[0, 20, 60]),
                Mode::AnyLog => random.one_of(&[300, 1_000]),
            },
            misdirection: match settings.mode {
                Mode::Recoverable | Mode::AnyFile => random.one_of(&[0, 10, 30]),
                Mode::AnyLog => random.one_of(&[100, 300]),
            },
            file_rot: match settings.mode {
                Mode::AnyFile => random.one_of(&[10, 50]),
                Mode::Recoverable | Mode::AnyLog => 0,
            },
            atlas: Atlas::new(settings),
            adversary: settings.scheme.map(Adversary::new),
        }
    }
}

impl Cluster {
    /// Perhaps something goes wrong now, or is repaired.
    pub(super) fn strike(&mut self) {
        if let Some(adversary) = self.faults.adversary.take() {
            self.faults.adversary = Some(self.plot(adversary));
            return;
        }
        let size = self.nodes.len();
        let at = self.random.below(size as u64) as usize;
        if self.nodes[at].process.is_none() {
            self.strike_what_is_down(at);
        } else if self.random.rarely(self.faults.crash) {
            self.crash_some(at);
        }
        if size > 1 && self.random.rarely(self.faults.partition) {
            self.cut(at);
        }
        if self.random.rarely(self.faults.pause) {
            self.pause(at);
        }
        for at in 0..size {
            let now = self.now;
            self.restart_soon(at);
            let node = &self.nodes[at];
            let is_switching = node.process.is_some() && node.disk.is_switching();
            if is_switching && self.random.rarely(self.faults.crash * 20) {
                let power_fails = self.random.per_mille(500);
                self.crash(at, power_fails);
            } else if is_switching && self.random.rarely(self.faults.hung_disk * 40) {
                self.hang_switch(at);
            }
            let health = &mut self.nodes[at].disk.health;
            health.is_full &= now < health.full_until;
        }
        self.end_the_doomed();
        if size > 1 && self.random.rarely(self.faults.reset) {
            let peer = self.random.below(size as u64) as usize;
            self.tally.count(Kind::Reset);
            self.lose_connection(at, peer);
        }
        if self.random.rarely(self.faults.clock_jump) {
            let seconds = self.random.one_of(&[-3600, -1, 1, 3600]);
            let ticks = match self.settings.lease_ticks {
                0 => self.random.below(6),
                _ => 0,
            };
            self.nodes[at].clock.jump(seconds, ticks);
            self.tally.count(Kind::ClockJump);
        }
        if self.random.rarely(self.faults.file_rot) {
            let rotten = self.nodes[at].disk.files.rot(&mut self.random);
            self.tally.add(Kind::FileRot, u64::from(rotten));
        }
        self.strike_disk(at);
    }

    fn strike_what_is_down(&mut self, at: usize) {
        if self.nodes[at].refuses.is_some() || self.nodes[at].is_retired {
            return;
        }
        let random = &mut self.random;
        let node = &self.nodes[at];
        if random.rarely(self.faults.rot) {
            let may_damage = self.faults.atlas.may_damage(at);
            if may_damage && random.per_mille(60) {
                node.disk.rot_both_copies(random);
                self.faults.atlas.damaged(at);
                self.tally.count(Kind::BothCopiesRot);
            } else if may_damage && random.per_mille(600) {
                self.rot_log(at);
            } else {
                let rotten = node.disk.rot_copy(random);
                self.tally.add(Kind::BitRot, u64::from(rotten));
            }
        }
        if self.random.rarely(self.faults.misdirection) && self.faults.atlas.may_damage(at) {
            let node = &self.nodes[at];
            if node.disk.misdirect(&mut self.random) {
                self.faults.atlas.damaged(at);
                self.tally.count(Kind::MisdirectedWrite);
            }
        }
        if self.random.rarely(self.faults.restart) {
            self.start(at);
        }
    }

    pub(super) fn rot_log(&mut self, at: usize) {
        if self.nodes[at].disk.rot_log(&mut self.random) {
            self.faults.atlas.damaged(at);
            self.tally.count(Kind::LogRot);
        }
    }

    /// Whoever looks after the processes starts them again.
    fn restart_soon(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let due = node.restarts_at.is_some_and(|then| then <= self.now);
        let is_down = node.process.is_none() && !node.is_retired;
        if due && is_down && node.refuses.is_none() {
            self.start(at);
        }
    }

    /// A snapshot takes the place of everything on a node for so long that somebody else leads meanwhile,
    /// who perhaps has the entries that the node lacked.
    fn hang_switch(&mut self, at: usize) {
        let now = self.now;
        let election = u64::from(self.settings.election_ticks_max) * super::clock::TICK;
        let until = now + self.random.between(election, 4 * election);
        let health = &mut self.nodes[at].disk.health;
        if health.hangs_until > now {
            return;
        }
        health.hangs_until = until;
        self.tally.count(Kind::HungSwitch);
        if let Some(leader) = self.leader().filter(|leader| *leader != at) {
            self.crash(leader, false);
        }
    }

    /// Those whose last turn it was.
    pub(super) fn end_the_doomed(&mut self) {
        for at in 0..self.nodes.len() {
            if self.nodes[at]
                .crashes_at
                .is_some_and(|then| then <= self.now)
            {
                let power_fails = self.random.per_mille(500);
                self.crash(at, power_fails);
            }
        }
    }

    fn crash_some(&mut self, at: usize) {
        let power_fails = self.random.per_mille(600);
        self.crash(at, power_fails);
        // Now and then the power of the whole room fails.
        if power_fails && self.random.per_mille(150) {
            self.tally.count(Kind::RoomPowerLoss);
            for other in 0..self.nodes.len() {
                if self.nodes[other].process.is_some() {
                    self.crash(other, true);
                }
            }
        }
    }

    fn strike_disk(&mut self, at: usize) {
        let now = self.now;
        let random = &mut self.random;
        let node = &mut self.nodes[at];
        if node.process.is_none() {
            return;
        }
        let health = &mut node.disk.health;
        if random.rarely(self.faults.slow_disk) {
            health.slow_per_mille = random.one_of(&[0, 50, 300, 1000]);
        }
        if random.rarely(self.faults.hung_disk) && health.hangs_until <= now {
            health.hangs_until = now + random.between(20, 800);
            self.tally.count(Kind::HungDisk);
        }
        if random.rarely(self.faults.full_disk) {
            health.is_full = true;
            health.full_until = now + random.between(20, 400);
        }
        if random.rarely(self.faults.disk_error) {
            match random.below(4) {
                0 => node.file_fails = true,
                1 => node.read_fails = true,
                _ => health.fails = true,
            }
        }
    }

    /// A process gets no time for a while, and has a lot to do in one turn then; now and then it is
    /// its last one.
    fn pause(&mut self, at: usize) {
        let leader = self.leader();
        let random = &mut self.random;
        let at = leader.filter(|_| random.per_mille(300)).unwrap_or(at);
        let election = u64::from(self.settings.election_ticks_max) * super::clock::TICK;
        let is_long = random.per_mille(500);
        let length = match is_long {
            true => random.between(election, 3 * election),
            false => random.between(2, election / 2),
        };
        let until = self.now + length;
        let crashes = random.per_mille(200);
        let soon = until + random.between(1, 6);
        let node = &mut self.nodes[at];
        if node.process.is_some() {
            self.tally.count(match is_long {
                true => Kind::LongPause,
                false => Kind::ShortPause,
            });
            node.stands_still_until = until;
            node.crashes_at = crashes.then_some(soon);
        }
    }

    fn cut(&mut self, at: usize) {
        let size = self.nodes.len();
        let leader = self.leader();
        let random = &mut self.random;
        // The leader is the most interesting one.
        let at = leader.filter(|_| random.per_mille(600)).unwrap_or(at);
        let peer = random.below(size as u64) as usize;
        let now = self.now;
        let until = now + random.between(10, 500);
        let network = &mut self.network;
        let mut cut = |from, to| network.cut((from, to), now, until);
        match random.below(8) {
            0 => {
                let side = random.number();
                let side_of = |node: usize| (side >> node) & 1;
                for from in 0..size {
                    for to in (0..size).filter(|to| side_of(from) != side_of(*to)) {
                        cut(from, to);
                    }
                }
                self.tally.count(Kind::Split);
            }
            1..4 => {
                for peer in 0..size {
                    cut(at, peer);
                    cut(peer, at);
                }
                self.tally.count(Kind::Isolation);
            }
            // A partial mesh.
            4 => {
                cut(at, peer);
                cut(peer, at);
                self.tally.count(Kind::BrokenLink);
            }
            // One node is deaf, or dumb.
            5 => {
                let deaf = random.per_mille(500);
                for peer in 0..size {
                    if deaf { cut(peer, at) } else { cut(at, peer) }
                }
                self.tally.count(Kind::OneWay);
            }
            6 => {
                cut(at, peer);
                self.tally.count(Kind::OneWay);
            }
            // The links of one node go one by one, and come back in another order.
            _ => {
                for peer in 0..size {
                    let begin = now + random.below(100);
                    let end = begin + random.between(20, 400);
                    network.cut((at, peer), begin, end);
                    network.cut((peer, at), begin, end);
                }
                self.tally.count(Kind::Swizzle);
            }
        }
    }
}
