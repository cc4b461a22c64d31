//! What is given, by whatever way, and what is made of it.

use anyhow::bail;
use clap::{CommandFactory, FromArgMatches};

use super::{
    reading::{shown, with_environment, with_file},
    *,
};

fn parse(file: &str, args: &[&str]) -> anyhow::Result<Cli> {
    let Value::Object(map) = serde_yaml::from_str(file)? else { bail!("no map") };
    let command = with_file(with_environment(Cli::command()), args.get(1).copied().unwrap_or_default(), &map)?;
    Ok(Cli::from_arg_matches(&command.try_get_matches_from(args)?)?)
}

#[test]
fn the_command_line_wins_over_the_file() {
    let file = "secure-port: 7000\netcd-servers: [http://a:1, http://b:2]\nnode-name: n1\n";
    let Verb::Up(up) = parse(file, &["skiff", "up", "--node-name", "n2"]).unwrap().verb else { panic!() };
    assert_eq!(up.server.secure_port, 7000);
    assert_eq!(up.server.etcd_servers, ["http://a:1", "http://b:2"]);
    assert_eq!(up.agent.node_name.as_deref(), Some("n2"));
}

#[test]
fn what_is_given_puts_aside_what_the_file_says_of_flags_that_it_excludes() {
    let join = |file: &str, args: &[&str]| {
        let all = ["skiff", "agent"].iter().chain(args).copied().collect::<Vec<_>>();
        let Verb::Agent(agent) = parse(file, &all).unwrap().verb else { panic!() };
        let token = agent.join.token.map(|token| token.reveal().to_owned());
        (token, agent.join.token_file.map(|file| file.display().to_string()))
    };
    let is = |token: Option<&str>, file: Option<&str>| (token.map(str::to_owned), file.map(str::to_owned));
    assert_eq!(join("token: old\n", &["--token-file=new"]), is(None, Some("new")));
    assert_eq!(join("token-file: old\n", &["--token=new"]), is(Some("new"), None));
    assert_eq!(join("token: old\n", &[]), is(Some("old"), None));
    assert_eq!(join("token-file: old\n", &[]), is(None, Some("old")));
}

#[test]
fn what_holds_for_all_nodes_is_read_by_their_agents_as_it_was_given() {
    let given = [
        "--kubelet-port=10251",
        "--eviction-hard=memory.available<50Mi",
        "--node-labels=a=b,c=d",
        "--register-with-taints=x=y:NoSchedule,z:NoExecute",
        "--proxy-mode=nftables",
        "--pod-network=vxlan",
        "--vxlan-vni=7",
        "--vxlan-port=4789",
    ];
    for args in [&[][..], &given[..]] {
        let args: Vec<&str> = ["skiff", "up", "--node-name=n1", "--node-ip=10.0.0.5"].iter().chain(args).copied().collect();
        let Verb::Up(up) = parse("{}", &args).unwrap().verb else { panic!() };
        let file = serde_yaml::to_string(&Value::Object(up.agent.of_all_nodes())).unwrap();
        let Verb::Agent(agent) = parse(&file, &["skiff", "agent"]).unwrap().verb else { panic!() };
        let own = AgentFlags { node_name: None, node_ip: None, ..up.agent };
        assert_eq!(format!("{:?}", agent.agent), format!("{own:?}"), "{file}");
    }
}

#[test]
fn certificates_are_signed_for_a_year_or_as_said() {
    let seconds = |args: &[&str]| {
        let args: Vec<&str> = ["skiff", "server"].iter().chain(args).copied().collect();
        let Verb::Server(server) = parse("{}", &args).unwrap().verb else { panic!() };
        server.cluster_signing_duration.as_secs()
    };
    assert_eq!(seconds(&[]), controllers::SIGNING_SECONDS);
    assert_eq!(seconds(&["--cluster-signing-duration=1h30m"]), 5400);
    assert_eq!(seconds(&["--cluster-signing-duration=87600h"]), 87_600 * 3600);
}

#[test]
fn ranges_are_lists_on_the_command_line_and_in_the_file() {
    let server = |file: &str, args: &[&str]| {
        let args: Vec<&str> = ["skiff", "server"].iter().chain(args).copied().collect();
        parse(file, &args).map(|cli| if let Verb::Server(server) = cli.verb { server } else { panic!() })
    };
    let both = "10.1.0.0/16,fd00::/48";
    assert_eq!(server("{}", &["--cluster-cidr", both]).unwrap().cluster_cidr.to_string(), both);
    let file = "cluster-cidr: [10.1.0.0/16, 'fd00::/48']\nservice-cluster-ip-range: 10.2.0.0/16\n";
    let flags = server(file, &[]).unwrap();
    assert_eq!((flags.cluster_cidr.to_string().as_str(), flags.service_cluster_ip_range.to_string().as_str()), (both, "10.2.0.0/16"));
    let error = server("{}", &["--service-cluster-ip-range=10.1.0.0/16,10.2.0.0/16"]).unwrap_err().to_string();
    assert!(error.contains("--service-cluster-ip-range[0] and --service-cluster-ip-range[1] must be of different IP family"), "{error}");
}

#[test]
fn a_switch_can_be_set_in_the_file() {
    let Verb::Up(up) = parse("foreground: true\n", &["skiff", "up"]).unwrap().verb else { panic!() };
    assert!(up.foreground);
}

#[test]
fn an_unknown_key_is_an_error() {
    for verb in ["up", "agent"] {
        let error = parse("secure-prot: 1\n", &["skiff", verb]).unwrap_err().to_string();
        assert!(error.contains("unknown key \"secure-prot\"") && error.contains(&format!("see `skiff {verb} --help`")), "{error}");
    }
}

#[test]
fn a_number_below_zero_is_told_as_the_value_that_it_is() {
    for args in [&["--max-requests-inflight", "-1"][..], &["--max-requests-inflight=-1"]] {
        let args: Vec<&str> = ["skiff", "server"].iter().chain(args).copied().collect();
        let error = parse("{}", &args).unwrap_err().to_string();
        assert!(error.contains("invalid value '-1' for '--max-requests-inflight <N>': -1 is not in 0..=1000000"), "{error}");
    }
    // What is a flag is none all the same.
    assert!(parse("{}", &["skiff", "server", "--max-requests-inflight", "--secure-port=1"]).is_err());
}

#[test]
fn values_that_nothing_could_use_are_usage_errors() {
    let accepted = |arg: &str| parse("{}", &["skiff", "server", arg]).is_ok();
    for good in
        ["--log-level=info,apiserver=debug", "--cluster-domain=a.b-c", "--tls-san=a.example,10.0.0.1,::1,*.b.example", "--log-level=WARN"]
    {
        assert!(accepted(good), "{good}");
    }
    for bad in [
        "--log-level=blah",
        "--log-level=info,blah",
        "--cluster-domain=bad domain!",
        "--cluster-domain=",
        "--tls-san=bad name!!",
        "--tls-san=a,",
    ] {
        assert!(!accepted(bad), "{bad}");
    }
}

#[test]
fn a_tunnel_is_held_unless_told_otherwise() {
    let held = |file: &str, args: &[&str]| {
        let all = ["skiff", "agent"].iter().chain(args).copied().collect::<Vec<_>>();
        let Verb::Agent(agent) = parse(file, &all).unwrap().verb else { panic!() };
        agent.join.tunnel
    };
    assert!(held("{}", &[]) && held("{}", &["--tunnel"]) && held("tunnel: false\n", &["--tunnel=true"]));
    assert!(!held("{}", &["--tunnel=false"]) && !held("tunnel: false\n", &[]));
    assert!(parse("{}", &["skiff", "agent", "--tunnel=perhaps"]).is_err());
}

#[test]
fn hollow_nodes_have_flags_that_are_checked() {
    let accepted = |arg: &str| parse("{}", &["skiff", "agent", "--hollow=3", arg]).is_ok();
    for good in ["--hollow-cpu=500m", "--hollow-memory=1Gi", "--node-labels=a=b,c.d/e=f", "--zones=3", "--hollow-prefix=a-b"] {
        assert!(accepted(good), "{good}");
    }
    for bad in ["--hollow-cpu=-1", "--hollow-memory=much", "--node-labels=a", "--hollow-prefix=A_b", "--hollow-pods=251"] {
        assert!(!accepted(bad), "{bad}");
    }
    let Verb::Agent(agent) = parse("hollow: 7\nnode-labels: [a=b]\n", &["skiff", "agent"]).unwrap().verb else { panic!() };
    assert_eq!((agent.hollow.hollow, agent.agent.node_labels), (Some(7), vec!["a=b".to_owned()]));
}

#[test]
fn the_limits_on_requests_are_flags() {
    let limits = |args: &[&str]| {
        let args: Vec<&str> = ["skiff", "server"].iter().chain(args).copied().collect();
        let Verb::Server(server) = parse("{}", &args).unwrap().verb else { panic!() };
        server.limits()
    };
    assert_eq!(limits(&[]), apiserver::fairness::Limits::default());
    let set = limits(&["--max-requests-inflight=3", "--max-mutating-requests-inflight=0", "--enable-priority-and-fairness=false"]);
    assert_eq!(set, apiserver::fairness::Limits { reading: 3, mutating: 0, fair: false });
    assert!(limits(&["--enable-priority-and-fairness"]).fair);
    assert!(parse("{}", &["skiff", "server", "--max-requests-inflight=-1"]).is_err());
    let Verb::Server(server) = parse("enable-priority-and-fairness: false\n", &["skiff", "server"]).unwrap().verb else { panic!() };
    assert!(!server.limits().fair);
}

#[test]
fn what_is_shown_of_the_flags_is_no_secret() {
    let command = with_environment(Cli::command());
    let secret = "abcdef.0123456789abcdef";
    let args = ["skiff", "server", "--secure-port=7443", "--tls-san=a,b", "--tls-san=c", "--agent-token", secret];
    let matches = command.clone().try_get_matches_from(args).unwrap();
    let shown = shown(command.find_subcommand("server").unwrap(), matches.subcommand().unwrap().1);
    let of = |name: &str| shown.get(name).map(String::as_str);
    assert_eq!([of("secure-port"), of("tls-san"), of("request-timeout")], [Some("7443"), Some("a,b,c"), Some("60s")]);
    assert_eq!([of("agent-token"), of("token"), of("help")], [Some("CLASSIFIED"), Some(""), None]);
    assert!(shown.values().all(|value| !value.contains(secret)));
}

#[test]
fn clap_finds_no_fault_with_the_table() {
    with_environment(Cli::command()).debug_assert();
}
