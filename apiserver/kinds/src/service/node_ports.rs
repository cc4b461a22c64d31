//! A Service about to be stored -> the same with its node ports, out of those that are free. Source: `pkg/registry/core/service/storage/alloc.go`
//! (`initNodePorts`, `updateNodePorts`, `updateHealthCheckNodePort`).

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
};

use api::{Gvk, Status, field_errors::FieldErrors};
use serde_json::Value;

use super::{bitmap::Bitmap, defaults::edit_spec, range::reserved, shape};
use crate::common::{Read, edit};

/// Which ports of the range are taken. Pure: whoever changes it writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ports {
    pub range: RangeInclusive<u16>,
    pub taken: Bitmap,
}

/// One write of a Service: what it was, and the source of chance.
pub struct Write<'a> {
    pub old: Option<&'a Value>,
    pub gvk: Gvk,
    pub name: &'a str,
    pub random: &'a mut (dyn FnMut() -> u64 + Send),
}

/// The node ports that are the Service's own.
pub fn owned(service: &Value) -> BTreeSet<i64> {
    let ports = if shape::needs_node_port(service) { shape::node_ports(service) } else { Vec::new() };
    let health = shape::health_check_port(service);
    ports.into_iter().chain((health != 0 && shape::needs_health_check(service)).then_some(health)).collect()
}

/// Whether there is anything to claim or to give back.
pub fn change(service: &Value, old: Option<&Value>) -> bool {
    needs_more(service, old) || owned(service) != old.map(owned).unwrap_or_default()
}

/// Whether there is anything to claim.
pub fn needs_more(service: &Value, old: Option<&Value>) -> bool {
    let unset = || shape::hands_out_node_ports(service) && shape::ports(service).iter().any(|port| shape::node_port(port) == 0);
    let more = || !owned(service).is_subset(&old.map(owned).unwrap_or_default());
    needs_new_health_check(service, old) || unset() || more()
}

impl Ports {
    pub fn new(range: RangeInclusive<u16>) -> Self {
        Self { range, taken: Bitmap::default() }
    }

    /// Takes what the Service needs and gives back what it no longer has.
    ///
    /// # Errors
    /// 422 where what is asked for is taken or out of range; 500 where nothing is left.
    pub fn assign(&mut self, service: &mut Value, write: &mut Write<'_>) -> Result<(), Status> {
        let before = write.old.map(owned).unwrap_or_default();
        if shape::needs_node_port(service) {
            match write.old {
                None => self.first_ports(service, write)?,
                Some(_) => self.changed_ports(service, &before, write)?,
            }
        }
        if needs_new_health_check(service, write.old) {
            self.health_check(service, write)?;
        }
        let after = owned(service);
        before.difference(&after).for_each(|port| self.give_back(*port));
        Ok(())
    }

    /// Ports out of the range are nobody's.
    pub fn take(&mut self, port: i64) -> Result<(), String> {
        let (first, last) = (self.range.start(), self.range.end());
        let at = self.index(port);
        let at = at.ok_or_else(|| format!("provided port is not in the valid range. The range of valid ports is {first}-{last}"))?;
        if self.taken.has(at) {
            return Err("provided port is already allocated".into());
        }
        self.taken.set(at);
        Ok(())
    }

    pub fn give_back(&mut self, port: i64) {
        if let Some(at) = self.index(port) {
            self.taken.clear(at);
        }
    }

    /// Ports of a new Service that share a port number (TCP and UDP) share the node port too.
    fn first_ports(&mut self, service: &mut Value, write: &mut Write<'_>) -> Result<(), Status> {
        let hands_out = shape::hands_out_node_ports(service);
        let wanted = wanted(service);
        let mut of_port: BTreeMap<i64, i64> = BTreeMap::new();
        let mut given = Vec::with_capacity(wanted.len());
        for (i, (port, asked)) in wanted.iter().copied().enumerate() {
            let node = match (asked, of_port.get(&port).copied()) {
                (0, _) if !hands_out => 0,
                (asked, Some(shared)) if asked == 0 || asked == shared => shared,
                (asked, Some(_)) => self.asked(i, asked, write)?,
                (_, None) => {
                    let node = match wanted.iter().find(|(other, node)| *other == port && *node != 0) {
                        Some((_, asked)) => self.asked(i, *asked, write)?,
                        None => self.any("a nodePort", write)?,
                    };
                    of_port.insert(port, node);
                    node
                }
            };
            given.push(node);
        }
        set(service, given);
        Ok(())
    }

    fn changed_ports(&mut self, service: &mut Value, before: &BTreeSet<i64>, write: &mut Write<'_>) -> Result<(), Status> {
        let hands_out = shape::hands_out_node_ports(service);
        let mut had = before.clone();
        let mut given = Vec::new();
        for (i, (_, asked)) in wanted(service).into_iter().enumerate() {
            let node = match asked {
                0 if !hands_out => 0,
                0 => self.any("a nodePort", write)?,
                asked if had.contains(&asked) => asked,
                asked => self.asked(i, asked, write)?,
            };
            had.insert(node);
            given.push(node);
        }
        set(service, given);
        Ok(())
    }

    fn health_check(&mut self, service: &mut Value, write: &mut Write<'_>) -> Result<(), Status> {
        let number = match shape::health_check_port(service) {
            0 => self.any("a HealthCheck NodePort 0", write)?,
            asked => {
                let refuse = |why| Status::internal(format!("failed to allocate requested HealthCheck NodePort {asked}: {why}"));
                self.take(asked).map_err(refuse)?;
                asked
            }
        };
        edit_spec(service, |spec| edit::set(spec, "healthCheckNodePort", number));
        Ok(())
    }

    fn asked(&mut self, i: usize, port: i64, write: &Write<'_>) -> Result<i64, Status> {
        let refuse = |why: String| {
            let mut causes = FieldErrors::default();
            causes.invalid(format!("spec.ports[{i}].nodePort"), port, &why);
            Status::invalid(&write.gvk, write.name, &causes)
        };
        self.take(port).map_err(refuse)?;
        Ok(port)
    }

    /// The upper part of the range first (KEP-3668).
    fn any(&mut self, what: &str, write: &mut Write<'_>) -> Result<i64, Status> {
        let size = self.range.len();
        let band = usize::try_from(reserved(u64::try_from(size).unwrap_or(u64::MAX), 32, 128)).unwrap_or_default();
        let found = self.taken.free_in(band..size, (write.random)()).or_else(|| self.taken.free_in(0..band, (write.random)()));
        let at = found.ok_or_else(|| Status::internal(format!("failed to allocate {what}: range is full")))?;
        self.taken.set(at);
        Ok(i64::from(*self.range.start()) + i64::try_from(at).unwrap_or_default())
    }

    fn index(&self, port: i64) -> Option<usize> {
        let port = u16::try_from(port).ok().filter(|port| self.range.contains(port))?;
        Some(usize::from(port - self.range.start()))
    }
}

/// Port and node port of each entry; 0 where not asked for.
fn wanted(service: &Value) -> Vec<(i64, i64)> {
    shape::ports(service).iter().map(|port| (port.int("port").unwrap_or(0), shape::node_port(port))).collect()
}

fn set(service: &mut Value, given: Vec<i64>) {
    edit_spec(service, |spec| {
        edit::each(spec, "ports").zip(given).filter(|(_, node)| *node != 0).for_each(|(port, node)| edit::set(port, "nodePort", node));
    });
}

/// Once it is set it stays for as long as it is needed.
fn needs_new_health_check(service: &Value, old: Option<&Value>) -> bool {
    shape::needs_health_check(service) && !old.is_some_and(shape::needs_health_check)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn assign(ports: &mut Ports, service: &mut Value, old: Option<&Value>) -> Result<(), String> {
        let mut write = Write { old, gvk: Gvk::new("", "v1", "Service"), name: "s", random: &mut || 0 };
        ports.assign(service, &mut write).map_err(|status| status.message)
    }

    fn given(service: &Value) -> Vec<i64> {
        shape::ports(service).iter().map(shape::node_port).collect()
    }

    fn of(kind: &str, ports: &[(i64, i64)]) -> Value {
        let ports: Vec<Value> = ports.iter().map(|(port, node)| json!({"port": port, "nodePort": node})).collect();
        json!({"spec": {"type": kind, "ports": ports, "allocateLoadBalancerNodePorts": true}})
    }

    fn taken(ports: &Ports) -> Vec<i64> {
        (30000..=30009).filter(|port| ports.index(*port).is_some_and(|at| ports.taken.has(at))).collect()
    }

    #[test]
    fn entries_of_one_port_share_a_node_port() {
        let cases = [
            (vec![(53, 0), (53, 0), (80, 0)], vec![30000, 30000, 30001]),
            (vec![(53, 0), (53, 30005)], vec![30005, 30005]),
            (vec![(53, 30005), (53, 0)], vec![30005, 30005]),
            (vec![(53, 30005), (53, 30006), (53, 0)], vec![30005, 30006, 30005]),
        ];
        for (asked, wanted) in cases {
            let mut ports = Ports::new(30000..=30009);
            let mut service = of("NodePort", &asked);
            assign(&mut ports, &mut service, None).unwrap();
            assert_eq!(given(&service), wanted, "{asked:?}");
            assert_eq!(taken(&ports), wanted.iter().copied().collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>(), "{asked:?}");
            assert_eq!(owned(&service), wanted.iter().copied().collect());
            assert!(!change(&service, Some(&service)));
        }
    }

    #[test]
    fn what_is_left_is_given_back_and_what_never_was_ours_is_not() {
        let mut ports = Ports::new(30000..=30009);
        let mut service = of("LoadBalancer", &[(80, 30001), (81, 30002)]);
        service["spec"]["externalTrafficPolicy"] = "Local".into();
        assign(&mut ports, &mut service, None).unwrap();
        let health = shape::health_check_port(&service);
        assert_eq!(taken(&ports), [30000, 30001, 30002]);
        assert_eq!(health, 30000);
        let mut fewer = of("NodePort", &[(80, 30001), (82, 0)]);
        assert!(change(&fewer, Some(&service)));
        assign(&mut ports, &mut fewer, Some(&service)).unwrap();
        assert_eq!((given(&fewer), taken(&ports)), (vec![30001, 30003], vec![30001, 30003]));
        let mut none = of("ClusterIP", &[(80, 0)]);
        assign(&mut ports, &mut none, Some(&fewer)).unwrap();
        assert_eq!(taken(&ports), [0; 0]);
        // A number that an ExternalName Service carries is nobody's: who has it comes first.
        assign(&mut ports, &mut of("NodePort", &[(80, 30001)]), None).unwrap();
        let external = of("ExternalName", &[(80, 30001)]);
        let refused = assign(&mut ports, &mut of("NodePort", &[(80, 30001)]), Some(&external)).unwrap_err();
        assert!(refused.ends_with("spec.ports[0].nodePort: Invalid value: 30001: provided port is already allocated"), "{refused}");
    }

    #[test]
    fn a_full_range_says_so_and_the_band_is_given_last() {
        let mut ports = Ports::new(30000..=30039);
        let order: Vec<i64> = (0..40)
            .map(|_| {
                let mut service = of("NodePort", &[(80, 0)]);
                assign(&mut ports, &mut service, None).unwrap();
                given(&service)[0]
            })
            .collect();
        assert_eq!(order, (30016..=30039).chain(30000..=30015).collect::<Vec<_>>());
        let refused = assign(&mut ports, &mut of("NodePort", &[(80, 0)]), None).unwrap_err();
        assert!(refused.ends_with("failed to allocate a nodePort: range is full"), "{refused}");
        let refused = assign(&mut ports, &mut of("NodePort", &[(80, 80)]), None).unwrap_err();
        assert!(refused.ends_with("provided port is not in the valid range. The range of valid ports is 30000-30039"), "{refused}");
    }

    #[test]
    fn a_balancer_that_hands_out_none_gets_what_it_asks_for() {
        let mut ports = Ports::new(30000..=30009);
        let mut service = of("LoadBalancer", &[(80, 0), (81, 30005)]);
        service["spec"]["allocateLoadBalancerNodePorts"] = false.into();
        assign(&mut ports, &mut service, None).unwrap();
        assert_eq!((given(&service), taken(&ports)), (vec![0, 30005], vec![30005]));
    }
}
