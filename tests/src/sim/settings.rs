//! What differs from run to run: everything here is drawn from the seed.

use ringlite::replica::{Config, RoleTargets};

use super::adversary::Scheme;
use super::node::Identity;
use super::random::Random;

/// How much may break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// A majority's disks keep all that they were given: everything must recover.
    Recoverable,
    /// Any log may be damaged: the cluster must recover or refuse, and never lie.
    AnyLog,
    /// Any database file may be damaged, which nothing repairs but new writes: what is damaged must be
    /// told, and never be given out.
    AnyFile,
}

/// The settings of a run.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) size: usize,
    pub(crate) mode: Mode,
    /// An adversary, instead of random faults.
    pub(crate) scheme: Option<Scheme>,
    /// How long the storm lasts, in units of time.
    pub(crate) storm_units: u64,
    pub(crate) segment_bytes: u64,
    pub(crate) election_ticks_max: u32,
    clocks_differ: bool,
    /// Whether nodes join, leave, and are replaced.
    pub(crate) churns: bool,
    roles: RoleTargets,
    pub(crate) voter_gone_ticks: u64,
    lag_entries_max: u64,
    /// How many of a thousand statements leave the core.
    pub(crate) leave_per_mille: u64,
    election_ticks_min: u32,
    heartbeat_ticks: u32,
    /// 0: reads are never answered without asking.
    pub(crate) lease_ticks: u32,
    disk_stall_ticks: u32,
    append_bytes_max: usize,
    window_bytes_max: usize,
    log_cache_bytes_max: usize,
    batches_in_flight_max: usize,
    uncommitted_bytes_max: usize,
    write_queue_max: usize,
    pub(crate) write_idle_ticks: u64,
    part_bytes: usize,
    backfill_bytes: u64,
    backfill_ticks_max: u64,
    wal_bytes_max: u64,
    pub(crate) log_window_bytes: u64,
}

impl Settings {
    pub(crate) fn drawn(seed: u64, random: &mut Random) -> Settings {
        let mode = match seed % 16 {
            7 => Mode::AnyFile,
            15 => Mode::AnyLog,
            _ => Mode::Recoverable,
        };
        let size = match mode {
            Mode::AnyLog => random.one_of(&[1, 1, 3, 3, 5]),
            Mode::AnyFile | Mode::Recoverable => random.one_of(&[1, 3, 3, 3, 3, 3, 4, 5, 5, 6, 7]),
        };
        let scheme = match seed % 16 {
            3 => Some(Scheme::FigureEight),
            5 => Some(Scheme::Amnesia),
            11 => Some(Scheme::Succession),
            13 => Some(Scheme::Annexation),
            _ => None,
        };
        let size = scheme.map_or(size, Scheme::size);
        // The longer it is, the longer an old leader goes on beside a new one.
        let election_ticks_max = random.one_of(&[10, 20, 50]);
        let election_ticks_min = election_ticks_max / 2;
        let has_leases = random.per_mille(250) && scheme.is_none();
        let clocks_differ = random.per_mille(500);
        let churns = mode == Mode::Recoverable && scheme.is_none() && random.per_mille(400);
        Settings {
            size,
            mode,
            scheme,
            clocks_differ,
            churns,
            roles: match churns {
                true => RoleTargets {
                    voters: random.one_of(&[1, 3, 3, 5]),
                    standbys: random.one_of(&[0, 1, 3]),
                },
                false => RoleTargets {
                    voters: match scheme {
                        Some(Scheme::Annexation) => 3,
                        _ => size.max(3),
                    },
                    standbys: 3,
                },
            },
            voter_gone_ticks: match churns {
                true => random.one_of(&[60, 150]),
                false => 6_000,
            },
            lag_entries_max: random.one_of(&[3, 1024]),
            storm_units: random.one_of(&[2_000, 3_000, 4_000, 4_000, 6_000]),
            segment_bytes: random.one_of(&[128 << 10, 256 << 10, 1 << 20]),
            election_ticks_max,
            leave_per_mille: random.one_of(&[0, 50, 500]),
            election_ticks_min,
            lease_ticks: match has_leases {
                true => (election_ticks_min - 1) * 8 / 10,
                false => 0,
            },
            disk_stall_ticks: random.one_of(&[0, 40, 200]),
            heartbeat_ticks: random.between(1, u64::from(election_ticks_max) / 5) as u32,
            append_bytes_max: match scheme {
                // One entry after the other.
                Some(Scheme::FigureEight) => 1,
                _ => random.one_of(&[6_000, 12_000, 100_000]),
            },
            window_bytes_max: random.one_of(&[10_000, 30_000, 200_000]),
            log_cache_bytes_max: random.one_of(&[0, 20_000, 1 << 20]),
            batches_in_flight_max: random.one_of(&[1, 1, 2, 8]),
            uncommitted_bytes_max: random.one_of(&[1, 20_000, 1 << 20]),
            write_queue_max: random.one_of(&[1, 3, 100]),
            write_idle_ticks: random.one_of(&[15, 40]),
            part_bytes: random.one_of(&[5_000, 9_000, 60_000]),
            backfill_bytes: random.one_of(&[1, 30_000, 1 << 20]),
            backfill_ticks_max: random.one_of(&[5, 100]),
            wal_bytes_max: random.one_of(&[1, 60_000, 1 << 20]),
            log_window_bytes: random.one_of(&[10_000, 60_000, 400_000, 1 << 40]),
        }
    }

    /// The rate of a node's clock; a right one has 1000.
    pub(crate) fn clock_rate(&self, random: &mut Random) -> u64 {
        match (self.clocks_differ, self.lease_ticks > 0) {
            // What leases assume of clocks.
            (true, true) => random.between(950, 1050),
            (true, false) => random.between(900, 1100),
            (false, _) => 1000,
        }
    }

    /// What a node is told at its start.
    pub(crate) fn config(&self, identity: &Identity, seed: u64) -> Config {
        let mut raft = ringlite_raft::Config::new(identity.id, Vec::new(), seed);
        raft.bootstrap = identity.bootstrap();
        raft.lag_entries_max = self.lag_entries_max;
        raft.election_timeout_ticks_min = self.election_ticks_min;
        raft.election_timeout_ticks_max = self.election_ticks_max;
        raft.heartbeat_ticks = self.heartbeat_ticks;
        raft.lease_ticks = self.lease_ticks;
        raft.disk_stall_ticks = self.disk_stall_ticks;
        raft.append_bytes_max = self.append_bytes_max;
        raft.window_bytes_max = self.window_bytes_max;
        raft.log_cache_bytes_max = self.log_cache_bytes_max;
        let mut config = Config::new(raft, identity.known.clone());
        config.roles = self.roles;
        config.voter_gone_ticks = self.voter_gone_ticks;
        config.member_wait_ticks = 150;
        config.write_wait_ticks = 60;
        config.write_idle_ticks = self.write_idle_ticks;
        config.write_queue_max = self.write_queue_max;
        config.batches_in_flight_max = self.batches_in_flight_max;
        config.uncommitted_bytes_max = self.uncommitted_bytes_max;
        config.part_bytes = self.part_bytes;
        config.backfill_bytes = self.backfill_bytes;
        config.backfill_ticks_max = self.backfill_ticks_max;
        config.wal_bytes_max = self.wal_bytes_max;
        config.log_window_bytes = self.log_window_bytes;
        config
    }
}
