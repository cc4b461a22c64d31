//! A plugin of tests that records its calls, and answers as set up.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use parking_lot::Mutex;

use crate::framework::{
    BindingPlugin, Change, Permit, Plugin, Plugins, PodInfo, PreBinding, PreFilter, PreFlight, Refusal, Reserving, Snapshot, StateData,
    Status, WaitingPods,
};

/// Each try takes one answer from the front; where there is none all is well.
#[derive(Default)]
pub struct Probe {
    pub name: &'static str,
    pub log: Arc<Mutex<Vec<String>>>,
    pub reserves: Answers<Result<(), Status>>,
    pub permits: Answers<Permit>,
    pub pre_binds: Answers<Result<(), Status>>,
    /// It has something to write before the pod is bound.
    pub writes: bool,
    /// When a pod is placed.
    pub panics: bool,
}

type Answers<T> = Mutex<VecDeque<T>>;

/// What the first probe keeps of a pod: its name.
struct Seen(String);

/// What is reserved: by whom, for whom.
#[derive(Default)]
struct Reserved(Vec<(&'static str, String)>);

impl StateData for Seen {}
impl StateData for Reserved {}

/// Both, named `One` and `Two`, before the plugins that there are; and what they write down.
pub fn table(one: Probe, two: Probe) -> (Plugins, Arc<Mutex<Vec<String>>>) {
    let log = Arc::default();
    let made = |name: &'static str, probe: Probe| -> &'static Probe { Box::leak(Box::new(Probe { name, log: Arc::clone(&log), ..probe })) };
    let (one, two) = (made("One", one), made("Two", two));
    let probes: [&'static dyn Plugin; 2] = [one, two];
    (Box::leak(probes.into_iter().chain(crate::plugins::PLUGINS.iter().copied()).collect()), log)
}

pub fn answers<T>(all: impl IntoIterator<Item = T>) -> Answers<T> {
    Mutex::new(all.into_iter().collect())
}

pub fn long() -> Permit {
    Permit::Wait(Duration::from_secs(300))
}

impl Probe {
    fn say(&self, what: &str) {
        self.log.lock().push(format!("{} {what}", self.name));
    }
}

impl Plugin for Probe {
    fn name(&self) -> &'static str {
        self.name
    }

    fn pre_filter(&self, at: &mut PreFilter<'_>) -> Result<(), Refusal> {
        if self.name == "One" {
            at.keep(Seen(at.pod.key.name.clone()));
        }
        Ok(())
    }

    fn binding(&self) -> Option<&dyn BindingPlugin> {
        Some(self)
    }

    fn queueing_hint(&self, _pod: &PodInfo, change: &Change<'_>) -> bool {
        assert!(!(self.panics && matches!(change, Change::PodPlaced(_))), "as it was told");
        matches!(change, Change::NodeAdded(_))
    }
}

impl BindingPlugin for Probe {
    fn reserve(&self, at: &mut Reserving<'_>) -> Result<(), Status> {
        self.say("reserve");
        let Seen(pod) = at.state.read().expect("it was kept by the pre-filter");
        let mine = (self.name, pod.clone());
        match at.snapshot.reserved.edit::<Reserved>() {
            Some(reserved) => reserved.0.push(mine),
            None => at.snapshot.reserved.write(Reserved(vec![mine])),
        }
        let answer = self.reserves.lock().pop_front().unwrap_or(Ok(()));
        assert_ne!(answer, Err(Status::Error("panic".into())), "as it was told");
        answer
    }

    fn unreserve(&self, at: &mut Reserving<'_>) {
        self.say("unreserve");
        if let Some(reserved) = at.snapshot.reserved.edit::<Reserved>() {
            reserved.0.retain(|(by, of)| *by != self.name || *of != at.pod.key.name);
        }
    }

    fn permit(&self, _at: &mut Reserving<'_>, _waiting: &WaitingPods) -> Permit {
        self.say("permit");
        self.permits.lock().pop_front().unwrap_or(Permit::Allow)
    }

    fn pre_bind_pre_flight(&self, _at: &mut Reserving<'_>) -> Result<PreFlight, String> {
        Ok(if self.writes { PreFlight::Needed } else { PreFlight::Skip })
    }

    fn pre_bind<'a>(&'a self, at: PreBinding<'a>) -> BoxFuture<'a, Result<(), Status>> {
        async move {
            assert!(!at.node.is_empty() && at.state.read::<Seen>().is_some_and(|seen| seen.0 == at.pod.key.name));
            tokio::task::yield_now().await;
            self.say("pre_bind");
            self.pre_binds.lock().pop_front().unwrap_or(Ok(()))
        }
        .boxed()
    }
}

/// How much is reserved for all pods.
pub fn reserved(snapshot: &Snapshot) -> usize {
    snapshot.reserved.read::<Reserved>().map_or(0, |reserved| reserved.0.len())
}
