//! Who is asked what a user may do, and about what: [`authorization`](super::authorization) has the words.
//!
//! Source: apiserver `pkg/cel/library/authz.go`.

use std::{fmt, rc::Rc};

/// Who is asked.
pub trait Judge {
    /// Whether the user of the request, or the service account given by namespace and name, may do this.
    fn judge(&self, account: Option<(&str, &str)>, check: &Check, verb: &str) -> Verdict;
}

/// What `authorizer` stands for: for whom is asked, and what the request itself is about.
#[derive(Clone)]
pub struct Authority<'v> {
    pub(crate) judge: &'v dyn Judge,
    pub(crate) account: Option<Rc<(String, String)>>,
    pub(crate) request: Rc<Check>,
}

/// What is asked about.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Check {
    /// Of a request that is about no resource; else empty.
    pub path: String,
    pub group: String,
    /// Empty as long as only the group is known.
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    pub fields: String,
    pub labels: String,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdict {
    pub allowed: bool,
    pub reason: String,
    pub error: Option<String>,
}

impl fmt::Debug for Authority<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authority")
    }
}

impl<'v> Authority<'v> {
    pub fn new(judge: &'v dyn Judge, request: Check) -> Self {
        Self { judge, account: None, request: Rc::new(request) }
    }
}

impl Check {
    pub fn type_name(&self) -> &'static str {
        match (self.path.as_str(), self.resource.as_str()) {
            ("", "") => "kubernetes.authorization.GroupCheck",
            ("", _) => "kubernetes.authorization.ResourceCheck",
            _ => "kubernetes.authorization.PathCheck",
        }
    }
}
