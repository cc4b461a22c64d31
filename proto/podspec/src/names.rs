//! Names of resources: those without a domain, what counts them, and how names with one are told apart. Source: `pkg/apis/core/helper/helpers.go`,
//! `pkg/quota/v1/evaluator/core`.

use api::name_rules;

/// What a quota measures a resource by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    Pods,
    Services,
    Claims,
    /// Objects of that name by their number; other kinds have `count/` in front.
    Objects,
}

/// How amounts of it are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Amount {
    Whole,
    Any,
}

/// All that have no domain in front, besides huge pages, `storage` and `count/`.
const NAMES: &[(&str, Of, Amount)] = &[
    ("pods", Of::Pods, Amount::Whole),
    ("cpu", Of::Pods, Amount::Any),
    ("memory", Of::Pods, Amount::Any),
    ("ephemeral-storage", Of::Pods, Amount::Any),
    ("requests.cpu", Of::Pods, Amount::Any),
    ("requests.memory", Of::Pods, Amount::Any),
    ("requests.ephemeral-storage", Of::Pods, Amount::Any),
    ("limits.cpu", Of::Pods, Amount::Any),
    ("limits.memory", Of::Pods, Amount::Any),
    ("limits.ephemeral-storage", Of::Pods, Amount::Any),
    ("services", Of::Services, Amount::Whole),
    ("services.nodeports", Of::Services, Amount::Whole),
    ("services.loadbalancers", Of::Services, Amount::Whole),
    ("persistentvolumeclaims", Of::Claims, Amount::Whole),
    ("requests.storage", Of::Claims, Amount::Any),
    ("configmaps", Of::Objects, Amount::Whole),
    ("replicationcontrollers", Of::Objects, Amount::Whole),
    ("resourcequotas", Of::Objects, Amount::Whole),
    ("secrets", Of::Objects, Amount::Whole),
];

/// In front of a device class: an extended resource without a name of its own (KEP-5004).
pub const DEVICE_CLASS: &str = "deviceclass.resource.kubernetes.io/";

/// What a quota may ask every container to state.
pub const COMPUTE: &[&str] = &["cpu", "memory", "limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];

fn named(name: &str) -> Option<(Of, Amount)> {
    NAMES.iter().find(|(known, ..)| *known == name).map(|(_, of, amount)| (*of, *amount))
}

/// What measures it, where it is one of the names without a domain.
pub fn measured_by(name: &str) -> Option<Of> {
    named(name).map(|(of, _)| of)
}

/// `IsIntegerResourceName`
pub fn is_whole(name: &str) -> bool {
    named(name).is_some_and(|(_, amount)| amount == Amount::Whole) || is_extended(name)
}

/// `IsStandardQuotaResourceName`
pub fn is_standard_of_quota(name: &str) -> bool {
    is_huge_page(name) || name.starts_with("requests.hugepages-") || named(name).is_some()
}

/// `IsStandardResourceName`
pub fn is_standard(name: &str) -> bool {
    name == "storage" || is_standard_of_quota(name)
}

/// `IsHugePageResourceName`
pub fn is_huge_page(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// `IsStandardContainerResourceName`
pub fn is_of_containers(name: &str) -> bool {
    matches!(name, "cpu" | "memory" | "ephemeral-storage") || is_huge_page(name)
}

/// `IsNativeResource`: in kubernetes.io, which unprefixed names are too.
pub fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// `IsExtendedResourceName`
pub fn is_extended(name: &str) -> bool {
    !is_native(name) && !name.starts_with("requests.") && name_rules::qualified(&format!("requests.{name}")).is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart_as_upstream_does() {
        // name, standard, of quotas, whole, native, extended
        let cases = [
            ("cpu", true, true, false, true, false),
            ("storage", true, false, false, true, false),
            ("pods", true, true, true, true, false),
            ("services.nodeports", true, true, true, true, false),
            ("hugepages-2Mi", true, true, false, true, false),
            ("requests.hugepages-2Mi", true, true, false, true, false),
            ("gpu", false, false, false, true, false),
            ("example.com/gpu", false, false, true, false, true),
            ("kubernetes.io/gpu", false, false, false, true, false),
            ("requests.example.com/gpu", false, false, false, false, false),
            ("a b/gpu", false, false, false, false, false),
        ];
        for (name, standard, of_quota, whole, native, extended) in cases {
            let found = (is_standard(name), is_standard_of_quota(name), is_whole(name), is_native(name), is_extended(name));
            assert_eq!(found, (standard, of_quota, whole, native, extended), "{name}");
        }
        assert!(COMPUTE.iter().all(|name| measured_by(name) == Some(Of::Pods)));
    }
}
