//! Windows options of pods and containers -> what is wrong with them. Source: `validateWindowsSecurityContextOptions` and
//! `validateWindowsHostProcessPod`.

use api::field_errors::FieldErrors;
use serde_json::Value;

use super::Whole;
use crate::common::{Path, Read, name_rules, well_formed};

/// Bytes of a credential spec.
const CREDENTIAL_BYTES: usize = 64 << 10;
const DOMAIN_BYTES: usize = 256;
const USER_BYTES: usize = 104;
const NETBIOS_CHARS: usize = 15;

/// Of one security context, whose path this is.
pub fn options(context: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    let (options, path) = (context.at("windowsOptions"), path.field("windowsOptions"));
    let text = |field: &str| options.at(field).and_then(Value::as_str);
    if let Some(name) = text("gmsaCredentialSpecName") {
        well_formed(name, name_rules::dns_subdomain(name), path.field("gmsaCredentialSpecName"), causes);
    }
    match text("gmsaCredentialSpec") {
        Some("") => causes.invalid(path.field("gmsaCredentialSpec"), "", "gmsaCredentialSpec cannot be an empty string"),
        Some(spec) if spec.len() > CREDENTIAL_BYTES => {
            let why = format!("gmsaCredentialSpec size must be under {} KiB", CREDENTIAL_BYTES >> 10);
            causes.invalid(path.field("gmsaCredentialSpec"), spec, &why);
        }
        _ => {}
    }
    if let Some(name) = text("runAsUserName") {
        user_name(name, path.field("runAsUserName"), causes);
    }
}

/// `[domain\]user`
fn user_name(name: &str, path: Path<'_>, causes: &mut FieldErrors) {
    let mut wrong = |why: &str| causes.invalid(path, name, &format!("runAsUserName{why}"));
    let (domain, user) = match name.split('\\').collect::<Vec<_>>().as_slice() {
        _ if name.is_empty() => return wrong(" cannot be an empty string"),
        _ if name.bytes().any(|b| b.is_ascii_control()) => return wrong(" cannot contain control characters"),
        [user] => (None, *user),
        [domain, user] => (Some(*domain), *user),
        _ => return wrong(" cannot contain more than one backslash"),
    };
    if domain.is_some_and(|domain| domain.len() >= DOMAIN_BYTES) {
        wrong(&format!("'s Domain length must be under {DOMAIN_BYTES} characters"));
    }
    if domain.is_some_and(|domain| !is_netbios(domain) && !is_dns(domain)) {
        wrong("'s Domain doesn't match the NetBios nor the DNS format");
    }
    match user.len() {
        0 => wrong("'s User cannot be empty"),
        length if length > USER_BYTES => wrong(&format!("'s User length must not be longer than {USER_BYTES} characters")),
        _ => {}
    }
    if !user.is_empty() && user.chars().all(|c| ". ".contains(c)) {
        wrong("'s User cannot contain only periods or spaces");
    }
    if user.contains(|c: char| r#""/\:;|=,+*?<>@[]"#.contains(c)) {
        wrong(r#"'s User cannot contain the following characters: "/\:;|=,+*?<>@[]"#);
    }
}

fn is_netbios(domain: &str) -> bool {
    let length = domain.chars().count();
    (1..=NETBIOS_CHARS).contains(&length) && !domain.starts_with(['.', '|']) && !domain.contains(|c: char| r#"\/:*?"<>|"#.contains(c))
}

/// Labels of letters of either case.
fn is_dns(domain: &str) -> bool {
    domain.split('.').all(|label| api::selector::is_dns_label(&label.to_ascii_lowercase()))
}

/// Containers that are processes of the host: all of a pod, and in its network.
pub fn host_process(whole: &Whole<'_>, path: Path<'_>, causes: &mut FieldErrors) {
    let of = |owner: Option<&Value>| owner.at("securityContext").at("windowsOptions").and_then(|options| options.flag("hostProcess"));
    let of_pod = of(Some(whole.spec));
    let (mut all, mut host) = (0, 0);
    for (list, i, container) in whole.containers_and_ephemeral() {
        let own = of(Some(container));
        if let (Some(pod), Some(own)) = (of_pod, own)
            && pod != own
        {
            let at = path.field(list);
            let at = at.index(i);
            let at = at.field("securityContext.windowsOptions.hostProcess");
            causes.invalid(at, own, &format!("pod hostProcess value must be identical if both are specified, was {pod}"));
        }
        all += 1;
        host += usize::from(own.or(of_pod) == Some(true));
    }
    if host == 0 {
        return;
    }
    if host != all {
        causes.invalid(path, "", "If pod contains any hostProcess containers then all containers must be HostProcess containers");
    }
    if !whole.spec.is_true("hostNetwork") {
        causes.invalid(path.field("hostNetwork"), false, "hostNetwork must be true if pod contains any hostProcess containers");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn texts(options: Value) -> Vec<String> {
        let mut causes = FieldErrors::default();
        super::options(&json!({"windowsOptions": options}), Path::new("c"), &mut causes);
        causes.0.iter().map(|cause| cause.message.clone()).collect()
    }

    #[test]
    fn options_have_rules() {
        for good in ["ContainerUser", r"NT AUTHORITY\SYSTEM", r"Ex-Ample.com\a b", ".a"] {
            assert_eq!(texts(json!({"runAsUserName": good})), Vec::<String>::new(), "{good}");
        }
        let cases = [
            ("", "cannot be an empty string"),
            ("a\u{1}", "cannot contain control characters"),
            (r"a\b\c", "cannot contain more than one backslash"),
            (r"a|b\c", "Domain doesn't match the NetBios nor the DNS format"),
            (r"a\", "User cannot be empty"),
            ("..", "User cannot contain only periods or spaces"),
            ("a@b", "User cannot contain the following characters"),
        ];
        for (name, wanted) in cases {
            let found = texts(json!({"runAsUserName": name}));
            assert!(found.len() == 1 && found[0].contains(wanted), "{name}: {found:?}");
        }
        let found = texts(json!({"gmsaCredentialSpecName": "Bad_", "gmsaCredentialSpec": ""}));
        assert!(found[0].starts_with("Invalid value: \"Bad_\": a lowercase RFC 1123 subdomain"), "{found:?}");
        assert_eq!(found[1], "Invalid value: \"\": gmsaCredentialSpec cannot be an empty string");
    }

    #[test]
    fn processes_of_the_host_are_all_of_a_pod_and_in_its_network() {
        let texts = |spec: Value| {
            let whole = Whole { owner: super::super::Owner::Pod, spec: &spec, volumes: Default::default(), claims: Default::default() };
            let mut causes = FieldErrors::default();
            host_process(&whole, Path::new("spec"), &mut causes);
            causes.0.iter().map(|cause| cause.text()).collect::<Vec<_>>()
        };
        let host = |is: bool| json!({"windowsOptions": {"hostProcess": is}});
        let network = "spec.hostNetwork: Invalid value: false: hostNetwork must be true if pod contains any hostProcess containers";
        assert_eq!(texts(json!({"securityContext": host(true), "containers": [{}]})), [network]);
        assert_eq!(texts(json!({"securityContext": host(true), "hostNetwork": true, "containers": [{}]})), Vec::<String>::new());
        let found =
            texts(json!({"securityContext": host(true), "hostNetwork": true, "containers": [{}, {"securityContext": host(false)}]}));
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(
            found[0].starts_with("spec.containers[1].securityContext.windowsOptions.hostProcess: Invalid value: false: pod"),
            "{found:?}"
        );
        assert_eq!(texts(json!({"containers": [{"securityContext": host(false)}]})), Vec::<String>::new());
    }
}
