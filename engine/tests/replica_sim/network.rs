//! A network that loses, delays, reorders and repeats messages, and whose links can be cut in
//! either direction.

use std::collections::{BTreeMap, BTreeSet};

use ringlite_raft::Message;

use super::random::Random;

/// How bad the network is; chances per mille.
#[derive(Clone, Copy)]
pub(crate) struct Weather {
    pub(crate) loss: u64,
    pub(crate) repeat: u64,
    pub(crate) slow: u64,
    pub(crate) slow_time_max: u64,
}

impl Weather {
    pub(crate) const CALM: Weather = Weather {
        loss: 0,
        repeat: 0,
        slow: 0,
        slow_time_max: 1,
    };

    pub(crate) fn drawn(random: &mut Random) -> Weather {
        Weather {
            loss: random.one_of(&[0, 0, 20, 100]),
            repeat: random.one_of(&[0, 50, 200]),
            slow: random.one_of(&[0, 20, 150]),
            slow_time_max: random.between(10, 200),
        }
    }
}

pub(crate) struct Network {
    pub(crate) weather: Weather,
    /// (from, to): nothing passes.
    pub(crate) cut: BTreeSet<(usize, usize)>,
    /// By arrival time and a sequence number.
    under_way: BTreeMap<(u64, u64), (usize, usize, Message)>,
    sequence: u64,
    pub(crate) lost: u64,
    pub(crate) repeated: u64,
}

impl Network {
    pub(crate) fn new() -> Network {
        Network {
            weather: Weather::CALM,
            cut: BTreeSet::new(),
            under_way: BTreeMap::new(),
            sequence: 0,
            lost: 0,
            repeated: 0,
        }
    }

    pub(crate) fn send(
        &mut self,
        (from, to): (usize, usize),
        message: &Message,
        now: u64,
        random: &mut Random,
    ) {
        if self.cut.contains(&(from, to)) || random.per_mille(self.weather.loss) {
            self.lost += 1;
            return;
        }
        let copies = 1 + u64::from(random.per_mille(self.weather.repeat));
        self.repeated += copies - 1;
        for _ in 0..copies {
            let slow = random.per_mille(self.weather.slow);
            let delay = random.between(1, if slow { self.weather.slow_time_max } else { 2 });
            self.sequence += 1;
            self.under_way
                .insert((now + delay, self.sequence), (from, to, message.clone()));
        }
    }

    /// The messages that arrive now. A cut link also swallows what was under way.
    pub(crate) fn arrivals(&mut self, now: u64) -> Vec<(usize, usize, Message)> {
        let later = self.under_way.split_off(&(now + 1, 0));
        let due = std::mem::replace(&mut self.under_way, later);
        let arrived: Vec<_> = due.into_values().collect();
        let sent = arrived.len();
        let arrived: Vec<_> = arrived
            .into_iter()
            .filter(|(from, to, _)| !self.cut.contains(&(*from, *to)))
            .collect();
        self.lost += (sent - arrived.len()) as u64;
        arrived
    }
}
