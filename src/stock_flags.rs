//! Flags of kube-apiserver that skiff has not -> what there is instead, rather than that nobody knows them. Names: `kube-apiserver --help` of 1.36.

use clap::CommandFactory;

use crate::flags::Cli;

/// And what to do about each.
const LACKING: &[(&str, &str)] = &[
    ("allow-metric-labels", NOTHING),
    ("allow-privileged", "privileged pods are allowed; Pod Security admission keeps them out (docs/admission.md)"),
    ("authorization-policy-file", "say the same in roles and bindings (mode RBAC)"),
    ("cert-dir", "certificates stand below --data-dir, in tls"),
    (
        "client-ca-file",
        "client certificates are of skiff's own authority, tls/ca.crt below --data-dir; others come in by --oidc-issuer-url, --token-auth-file or a webhook",
    ),
    ("contention-profiling", NOTHING),
    ("cors-allowed-origins", NOTHING),
    ("debug-socket-path", NOTHING),
    ("delete-collection-workers", NOTHING),
    ("disabled-metrics", NOTHING),
    ("egress-selector-config-file", "node agents are called through their own tunnels (docs/nodes.md)"),
    ("emulated-version", "it is Kubernetes 1.36"),
    ("enable-aggregator-routing", "endpoints are always called directly"),
    ("enable-bootstrap-token-auth", "bootstrap tokens are always accepted"),
    ("enable-garbage-collector", "it always runs"),
    ("endpoint-reconciler-type", "servers have leases"),
    ("etcd-compaction-interval", NOTHING),
    ("etcd-prefix", "it is /registry"),
    ("etcd-servers-overrides", "all stands in one store"),
    ("event-ttl", "events are kept for an hour"),
    ("external-hostname", "--tls-san adds names to the certificate"),
    ("feature-gates", "features are as Kubernetes 1.36 has them by default"),
    ("http2-max-streams-per-connection", NOTHING),
    ("kubelet-certificate-authority", "node agents have certificates of skiff's own authority"),
    ("kubelet-client-certificate", "skiff has its own"),
    ("kubelet-client-key", "skiff has its own"),
    ("kubelet-preferred-address-types", NOTHING),
    ("lease-reuse-duration-seconds", NOTHING),
    ("log-flush-frequency", NOTHING),
    ("logging-format", "--log-level is all there is"),
    ("peer-ca-file", NOTHING),
    ("permit-address-sharing", NOTHING),
    ("permit-port-sharing", NOTHING),
    ("profiling", "there are no profiles"),
    ("runtime-config", "what is served is what Kubernetes 1.36 serves by default"),
    ("runtime-config-emulation-forward-compatible", "it is Kubernetes 1.36"),
    ("service-account-lookup", "tokens are always looked up"),
    ("show-hidden-metrics-for-version", NOTHING),
    ("shutdown-send-retry-after", NOTHING),
    ("shutdown-watch-termination-grace-period", NOTHING),
    ("storage-media-type-overrides", NOTHING),
    ("strict-transport-security-directives", NOTHING),
    ("tls-cert-file", "serving certificates are of skiff's own authority; --tls-san adds names to them"),
    ("tls-cipher-suites", "they are those of the TLS library"),
    ("tls-min-version", "it is TLS 1.2"),
    ("tls-private-key-file", "serving certificates are of skiff's own authority; --tls-san adds names to them"),
    ("tls-sni-cert-key", "serving certificates are of skiff's own authority; --tls-san adds names to them"),
    ("tracing-config-file", NOTHING),
    ("v", "--log-level debug says more"),
    ("vmodule", "--log-level takes modules: info,apiserver=debug"),
    ("watch-cache", "it is always on"),
    ("watch-cache-sizes", "it is as large as what is kept"),
];
const NOTHING: &str = "leave it out";

/// Of the first such flag among the arguments of `skiff server` or `skiff up`.
pub fn refused(args: &[String]) -> Option<String> {
    let verb = args.get(1).filter(|verb| ["server", "up"].contains(&verb.as_str()))?;
    let command = Cli::command();
    let is_ours =
        |name: &str| command.find_subcommand(verb).is_some_and(|verb| verb.get_arguments().any(|arg| arg.get_long() == Some(name)));
    let names = args.iter().skip(2).take_while(|arg| *arg != "--").filter_map(|arg| match arg.strip_prefix("--") {
        Some(long) => long.split('=').next(),
        None => arg.strip_prefix('-').filter(|short| short.split('=').next() == Some("v")).map(|_| "v"),
    });
    names.filter(|name| !is_ours(name)).find_map(|name| {
        let (_, instead) = LACKING.iter().find(|(lacking, _)| *lacking == name)?;
        Some(format!("--{name} of kube-apiserver is not supported: {instead}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stock_flags_are_told_apart_from_mistakes() {
        let told = |args: &str| refused(&args.split(' ').map(str::to_owned).collect::<Vec<_>>());
        let gates = "--feature-gates of kube-apiserver is not supported: features are as Kubernetes 1.36 has them by default";
        assert_eq!(told("skiff server --secure-port 1 --feature-gates=A=true").as_deref(), Some(gates));
        assert_eq!(told("skiff up --feature-gates A=true").as_deref(), Some(gates));
        assert!(told("skiff server -v=4").unwrap().starts_with("--v of kube-apiserver"));
        for other in ["skiff", "skiff server --secure-port 1", "skiff server --nonsense", "skiff token --v", "skiff server -- --v"] {
            assert_eq!(told(other), None, "{other}");
        }
        assert!(LACKING.is_sorted());
    }

    #[test]
    fn none_of_them_is_a_flag_here() {
        let command = Cli::command();
        for verb in ["server", "up"] {
            let verb = command.find_subcommand(verb).unwrap();
            let ours = LACKING.iter().find(|(name, _)| verb.get_arguments().any(|arg| arg.get_long() == Some(name)));
            assert_eq!(ours, None);
        }
    }
}
