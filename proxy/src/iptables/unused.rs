//! Tables that iptables has left without a rule -> taken out of the kernel.
//!
//! iptables of the nft kind makes a table with its chains for the first rule, and keeps both after the last. They cost every packet on the machine
//! its way through connection tracking: a third of what an event to a watcher on loopback costs (docs/performance.md).

use serde_json::Value;

use super::exec::run;
use crate::family::Family;

/// The chains that iptables makes with a table.
const CHAINS: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];

/// Those tables that we use, and only where nothing is in them. Where there is no `nft`, or iptables is of the old kind, there are none.
///
/// A rule that another program adds between the look and the deletion, some milliseconds while skiff is reset, would go too.
pub async fn remove(family: Family) {
    let ip = match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    };
    for table in ["filter", "nat"] {
        let listed = run("nft", &["--json", "list", "table", ip, table], "").await;
        if listed.is_ok_and(|text| is_unused(&text))
            && let Err(error) = run("nft", &["delete", "table", ip, table], "").await
        {
            tracing::debug!(%error, table, "failed to delete empty iptables table");
        }
    }
}

/// Nothing but the chains that iptables makes, which let all pass.
fn is_unused(listed: &str) -> bool {
    let parsed: Value = serde_json::from_str(listed).unwrap_or_default();
    let Some(all) = parsed["nftables"].as_array() else { return false };
    all.iter().all(|item| {
        let lets_pass =
            |chain: &Value| CHAINS.iter().any(|name| chain["name"] == *name) && chain["hook"].is_string() && chain["policy"] == "accept";
        item.get("metainfo").is_some() || item.get("table").is_some() || item.get("chain").is_some_and(lets_pass)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_empty_tables_are_unused() {
        let head = r#"{"metainfo":{"version":"1.0.6"}},{"table":{"family":"ip","name":"nat","handle":1}}"#;
        let chain = |more: &str| format!(r#",{{"chain":{{"family":"ip","table":"nat","name":"OUTPUT","handle":1{more}}}}}"#);
        let base = chain(r#","type":"nat","hook":"output","prio":-100,"policy":"accept""#);
        let cases = [
            (String::new(), true),
            (base.clone(), true),
            (chain(r#","type":"nat","hook":"output","prio":-100,"policy":"drop""#), false),
            (base.replace("OUTPUT", "mine"), false),
            (base.clone() + &chain(""), false),
            (base + r#",{"rule":{"family":"ip","table":"nat","chain":"OUTPUT","handle":2,"expr":[]}}"#, false),
        ];
        for (items, unused) in cases {
            assert_eq!(is_unused(&format!(r#"{{"nftables":[{head}{items}]}}"#)), unused, "{items}");
        }
        assert!(!is_unused("") && !is_unused("{}"));
    }
}
