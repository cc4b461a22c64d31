//! The table of upstream's `requestinfo_test.go`, and what it leaves open.

use proptest::{collection::vec, prelude::*, sample::select};

use super::*;

fn read(method: &str, target: &str) -> Result<RequestInfo, Status> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    RequestInfo::new(&method.parse().unwrap(), path, &mut Query::parse(Some(query)))
}

fn info(method: &str, target: &str) -> RequestInfo {
    read(method, target).unwrap()
}

/// `verb|group|version|namespace|resource|subresource|name|parts`, parts from the resource on.
fn told(method: &str, target: &str) -> String {
    let i = info(method, target);
    assert!(i.resource_request, "{method} {target}");
    [&i.verb, &i.group, &i.version, &i.namespace, &i.resource, &i.subresource, &i.name, &i.rest].map(String::as_str).join("|")
}

#[test]
fn requests_are_read_as_upstream_reads_them() {
    let cases = [
        ("GET /api/v1/namespaces", "list||v1||namespaces|||"),
        ("GET /api/v1/namespaces/other", "get||v1|other|namespaces||other|"),
        ("GET /api/v1/namespaces/other/pods", "list||v1|other|pods|||"),
        ("GET /api/v1/namespaces/other/pods/foo", "get||v1|other|pods||foo|"),
        ("HEAD /api/v1/namespaces/other/pods/foo", "get||v1|other|pods||foo|"),
        ("GET /api/v1/pods", "list||v1||pods|||"),
        ("HEAD /api/v1/pods", "list||v1||pods|||"),
        ("GET /api/v1/proxy/namespaces/other/pods/foo", "proxy||v1|other|pods||foo|"),
        ("GET /api/v1/proxy/namespaces/other/pods/foo/subpath/not/a/subresource", "proxy||v1|other|pods||foo|"),
        ("GET /api/v1/watch/pods", "watch||v1||pods|||"),
        ("GET /api/v1/pods?watch=true", "watch||v1||pods|||"),
        ("GET /api/v1/pods?watch=false", "list||v1||pods|||"),
        ("GET /api/v1/watch/namespaces/other/pods", "watch||v1|other|pods|||"),
        ("GET /api/v1/namespaces/other/pods?watch=1", "watch||v1|other|pods|||"),
        ("GET /api/v1/namespaces/other/pods?watch=0", "list||v1|other|pods|||"),
        ("GET /api/v1/namespaces/other/pods/foo/status", "get||v1|other|pods|status|foo|"),
        ("GET /api/v1/namespaces/other/pods/foo/proxy/subpath", "get||v1|other|pods|proxy|foo|subpath"),
        ("PUT /api/v1/namespaces/other/finalize", "update||v1|other|namespaces|finalize|other|"),
        ("PUT /api/v1/namespaces/other/status", "update||v1|other|namespaces|status|other|"),
        ("PATCH /api/v1/namespaces/other/pods/foo", "patch||v1|other|pods||foo|"),
        ("DELETE /api/v1/namespaces/other/pods/foo", "delete||v1|other|pods||foo|"),
        ("POST /api/v1/namespaces/other/pods", "create||v1|other|pods|||"),
        ("DELETE /api/v1/nodes", "deletecollection||v1||nodes|||"),
        ("DELETE /api/v1/namespaces", "deletecollection||v1||namespaces|||"),
        ("DELETE /api/v1/namespaces/other/pods", "deletecollection||v1|other|pods|||"),
        ("DELETE /apis/extensions/v1/namespaces/other/pods", "deletecollection|extensions|v1|other|pods|||"),
        ("POST /apis/extensions/v1/namespaces/other/pods", "create|extensions|v1|other|pods|||"),
        ("POST /apis/extensions/v1beta3/namespaces/other/pods", "create|extensions|v1beta3|other|pods|||"),
    ];
    for (request, wanted) in cases {
        let (method, target) = request.split_once(' ').unwrap();
        assert_eq!(told(method, target), wanted, "{request}");
    }
}

#[test]
fn only_paths_of_resources_are_about_resources() {
    let cases = [
        ("/api/version/resource", true),
        ("/apis/group/version/resource/name/subresource", true),
        ("/api/version/resource/name/subresource", true),
        ("/apis/batch/v1/job", true),
        ("/apis/batch/v1/job/foo", true),
        ("/apis/batch/v1/job/foo/scale", true),
        ("/not-api/version/resource", false),
        ("/apis/extensions/v1beta1", false),
        ("/apis/extensions/v1beta1/", false),
        ("/api/version", false),
        ("/api/version/", false),
        ("/apis/group/version/", false),
        ("/badprefix/version/resource", false),
        ("/apis/version/resource", false),
        ("/api", false),
        ("/", false),
        ("", false),
    ];
    for (path, about) in cases {
        let i = info("GET", path);
        assert_eq!(i.resource_request, about, "{path}");
        if !about {
            assert_eq!((i.verb.as_str(), i.path.as_str()), ("get", path));
        }
    }
}

#[test]
fn selectors_are_read_as_upstream_reads_them() {
    // Method and target -> verb, name, and the fields that authorizers see.
    let cases = [
        ("GET /apis/g/v/resource", "list", "", ""),
        ("GET /apis/g/v/resource?fieldSelector=metadata.name=name1", "list", "name1", "metadata.name=name1"),
        ("GET /apis/g/v/resource?watch=true&fieldSelector=metadata.name=name1", "watch", "name1", "metadata.name=name1"),
        ("GET /apis/g/v/resource?fieldSelector=foo=bar&labelSelector=baz=qux", "list", "", "foo=bar"),
        ("GET /apis/g/v/resource?fieldSelector=metadata.name=name1,foo", "list", "", ""),
        ("GET /apis/g/v/resource?fieldSelector=metadata.name=name1,foo&watch=true", "watch", "", ""),
        ("GET /apis/g/v/resource?fieldSelector=metadata.name=name1,foo&watch=false", "list", "", ""),
        ("DELETE /apis/g/v/resource?fieldSelector=foo=bar&labelSelector=baz=qux", "deletecollection", "", "foo=bar"),
        ("GET /apis/g/v/resource?fieldSelector=metadata.name=foo&fieldSelector=metadata.name=bar", "list", "foo", "metadata.name=foo"),
        ("GET /apis/g/v/resource/name?fieldSelector=foo=bar&labelSelector=foo=bar", "get", "name", ""),
        ("GET /apis/g/v/watch/resource?fieldSelector=metadata.name=foo&labelSelector=foo=bar", "watch", "", ""),
        ("GET /apis/g/v/watch/resource/name?fieldSelector=metadata.name=foo&labelSelector=foo=bar", "watch", "name", ""),
        ("GET /apis/g/v/resource?fieldSelector=metadata.name=a/b", "list", "", "metadata.name=a/b"),
        ("DELETE /apis/g/v/resource?fieldSelector=metadata.name=a", "deletecollection", "", "metadata.name=a"),
    ];
    for (request, verb, name, fields) in cases {
        let (method, target) = request.split_once(' ').unwrap();
        let i = info(method, target);
        assert_eq!((i.verb.as_str(), i.name.as_str()), (verb, name), "{request}");
        assert_eq!(i.authorized_fields().cloned().unwrap_or_default(), Fields::parse(fields).unwrap(), "{request}");
    }
    let labels = info("GET", "/api/v1/pods?labelSelector=foo=bar&labelSelector=foo=baz").selectors.labels;
    assert_eq!(labels, Labels::parse("foo=bar"), "the first of two is the one");
}

#[test]
fn a_name_in_the_path_and_the_selector_must_agree() {
    let fields =
        |selector: &str| info("GET", &format!("/api/v1/watch/namespaces/n/secrets/mine?fieldSelector={selector}")).selectors.fields;
    let mine = Ok(Fields::one("metadata.name", "mine"));
    assert_eq!((fields(""), fields(","), fields("metadata.name=mine")), (mine.clone(), mine.clone(), mine));
    assert_eq!(fields("metadata.name=mine,type=x").unwrap().0.len(), 2);
    for widened in ["metadata.name!=x", "metadata.name=x", "type=x", "metadata.name!=mine"] {
        assert_eq!(fields(widened), Err("fieldSelector metadata.name doesn't match requested name".into()), "{widened}");
    }
}

#[test]
fn what_was_read_of_the_query_is_gone_from_it() {
    let mut query = Query::parse(Some("watch=1&limit=5&fieldSelector=a=b&fieldSelector=c=d&labelSelector=x"));
    RequestInfo::new(&Method::GET, "/api/v1/pods", &mut query).unwrap();
    assert_eq!(["watch", "fieldSelector", "labelSelector", "limit"].map(|key| query.get(key).to_owned()), ["", "", "", "5"]);
}

#[test]
fn odd_paths_have_one_meaning() {
    // Place, resource, name, subresource and rest.
    let cases = [
        ("/api/v1/namespaces/tenant/namespaces/victim", ["tenant", "namespaces", "victim", "", ""]),
        ("/api/v1/namespaces/a/status", ["", "namespaces", "a", "status", ""]),
        ("/api/v1/namespaces/namespaces/pods", ["namespaces", "pods", "", "", ""]),
        ("/api/v1/namespaces/watch/pods/proxy", ["watch", "pods", "proxy", "", ""]),
        ("/api/v1/namespaces//pods", ["", "pods", "", "", ""]),
        ("/api/v1/namespaces/a//pods", ["a", "", "pods", "", ""]),
        ("/api/v1/namespaces/a%2Fpods%2Fb/log", ["a", "pods", "b", "log", ""]),
        ("/api/v1/namespaces/a/../nodes", ["a", "..", "nodes", "", ""]),
        ("/api/v1/namespaces/a/pods//log/", ["a", "pods", "", "log", ""]),
        ("/api/v1/namespaces/a/pods/b/proxy/c//d/", ["a", "pods", "b", "proxy", "c//d/"]),
    ];
    for (target, wanted) in cases {
        let i = info("GET", target);
        assert_eq!([i.place(), &i.resource, &i.name, &i.subresource, &i.rest], wanted, "{target}");
    }
    for unreadable in ["/api/v1/pods/%zz", "/api/v1/pods/%f", "/api/v1/pods/%ff"] {
        assert_eq!(read("GET", unreadable).unwrap_err().code, 400, "{unreadable}");
    }
    assert_eq!(read("GET", "/api/v1/watch").unwrap_err().code, 500);
}

proptest! {
    /// Whatever is sent: it is read without a panic, in one place, and a name is never narrower than what is selected.
    #[test]
    fn whatever_is_sent_has_one_meaning(
        method in select(vec!["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]),
        segments in vec(select(vec!["api", "apis", "v1", "namespaces", "watch", "proxy", "pods", "a", "", "..", "status", "log", "%2F", "%zz", "%61"]), 1..9),
        pairs in vec(
            (select(vec!["fieldSelector", "labelSelector", "watch", "x"]), select(vec!["", "1", "metadata.name=a", "metadata.name!=a", "a=b", ",", "=", "%3D"])),
            0..4,
        ),
    ) {
        let path = format!("/{}", segments.join("/"));
        let query = pairs.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join("&");
        let Ok(i) = read(method, &format!("{path}?{query}")) else { return Ok(()) };
        prop_assert!(i.place().is_empty() || i.place() == i.namespace);
        prop_assert!(i.resource_request || i.place().is_empty());
        if matches!(i.verb.as_str(), "list" | "watch") && !i.name.is_empty() {
            let selected = i.selectors.fields.as_ref().map(|fields| fields.exact(NAME).map(str::to_owned));
            prop_assert!(selected.is_err() || selected == Ok(Some(i.name.clone())), "{i:?}");
        }
        let told = i.authorized_fields();
        prop_assert!(told.is_none() || i.selectors.fields.as_ref().ok() == told);
        let slashed = read(method, &format!("{path}/?{query}")).unwrap();
        let same = |i: RequestInfo| RequestInfo { path: String::new(), rest: i.rest.trim_end_matches('/').to_owned(), ..i };
        prop_assert_eq!(same(i), same(slashed));
    }
}
