//! Which requests of a cluster belong together, and how much of the server each sort gets: upstream's suggested configuration.
//!
//! As data ([`objects`] makes of it what is stored, [`keep`] keeps that as it must be); what is stored drives the server ([`drive()`]). Source: apiserver `pkg/apis/flowcontrol/bootstrap/default.go`.

mod digest;
mod drive;
pub mod keep;
pub mod objects;

use api::GroupResource;

use apiserver::fairness::{Config, Distinguisher, Level, Limits, Paths, Queuing, Resources, Response, Rule, Schema, Subject};

pub use drive::drive;

pub const GROUP: &str = "flowcontrol.apiserver.k8s.io";
/// The condition of a flow schema whose level does not exist.
pub const DANGLING: &str = "Dangling";
/// Whether the server may change the spec of an object that it has made.
const AUTO_UPDATE: &str = "apf.kubernetes.io/autoupdate-spec";

/// Name, shares, percent that can be lent, queues, hand. All queues are [`LENGTH`] long.
const LEVELS: [(&str, u32, u32, usize, usize); 6] = [
    // Nodes and what they run: the cluster maintains itself by it.
    ("system", 30, 33, 64, 6),
    // Nodes that say that they are alive, whatever else they ask for.
    ("node-high", 40, 25, 64, 6),
    ("leader-election", 10, 0, 16, 4),
    // Controllers and scheduler.
    ("workload-high", 40, 50, 128, 6),
    // What runs in the cluster.
    ("workload-low", 100, 90, 128, 6),
    ("global-default", 20, 50, 128, 6),
];
const LENGTH: usize = 50;

const CONTROLLER_MANAGER: &str = "system:kube-controller-manager";
const SCHEDULER: &str = "system:kube-scheduler";
const NODES: &str = "system:nodes";

/// Upstream's mandatory and suggested levels and flow schemas.
pub fn config(limits: Limits) -> Config {
    let mut config = Config::mandatory(limits);
    config.levels.extend(LEVELS.map(|(name, shares, lendable_percent, queues, hand)| Level {
        name: name.into(),
        uid: "".into(),
        shares,
        lendable_percent,
        borrowing_percent: None,
        response: Response::Queue(Queuing { queues, hand, length: LENGTH }),
    }));
    config.schemas.extend(suggested_schemas());
    config
}

fn suggested_schemas() -> Vec<Schema> {
    use Distinguisher::{Namespace, User};
    let all = |subjects| vec![Rule::all_of(subjects)];
    vec![
        schema("probes", "exempt", 2, None, vec![probes()]),
        schema("system-leader-election", "leader-election", 100, Some(User), vec![leases_of_leaders()]),
        schema("system-node-high", "node-high", 400, Some(User), vec![nodes_and_their_leases()]),
        schema("system-nodes", "system", 500, Some(User), all(vec![Subject::Group(NODES.into())])),
        schema("kube-controller-manager", "workload-high", 800, Some(Namespace), all(vec![Subject::User(CONTROLLER_MANAGER.into())])),
        schema("kube-scheduler", "workload-high", 800, Some(Namespace), all(vec![Subject::User(SCHEDULER.into())])),
        schema("kube-system-service-accounts", "workload-high", 900, Some(Namespace), all(vec![of_the_system()])),
        schema("service-accounts", "workload-low", 9000, Some(User), all(vec![Subject::Group("system:serviceaccounts".into())])),
        schema("global-default", "global-default", 9900, Some(User), all(Subject::everyone())),
    ]
}

fn levels() -> GroupResource {
    GroupResource::new(GROUP, "prioritylevelconfigurations")
}

fn schemas() -> GroupResource {
    GroupResource::new(GROUP, "flowschemas")
}

fn schema(name: &'static str, level: &'static str, precedence: i32, by: Option<Distinguisher>, rules: Vec<Rule>) -> Schema {
    Schema { name: name.into(), uid: "".into(), level: level.into(), precedence, by, rules }
}

fn of_the_system() -> Subject {
    Subject::Account { namespace: "kube-system".into(), name: "*".into() }
}

fn probes() -> Rule {
    let paths = Paths { verbs: vec!["get".into()], paths: vec!["/healthz".into(), "/readyz".into(), "/livez".into()] };
    Rule { subjects: Subject::everyone(), resources: Vec::new(), paths: vec![paths] }
}

fn leases_of_leaders() -> Rule {
    let subjects = vec![Subject::User(CONTROLLER_MANAGER.into()), Subject::User(SCHEDULER.into()), of_the_system()];
    let verbs = vec!["get".into(), "create".into(), "update".into()];
    Rule { subjects, resources: vec![Resources { verbs, ..leases() }], paths: Vec::new() }
}

fn nodes_and_their_leases() -> Rule {
    let resources = vec!["nodes".into(), "nodes/status".into()];
    let nodes = Resources { groups: vec!["".into()], resources, ..Resources::all() };
    Rule { subjects: vec![Subject::Group(NODES.into())], resources: vec![nodes, leases()], paths: Vec::new() }
}

fn leases() -> Resources {
    Resources { groups: vec!["coordination.k8s.io".into()], resources: vec!["leases".into()], cluster: false, ..Resources::all() }
}

#[cfg(test)]
mod tests {
    use apiserver::{
        fairness::{Fairness, RequestDigest},
        identity,
    };

    use super::*;

    fn user(name: &str, groups: &[&str]) -> identity::User {
        let mut groups: Vec<String> = groups.iter().map(|group| (*group).to_owned()).collect();
        groups.push("system:authenticated".into());
        identity::User { name: name.into(), groups, ..identity::User::default() }
    }

    fn account(namespace: &str, name: &str) -> identity::User {
        user(
            &format!("system:serviceaccount:{namespace}:{name}"),
            &["system:serviceaccounts", &format!("system:serviceaccounts:{namespace}")],
        )
    }

    /// `verb group/resource[/subresource] namespace`, `-` being the empty group or namespace.
    fn asked<'a>(user: &'a identity::User, text: &'a str) -> RequestDigest<'a> {
        let empty = |text: &'a str| if text == "-" { "" } else { text };
        let words: Vec<&str> = text.split(' ').collect();
        let what: Vec<&str> = words[1].split('/').collect();
        RequestDigest {
            user,
            resource_request: true,
            verb: words[0],
            group: empty(what[0]),
            resource: what[1],
            subresource: what.get(2).copied().unwrap_or_default(),
            namespace: empty(words[2]),
            path: "",
        }
    }

    #[test]
    fn everybody_has_the_level_that_upstream_gives_them() {
        let fairness = Fairness::new(&config(Limits::default()));
        let (node, manager, scheduler) = (user("system:node:a", &[NODES]), user(CONTROLLER_MANAGER, &[]), user(SCHEDULER, &[]));
        let (controller, pod, person) = (account("kube-system", "deployment-controller"), account("shop", "web"), user("ann", &["dev"]));
        let master = user("root", &["system:masters"]);
        for (user, request, schema, level) in [
            (&master, "create -/pods shop", "exempt", "exempt"),
            (&manager, "update coordination.k8s.io/leases kube-system", "system-leader-election", "leader-election"),
            (&manager, "list coordination.k8s.io/leases -", "kube-controller-manager", "workload-high"),
            (&scheduler, "create coordination.k8s.io/leases kube-system", "system-leader-election", "leader-election"),
            (&scheduler, "create -/pods/binding shop", "kube-scheduler", "workload-high"),
            (&controller, "update coordination.k8s.io/leases kube-system", "system-leader-election", "leader-election"),
            (&controller, "create apps/replicasets shop", "kube-system-service-accounts", "workload-high"),
            (&node, "update coordination.k8s.io/leases kube-node-lease", "system-node-high", "node-high"),
            (&node, "patch -/nodes/status -", "system-node-high", "node-high"),
            (&node, "get -/nodes -", "system-node-high", "node-high"),
            (&node, "patch -/pods/status shop", "system-nodes", "system"),
            (&pod, "create authorization.k8s.io/selfsubjectaccessreviews -", "service-accounts", "workload-low"),
            (&pod, "update coordination.k8s.io/leases shop", "service-accounts", "workload-low"),
            (&account("kube-systemic", "x"), "get -/pods shop", "service-accounts", "workload-low"),
            (&person, "list -/pods shop", "global-default", "global-default"),
        ] {
            assert_eq!(fairness.classify(&asked(user, request)).names(), (level, schema), "{} {request}", user.name);
        }
    }

    #[test]
    fn probes_are_exempt_and_other_paths_are_not() {
        let fairness = Fairness::new(&config(Limits::default()));
        let nobody =
            identity::User { name: "system:anonymous".into(), groups: vec!["system:unauthenticated".into()], ..Default::default() };
        for (path, schema) in [("/healthz", "probes"), ("/livez/ping", "probes"), ("/metrics", "global-default")] {
            let asked = RequestDigest { resource_request: false, path, ..asked(&nobody, "get -/- -") };
            assert_eq!(fairness.classify(&asked).names().1, schema, "{path}");
        }
    }

    #[test]
    fn flows_are_told_apart_by_user_or_by_namespace() {
        let fairness = Fairness::new(&config(Limits::default()));
        let flow = |user: &identity::User, request: &str| fairness.classify(&asked(user, request)).flow();
        let (a, b) = (account("shop", "a"), account("shop", "b"));
        assert_ne!(flow(&a, "get -/pods shop"), flow(&b, "get -/pods shop"));
        assert_eq!(flow(&a, "get -/pods shop"), flow(&a, "list -/secrets other"));
        let manager = user(CONTROLLER_MANAGER, &[]);
        assert_ne!(flow(&manager, "get -/pods shop"), flow(&manager, "get -/pods other"));
    }

    #[test]
    fn the_shares_are_those_of_600_seats() {
        let fairness = Fairness::new(&config(Limits::default()));
        let seats = |name: &str| fairness.nominal_seats(name);
        let wanted = [
            ("system", 74),
            ("node-high", 98),
            ("leader-election", 25),
            ("workload-high", 98),
            ("workload-low", 245),
            ("global-default", 49),
            ("catch-all", 13),
            ("exempt", 0),
        ];
        for (name, number) in wanted {
            assert_eq!(seats(name), Some(number), "{name}");
        }
    }
}
