//! Answers of other servers -> the same to who asks next, while they hold and at most half a minute.
//!
//! Source: CoreDNS' plugin `cache` as kubeadm sets it (`cache 30`). Other than there, no answer outlives its own TTL and failures are not kept.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    answer_cache::{Age, CachedAnswer, Kind},
    question::Key,
    reply::UDP_PAYLOAD,
};

const HOLD_MAX: Duration = Duration::from_secs(30);
/// Of answers, and as many of refusals: names that do not exist drive nothing out that does.
const ANSWERS_MAX: usize = 9984;
/// Larger answers are rare, and asked for again.
const ANSWER_SIZE_MAX: usize = UDP_PAYLOAD as usize;

#[derive(Default)]
pub struct Cache {
    answers: Store,
    refusals: Store,
}

#[derive(Default)]
struct Store {
    aged: HashMap<Arc<[u8]>, Aged>,
    /// When each was put in, oldest first. One that was replaced stands here twice.
    order: VecDeque<(Arc<[u8]>, Instant)>,
}

struct Aged {
    kept: CachedAnswer,
    since: Instant,
    until: Instant,
}

impl Cache {
    /// The answer, as old as it is by now.
    pub fn tell(&mut self, key: &Key, query: &[u8], now: Instant) -> Option<&[u8]> {
        let stores = [&mut self.answers, &mut self.refusals];
        let found = stores.into_iter().find_map(|s| s.aged.get_mut(key.bytes()).filter(|a| now < a.until))?;
        let age = u32::try_from(now.saturating_duration_since(found.since).as_secs()).unwrap_or(u32::MAX);
        Some(found.kept.tell(key, query, Age::Seconds(age)))
    }

    /// Keeps an answer, if it is one that holds for a while.
    pub fn keep(&mut self, key: &Key, query: &[u8], reply: &[u8], now: Instant) {
        if reply.len() > ANSWER_SIZE_MAX {
            return;
        }
        let Some(kept) = CachedAnswer::new(key, query, reply) else { return };
        let hold = Duration::from_secs(kept.seconds().into()).min(HOLD_MAX);
        let store = match kept.kind() {
            Kind::Answer => &mut self.answers,
            Kind::Refusal => &mut self.refusals,
            Kind::Other => return,
        };
        if !hold.is_zero() {
            store.insert(key.bytes().into(), Aged { kept, since: now, until: now + hold });
        }
    }
}

impl Store {
    fn insert(&mut self, key: Arc<[u8]>, aged: Aged) {
        let now = aged.since;
        self.order.push_back((key.clone(), now));
        self.aged.insert(key, aged);
        while self.order.len() > ANSWERS_MAX || self.order.front().is_some_and(|(key, since)| self.is_over(key, *since, now)) {
            let Some((key, since)) = self.order.pop_front() else { return };
            if self.aged.get(&key).is_some_and(|a| a.since == since) {
                self.aged.remove(&key);
            }
        }
    }

    /// Expired, or replaced by a newer one.
    fn is_over(&self, key: &[u8], since: Instant, now: Instant) -> bool {
        self.aged.get(key).is_none_or(|a| a.since != since || a.until <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::tests::query;
    use hickory_proto::{
        op::{Message, ResponseCode},
        rr::{Name, RData, Record, RecordType, rdata},
    };

    struct Questions {
        message: Message,
        bytes: Vec<u8>,
        key: Key,
    }

    fn asked(name: &str) -> Questions {
        let message = query(name, RecordType::A);
        let bytes = message.to_vec().unwrap();
        Questions { key: Key::of(&bytes).unwrap(), message, bytes }
    }

    impl Questions {
        fn answer(&self, ttl: u32) -> Vec<u8> {
            let mut reply = self.message.clone().into_response();
            reply.add_answer(Record::from_rdata(self.message.queries[0].name.clone(), ttl, RData::A(rdata::A::new(192, 0, 2, 7))));
            reply.to_vec().unwrap()
        }

        fn refusal(&self, code: ResponseCode, minimum: u32) -> Vec<u8> {
            let mut reply = self.message.clone().into_response();
            reply.metadata.response_code = code;
            let name = Name::from_ascii("example.").unwrap();
            let soa = RData::SOA(rdata::SOA::new(name.clone(), name.clone(), 1, 7200, 1800, 86400, minimum));
            reply.add_authority(Record::from_rdata(name, 3600, soa));
            reply.to_vec().unwrap()
        }

        fn seconds_kept(&self, reply: &[u8]) -> u64 {
            let (mut cache, now) = (Cache::default(), Instant::now());
            cache.keep(&self.key, &self.bytes, reply, now);
            (0..).find(|s| cache.tell(&self.key, &self.bytes, now + Duration::from_secs(*s)).is_none()).unwrap()
        }
    }

    #[test]
    fn answers_are_kept_as_long_as_they_hold_and_half_a_minute_at_most() {
        let a = asked("a.example.");
        for (ttl, kept) in [(0, 0), (1, 1), (29, 29), (30, 30), (300, 30), (u32::MAX, 30)] {
            assert_eq!(a.seconds_kept(&a.answer(ttl)), kept, "{ttl}");
        }
        for (code, minimum, kept) in [
            (ResponseCode::NXDomain, 11, 11),
            (ResponseCode::NoError, 300, 30),
            (ResponseCode::NXDomain, 0, 0),
            (ResponseCode::ServFail, 11, 0),
            (ResponseCode::Refused, 11, 0),
        ] {
            assert_eq!(a.seconds_kept(&a.refusal(code, minimum)), kept, "{code} {minimum}");
        }
        assert_eq!(a.seconds_kept(&a.message.clone().into_response().to_vec().unwrap()), 0, "a refusal without SOA");
    }

    #[test]
    fn a_kept_answer_says_how_long_it_still_holds() {
        let (a, now) = (asked("a.example."), Instant::now());
        let mut cache = Cache::default();
        cache.keep(&a.key, &a.bytes, &a.answer(300), now);
        for (later, left) in [(0, 300), (900, 300), (1000, 299), (29_999, 271)] {
            let again = asked("A.Example.");
            let told = Message::from_vec(cache.tell(&again.key, &again.bytes, now + Duration::from_millis(later)).unwrap()).unwrap();
            assert_eq!((told.metadata.id, told.answers[0].ttl), (again.message.metadata.id, left));
        }
        assert!(cache.tell(&asked("b.example.").key, &a.bytes, now).is_none());
        // What came later replaces it, and is not dropped with it.
        let later = now + Duration::from_secs(20);
        cache.keep(&a.key, &a.bytes, &a.answer(60), later);
        cache.keep(&asked("b.example.").key, &asked("b.example.").bytes, &asked("b.example.").answer(60), now + Duration::from_secs(40));
        assert!(cache.tell(&a.key, &a.bytes, now + Duration::from_secs(45)).is_some());
        assert_eq!(cache.answers.order.len(), 2);
    }

    #[test]
    fn there_is_a_bound_and_the_oldest_go_first() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        let all: Vec<Questions> = (0..ANSWERS_MAX + 100).map(|i| asked(&format!("n{i}.example."))).collect();
        let refused = asked("none.example.");
        cache.keep(&refused.key, &refused.bytes, &refused.refusal(ResponseCode::NXDomain, 30), now);
        for one in &all {
            cache.keep(&one.key, &one.bytes, &one.answer(30), now);
        }
        assert_eq!((cache.answers.aged.len(), cache.answers.order.len()), (ANSWERS_MAX, ANSWERS_MAX));
        assert!(cache.tell(&all[99].key, &all[99].bytes, now).is_none() && cache.tell(&all[100].key, &all[100].bytes, now).is_some());
        assert!(cache.tell(&refused.key, &refused.bytes, now).is_some());
        // All expired: the next one clears them away.
        cache.keep(&refused.key, &refused.bytes, &refused.answer(30), now + Duration::from_secs(31));
        assert_eq!((cache.answers.aged.len(), cache.answers.order.len()), (1, 1));
    }

    #[test]
    fn large_answers_are_not_kept() {
        let a = asked("a.example.");
        let mut reply = a.message.clone().into_response();
        let name = a.message.queries[0].name.clone();
        reply.add_answers((0..90).map(|i| Record::from_rdata(name.clone(), 30, RData::A(rdata::A::new(192, 0, 2, i)))));
        assert_eq!(a.seconds_kept(&reply.to_vec().unwrap()), 0);
    }
}
