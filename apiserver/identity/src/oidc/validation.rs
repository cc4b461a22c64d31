//! A `JWTAuthenticator` -> what is wrong with it. Source: apiserver `pkg/apis/apiserver/validation/validation.go`.

use std::collections::HashSet;

use api::field_errors::FieldErrors;
use http::Uri;

use super::{ClaimMappings, Issuer, JwtAuthenticator, Mapping};
use crate::{
    expressions::{About, Makes, Program},
    remote::authorities,
};

pub fn check(one: &JwtAuthenticator, path: &str, disallowed: &[String], causes: &mut FieldErrors) {
    let mut uses = Uses::default();
    issuer(&one.issuer, &format!("{path}.issuer"), disallowed, causes);
    claim_rules(one, &format!("{path}.claimValidationRules"), &mut uses, causes);
    mappings(&one.claim_mappings, &format!("{path}.claimMappings"), &mut uses, causes);
    user_rules(one, &format!("{path}.userValidationRules"), causes);
}

/// Whether the address of a user is used, and whether anybody asks that it was verified.
#[derive(Default)]
struct Uses {
    email: bool,
    email_verified: bool,
}

fn issuer(issuer: &Issuer, path: &str, disallowed: &[String], causes: &mut FieldErrors) {
    if issuer.url.is_empty() {
        causes.required(format!("{path}.url"), "");
    } else {
        url(&issuer.url, &format!("{path}.url"), disallowed, causes);
    }
    if !issuer.discovery_url.is_empty() {
        let path = format!("{path}.discoveryURL");
        if !issuer.url.is_empty() && issuer.url.trim_end_matches('/') == issuer.discovery_url.trim_end_matches('/') {
            causes.invalid(&*path, &*issuer.discovery_url, "discoveryURL must be different from URL");
        }
        url(&issuer.discovery_url, &path, &[], causes);
    }
    audiences(issuer, path, causes);
    if !issuer.certificate_authority.is_empty()
        && let Err(why) = authorities(&issuer.certificate_authority)
    {
        causes.invalid(format!("{path}.certificateAuthority"), "<omitted>", &why);
    }
    if !issuer.egress_selector_type.is_empty() {
        let why = "egress selectors are not supported: the server dials issuers itself";
        causes.invalid(format!("{path}.egressSelectorType"), &*issuer.egress_selector_type, why);
    }
}

fn url(text: &str, path: &str, disallowed: &[String], causes: &mut FieldErrors) {
    if disallowed.iter().any(|one| one == text) {
        let mut sorted: Vec<&str> = disallowed.iter().map(String::as_str).collect();
        sorted.sort_unstable();
        causes.invalid(path, text, &format!("URL must not overlap with disallowed issuers: [{}]", sorted.join(" ")));
    }
    let (whole, fragment) = text.split_once('#').unwrap_or((text, ""));
    let parsed = match whole.parse::<Uri>() {
        Ok(parsed) => parsed,
        Err(error) => return causes.invalid(path, text, &error.to_string()),
    };
    if parsed.scheme_str() != Some("https") {
        causes.invalid(path, text, "URL scheme must be https");
    }
    if parsed.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        causes.invalid(path, text, "URL must not contain a username or password");
    }
    if parsed.query().is_some_and(|query| !query.is_empty()) {
        causes.invalid(path, text, "URL must not contain a query");
    }
    if !fragment.is_empty() {
        causes.invalid(path, text, "URL must not contain a fragment");
    }
}

fn audiences(issuer: &Issuer, path: &str, causes: &mut FieldErrors) {
    let (list, policy) = (format!("{path}.audiences"), format!("{path}.audienceMatchPolicy"));
    if issuer.audiences.is_empty() {
        return causes.required(&*list, &format!("at least one {list} is required"));
    }
    let mut seen = HashSet::new();
    for (index, audience) in issuer.audiences.iter().enumerate() {
        if audience.is_empty() {
            causes.required(format!("{list}[{index}]"), "");
        }
        if !seen.insert(audience) {
            causes.duplicate(format!("{list}[{index}]"), &**audience);
        }
    }
    match (issuer.audiences.len(), issuer.audience_match_policy.as_str()) {
        (_, "MatchAny") | (1, "") => {}
        (1, other) => causes.invalid(policy, other, "audienceMatchPolicy must be empty or MatchAny for single audience"),
        (_, other) => causes.invalid(policy, other, "audienceMatchPolicy must be MatchAny for multiple audiences"),
    }
}

fn claim_rules(one: &JwtAuthenticator, path: &str, uses: &mut Uses, causes: &mut FieldErrors) {
    let (mut claims, mut expressions) = (HashSet::new(), HashSet::new());
    for (index, rule) in one.claim_validation_rules.iter().enumerate() {
        let path = format!("{path}[{index}]");
        match (rule.claim.is_empty(), rule.expression.is_empty()) {
            (false, false) => causes.invalid(path, &*rule.claim, "claim and expression can't both be set"),
            (true, true) => causes.required(path, "claim or expression is required"),
            (false, true) => {
                if !rule.message.is_empty() {
                    causes.invalid(format!("{path}.message"), &*rule.message, "may not be specified when claim is set");
                }
                if !claims.insert(&rule.claim) {
                    causes.duplicate(format!("{path}.claim"), &*rule.claim);
                }
            }
            (true, false) => {
                if !rule.required_value.is_empty() {
                    causes.invalid(format!("{path}.requiredValue"), &*rule.required_value, "may not be specified when expression is set");
                }
                let path = format!("{path}.expression");
                if !expressions.insert(&rule.expression) {
                    causes.duplicate(path, &*rule.expression);
                    continue;
                }
                let program = compiled(&rule.expression, (About::Claims, Makes::Bool), &path, causes);
                uses.email_verified |= program.is_some_and(|program| program.selects("email_verified"));
            }
        }
    }
}

fn compiled(source: &str, (about, makes): (About, Makes), path: &str, causes: &mut FieldErrors) -> Option<Program> {
    let program = Program::compile(source, about, makes);
    program.map_err(|why| causes.invalid(path, source, &why)).ok()
}

fn mappings(mappings: &ClaimMappings, path: &str, uses: &mut Uses, causes: &mut FieldErrors) {
    if let Some(program) = mapping(&mappings.username, &format!("{path}.username"), true, causes) {
        uses.email |= program.selects("email");
        uses.email_verified |= program.selects("email_verified");
    }
    mapping(&mappings.groups, &format!("{path}.groups"), false, causes);
    match (mappings.uid.claim.is_empty(), mappings.uid.expression.is_empty()) {
        (false, false) => causes.invalid(format!("{path}.uid"), "", "claim and expression can't both be set"),
        (_, false) => drop(compiled(&mappings.uid.expression, (About::Claims, Makes::Anything), &format!("{path}.uid.expression"), causes)),
        (_, true) => {}
    }
    extra(mappings, path, uses, causes);
    if uses.email && !uses.email_verified {
        let why = "claims.email_verified must be used in claimMappings.username.expression or claimMappings.extra[*].valueExpression or claimValidationRules[*].expression when claims.email is used in claimMappings.username.expression";
        causes.invalid(format!("{path}.username.expression"), &*mappings.username.expression, why);
    }
}

fn extra(mappings: &ClaimMappings, path: &str, uses: &mut Uses, causes: &mut FieldErrors) {
    let mut seen = HashSet::new();
    for (index, mapping) in mappings.extra.iter().enumerate() {
        let (path, key) = (format!("{path}.extra[{index}]"), &mapping.key);
        let key_path = format!("{path}.key");
        prefixed_path(key, &key_path, causes);
        if *key != key.to_lowercase() {
            causes.invalid(&*key_path, &**key, "must be lowercase");
        }
        let domain = key.split_once('/').map_or("", |(domain, _)| domain);
        if ["kubernetes.io", "k8s.io"].iter().any(|own| domain == *own || domain.ends_with(&format!(".{own}"))) {
            causes.invalid(&*key_path, &**key, "k8s.io, kubernetes.io and their subdomains are reserved for Kubernetes use");
        }
        if !seen.insert(key) {
            causes.duplicate(&*key_path, &**key);
            continue;
        }
        let path = format!("{path}.valueExpression");
        if mapping.value_expression.is_empty() {
            causes.required(path, "");
            continue;
        }
        let program = compiled(&mapping.value_expression, (About::Claims, Makes::Anything), &path, causes);
        uses.email_verified |= program.is_some_and(|program| program.selects("email_verified"));
    }
}

/// `IsDomainPrefixedPath`
fn prefixed_path(key: &str, path: &str, causes: &mut FieldErrors) {
    if key.is_empty() {
        return causes.required(path, "");
    }
    let Some((domain, rest)) = key.split_once('/').filter(|(domain, rest)| !domain.is_empty() && !rest.is_empty()) else {
        return causes.invalid(path, key, "must be a domain-prefixed path (such as \"acme.io/foo\")");
    };
    if let Some(why) = apiserver::names::subdomain_error(domain) {
        causes.invalid(path, domain, &why);
    }
    if !rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || br"/-._~%!$&'()*+,;=:".contains(&byte)) {
        causes.invalid(path, rest, r"Invalid path (regex used for validation is '[A-Za-z0-9/\-._~%!$&'()*+,;=:]+')");
    }
}

fn mapping(mapping: &Mapping, path: &str, required: bool, causes: &mut FieldErrors) -> Option<Program> {
    match (mapping.claim.is_empty(), mapping.expression.is_empty()) {
        (false, false) => causes.invalid(path, "", "claim and expression can't both be set"),
        (true, true) if required => causes.required(path, "claim or expression is required"),
        (true, true) => {}
        (true, false) => {
            if let Some(prefix) = &mapping.prefix {
                causes.invalid(format!("{path}.prefix"), &**prefix, "may not be specified when expression is set");
            }
            return compiled(&mapping.expression, (About::Claims, Makes::Anything), &format!("{path}.expression"), causes);
        }
        (false, true) => {
            if mapping.prefix.is_none() {
                let why = "prefix is required when claim is set. It can be set to an empty string to disable prefixing";
                causes.required(format!("{path}.prefix"), why);
            }
        }
    }
    None
}

fn user_rules(one: &JwtAuthenticator, path: &str, causes: &mut FieldErrors) {
    let mut seen = HashSet::new();
    for (index, rule) in one.user_validation_rules.iter().enumerate() {
        let path = format!("{path}[{index}].expression");
        match () {
            () if rule.expression.is_empty() => causes.required(path, ""),
            () if !seen.insert(&rule.expression) => causes.duplicate(path, &*rule.expression),
            () => drop(compiled(&rule.expression, (About::User, Makes::Bool), &path, causes)),
        }
    }
}
