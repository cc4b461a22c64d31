//! What a certificate signing request asks for -> whether it is a kubelet's. Source: `pkg/apis/certificates/helpers.go`, `certificates/v1/types.go`.

use std::net::IpAddr;

/// Client certificates of anybody; approved by hand.
pub const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
/// Client certificates of nodes.
pub const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Serving certificates of nodes.
pub const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
/// What older versions of the API made; no new request may name it.
pub const LEGACY_UNKNOWN: &str = "kubernetes.io/legacy-unknown";

/// Of the certificates of all nodes, the organization: the nodes' group.
pub const NODES_GROUP: &str = "system:nodes";
/// Before a node's name, its user.
pub const NODE_USER_PREFIX: &str = "system:node:";
/// The reason of a denial: the node may ask again, for its name alone. Ours.
pub const FOREIGN_ADDRESS: &str = "ForeignAddress";
/// The ConfigMap in `kube-system` (where no tenant writes) that has all names and addresses of API servers' certificates, of all servers that there ever were,
/// with commas between them. Ours.
pub const SERVING_NAMES: &str = "skiff-serving-names";
/// Its one key.
pub const SERVING_NAMES_KEY: &str = "names";
/// In the `extra` of a node that shows its certificate (and so in its requests): the address that its connection comes from. Ours.
pub const SOURCE_ADDRESS: &str = "skiff.local/source-address";
/// Beside it: since when the certificate is good that it shows, in seconds since the epoch. Ours.
pub const CERTIFICATE_SINCE: &str = "skiff.local/certificate-not-before";
/// So much before it is signed a certificate is good, for machines whose clocks are behind. Upstream's signer has the same (`CSRSigningController`, `Backdate`).
pub const BACKDATE_SECONDS: u32 = 300;

const SIGNATURE: &str = "digital signature";
const ENCIPHERMENT: &str = "key encipherment";

/// What a PKCS#10 request says. Its signature is good: whoever made it has the key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requested {
    /// Empty where there is none; there is never more than one.
    pub common_name: String,
    pub organizations: Vec<String>,
    pub dns: Vec<String>,
    pub addresses: Vec<IpAddr>,
    pub emails: Vec<String>,
    pub uris: Vec<String>,
    /// SHA-256 of the SubjectPublicKeyInfo (DER), hexadecimal.
    pub key: String,
}

impl Requested {
    /// The node that the subject names.
    pub fn node(&self) -> Option<&str> {
        self.common_name.strip_prefix(NODE_USER_PREFIX).filter(|name| !name.is_empty())
    }
}

/// `ValidateKubeletClientCSR`
///
/// # Errors
/// Why it is none, in upstream's words.
pub fn kubelet_client(request: &Requested, usages: &[String]) -> Result<(), &'static str> {
    of_nodes(request)?;
    let unwanted = [
        (request.dns.is_empty(), "DNS subjectAltNames are not allowed"),
        (request.emails.is_empty(), "Email subjectAltNames are not allowed"),
        (request.addresses.is_empty(), "IP subjectAltNames are not allowed"),
        (request.uris.is_empty(), "URI subjectAltNames are not allowed"),
    ];
    unwanted.into_iter().try_for_each(|(fits, why)| if fits { Ok(()) } else { Err(why) })?;
    of_a_node(request)?;
    used_for(usages, "client auth").ok_or("usages did not match [client auth digital signature key encipherment]")
}

/// `ValidateKubeletServingCSR`
///
/// # Errors
/// Why it is none, in upstream's words.
pub fn kubelet_serving(request: &Requested, usages: &[String]) -> Result<(), &'static str> {
    of_nodes(request)?;
    if request.dns.is_empty() && request.addresses.is_empty() {
        return Err("DNS or IP subjectAltName is required");
    }
    if !request.emails.is_empty() {
        return Err("Email subjectAltNames are not allowed");
    }
    if !request.uris.is_empty() {
        return Err("URI subjectAltNames are not allowed");
    }
    used_for(usages, "server auth").ok_or("usages did not match [digital signature key encipherment server auth]")?;
    of_a_node(request)
}

fn of_nodes(request: &Requested) -> Result<(), &'static str> {
    if request.organizations == [NODES_GROUP] { Ok(()) } else { Err("subject organization is not system:nodes") }
}

fn of_a_node(request: &Requested) -> Result<(), &'static str> {
    let is_one = request.common_name.starts_with(NODE_USER_PREFIX);
    if is_one { Ok(()) } else { Err("subject common name does not begin with system:node:") }
}

/// Exactly signatures and this purpose; keys of RSA may also encipher.
fn used_for(usages: &[String], purpose: &str) -> Option<()> {
    let wanted = [SIGNATURE, purpose];
    let known = |usage: &String| wanted.contains(&usage.as_str()) || usage == ENCIPHERMENT;
    let whole = wanted.iter().all(|wanted| usages.iter().any(|usage| usage == wanted));
    (whole && usages.iter().all(known)).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Requested {
        Requested { common_name: "system:node:n1".into(), organizations: vec![NODES_GROUP.into()], ..Requested::default() }
    }

    fn usages(all: &[&str]) -> Vec<String> {
        all.iter().map(|usage| (*usage).to_owned()).collect()
    }

    #[test]
    fn clients_have_no_other_names() {
        type Change = fn(&mut Requested);
        let cases: [(Change, &[&str], &str); 9] = [
            (|_| (), &["client auth", SIGNATURE], ""),
            (|_| (), &[SIGNATURE, ENCIPHERMENT, "client auth"], ""),
            (|_| (), &[SIGNATURE, "client auth", "server auth"], "usages did not match"),
            (|_| (), &["client auth"], "usages did not match"),
            (|r| r.organizations.push("system:masters".into()), &["client auth", SIGNATURE], "organization"),
            (|r| r.organizations.clear(), &["client auth", SIGNATURE], "organization"),
            (|r| r.common_name = "system:nodes:n1".into(), &["client auth", SIGNATURE], "common name"),
            (|r| r.dns.push("a".into()), &["client auth", SIGNATURE], "DNS"),
            (|r| r.addresses.push([1, 2, 3, 4].into()), &["client auth", SIGNATURE], "IP"),
        ];
        for (change, used, why) in cases {
            let mut request = request();
            change(&mut request);
            let found = kubelet_client(&request, &usages(used));
            assert!(if why.is_empty() { found.is_ok() } else { found.unwrap_err().contains(why) }, "{found:?} {why}");
        }
    }

    #[test]
    fn servers_have_names_or_addresses() {
        let used = usages(&[SIGNATURE, "server auth"]);
        let mut serving = request();
        assert_eq!(kubelet_serving(&serving, &used), Err("DNS or IP subjectAltName is required"));
        serving.dns.push("n1".into());
        assert_eq!(kubelet_serving(&serving, &used), Ok(()));
        assert!(kubelet_serving(&serving, &usages(&[SIGNATURE, "client auth"])).is_err());
        serving.uris.push("spiffe://x".into());
        assert!(kubelet_serving(&serving, &used).is_err());
    }

    #[test]
    fn a_node_has_a_name() {
        assert_eq!(request().node(), Some("n1"));
        assert_eq!(Requested { common_name: "system:node:".into(), ..request() }.node(), None);
    }
}
