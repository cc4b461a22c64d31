//! What an administrator may say -> levels and flow schemas as plain data. Source: `flowcontrol.apiserver.k8s.io/v1`.

use std::borrow::Cow;

type Text = Cow<'static, str>;

/// The engine's own limits, and the tables it shares its seats by.
#[derive(Clone, Debug)]
pub struct Config {
    pub limits: Limits,
    pub levels: Vec<Level>,
    pub schemas: Vec<Schema>,
}

/// Requests served at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `--max-requests-inflight`; 0 is no limit where `fair` is off.
    pub reading: usize,
    /// `--max-mutating-requests-inflight`; 0 is no limit where `fair` is off.
    pub mutating: usize,
    /// `--enable-priority-and-fairness`: the two limits are one number of seats, shared between levels and flows.
    pub fair: bool,
}

/// A priority level: some seats, and what happens to requests for which there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Level {
    pub name: Text,
    /// Of its object; empty where there is none.
    pub uid: Text,
    /// Of all seats, relative to the other levels' (`nominalConcurrencyShares`).
    pub shares: u32,
    pub lendable_percent: u32,
    /// `None`: as many as others lend.
    pub borrowing_percent: Option<u32>,
    pub response: Response,
}

/// What becomes of a request for which no seat is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response {
    /// The level has no limit: nothing waits.
    Exempt,
    Reject,
    Queue(Queuing),
}

/// `queues` queues of at most `length` requests each; a flow is dealt `hand` of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queuing {
    pub queues: usize,
    pub hand: usize,
    pub length: usize,
}

/// Which requests are of a level, and what tells its flows apart.
#[derive(Clone, Debug)]
pub struct Schema {
    pub name: Text,
    /// Of its object; empty where there is none.
    pub uid: Text,
    pub level: Text,
    /// The lowest that matches counts (`matchingPrecedence`).
    pub precedence: i32,
    pub by: Option<Distinguisher>,
    pub rules: Vec<Rule>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distinguisher {
    User,
    Namespace,
}

/// Subjects, and what of their requests is meant.
#[derive(Clone, Debug, Default)]
pub struct Rule {
    pub subjects: Vec<Subject>,
    pub resources: Vec<Resources>,
    pub paths: Vec<Paths>,
}

/// `*` as a name is everyone of that sort.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    User(Text),
    Group(Text),
    Account { namespace: Text, name: Text },
}

/// Requests about resources; `*` alone in a list is all of them.
#[derive(Clone, Debug)]
pub struct Resources {
    pub verbs: Vec<Text>,
    pub groups: Vec<Text>,
    /// With subresource, as in `things/status`.
    pub resources: Vec<Text>,
    pub namespaces: Vec<Text>,
    /// Whether requests outside of namespaces are meant.
    pub cluster: bool,
}

/// Requests about no resource.
#[derive(Clone, Debug)]
pub struct Paths {
    pub verbs: Vec<Text>,
    pub paths: Vec<Text>,
}

impl Default for Limits {
    /// Upstream's.
    fn default() -> Self {
        Self { reading: 400, mutating: 200, fair: true }
    }
}

impl Config {
    /// The levels and schemas that cannot be taken away (`bootstrap.Mandatory*`): the administrators' requests, and everybody else's.
    pub fn mandatory(limits: Limits) -> Self {
        let exempt = Level {
            name: EXEMPT.into(),
            uid: "".into(),
            shares: 0,
            lendable_percent: 0,
            borrowing_percent: None,
            response: Response::Exempt,
        };
        let rest = Level { name: CATCH_ALL.into(), shares: 5, response: Response::Reject, ..exempt.clone() };
        let masters = Schema {
            name: EXEMPT.into(),
            uid: "".into(),
            level: EXEMPT.into(),
            precedence: 1,
            by: None,
            rules: vec![Rule::all_of(vec![Subject::Group("system:masters".into())])],
        };
        let everyone = Schema {
            name: CATCH_ALL.into(),
            uid: "".into(),
            level: CATCH_ALL.into(),
            precedence: 10_000,
            by: Some(Distinguisher::User),
            rules: vec![Rule::all_of(Subject::everyone())],
        };
        Self { limits, levels: vec![exempt, rest], schemas: vec![masters, everyone] }
    }
}

/// The level of what is never refused, and the schema of the administrators' requests.
pub const EXEMPT: &str = "exempt";
/// The level and the schema of what nothing else takes.
pub const CATCH_ALL: &str = "catch-all";

impl Subject {
    /// All that have passed authentication, and all that have not.
    pub fn everyone() -> Vec<Self> {
        vec![Self::Group("system:unauthenticated".into()), Self::Group("system:authenticated".into())]
    }
}

impl Rule {
    /// Whatever `subjects` ask.
    pub fn all_of(subjects: Vec<Subject>) -> Self {
        Self { subjects, resources: vec![Resources::all()], paths: vec![Paths::all()] }
    }
}

impl Resources {
    pub fn all() -> Self {
        let any = || vec![Text::from("*")];
        Self { verbs: any(), groups: any(), resources: any(), namespaces: any(), cluster: true }
    }
}

impl Paths {
    pub fn all() -> Self {
        Self { verbs: vec!["*".into()], paths: vec!["*".into()] }
    }
}
