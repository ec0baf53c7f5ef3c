//! Finds Services with a clusterIP and their EndpointSlices, in the form that a gateway needs.
//!
//! A Service without a slice is left out: packets to its address leave through the pod's network.

use super::endpoint_slice::{EndpointSlice, EndpointState, Origin};
use super::report::{Report, Severity};
use super::service::{Service, ServicePort as Port};
use super::{Manifests, SourceFile};
use hawser_config::ServicePort;
use std::collections::BTreeSet;
use std::net::SocketAddr;

/// The ports of the Services in `manifests`, for a guest on the primary network of this name, or on any. Errors of the
/// objects that are used go to `report`.
pub fn of(manifests: &Manifests, network: Option<&str>, report: &Report) -> Vec<ServicePort> {
    let services = manifests.services.iter();
    let services = services.filter(|service| !service.cluster_ips.is_empty());
    let ports = services.flat_map(|service| {
        let slices = slices_of(&manifests.endpoint_slices, service, network);
        if !slices.is_empty() {
            report.adopt(&service.problems);
            slices.iter().for_each(|slice| report.adopt(&slice.problems));
        }
        let ports = service.ports.iter().filter(|_| !slices.is_empty());
        let ports: Vec<ServicePort> = ports.map(|port| of_port(service, port, &slices)).collect();
        ports
    });
    ports.collect()
}

/// The ports of the Services in a file of `--services`, for a guest on the primary network of this name, or on any.
///
/// # Errors
/// The first error of the file, with its line and field.
pub fn parse(file: SourceFile, network: Option<&str>) -> Result<Vec<ServicePort>, String> {
    let report = Report::default();
    let manifests = super::read(&[file], super::metadata::DEFAULT_NAMESPACE, &report);
    let ports = of(&manifests, network, &report);
    let (errors, _) = report.into_parts();
    match errors.first() {
        Some(error) if error.severity == Severity::Error => Err(error.without_severity()),
        _ => Ok(ports),
    }
}

/// The slices of a Service. If some have addresses of a primary network, the others are on a network that the guest is
/// not on.
fn slices_of<'a>(all: &'a [EndpointSlice], service: &Service, network: Option<&str>) -> Vec<&'a EndpointSlice> {
    let is_named = |slice: &&EndpointSlice| slice.namespace == service.namespace && slice.service == service.name;
    let (mirrored, plain): (Vec<_>, Vec<_>) = all
        .iter()
        .filter(is_named)
        .partition(|slice| slice.origin != Origin::Plain);
    if mirrored.is_empty() {
        return plain;
    }
    let is_here = |slice: &&EndpointSlice| match (&slice.origin, network) {
        (Origin::Mirrored(Some(of)), Some(network)) => of == network,
        _ => true,
    };
    mirrored.into_iter().filter(is_here).collect()
}

fn of_port(service: &Service, port: &Port, slices: &[&EndpointSlice]) -> ServicePort {
    let in_state = |state: EndpointState| -> BTreeSet<SocketAddr> {
        let all = slices.iter().flat_map(|slice| {
            let ports = slice.ports.iter();
            let numbers = ports.filter(|at| at.name == port.name && at.transport == port.transport);
            let endpoints = slice.endpoints.iter().filter(move |endpoint| endpoint.state == state);
            let addresses = endpoints.flat_map(|endpoint| endpoint.addresses.iter().copied());
            let numbers: Vec<u16> = numbers.map(|at| at.port).collect();
            addresses.flat_map(move |address| {
                numbers
                    .clone()
                    .into_iter()
                    .map(move |port| SocketAddr::new(address, port))
            })
        });
        all.collect()
    };
    let mut endpoints = in_state(EndpointState::Ready);
    if endpoints.is_empty() {
        endpoints = in_state(EndpointState::Terminating);
    }
    ServicePort {
        addresses: service.cluster_ips.clone(),
        transport: port.transport,
        port: port.port,
        endpoints: endpoints.into_iter().collect(),
        affinity_secs: service.affinity_secs,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hawser_config::Transport;

    const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: blue}
spec:
  selector: {app: web}
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10, 'fd00:96::a']
  sessionAffinity: ClientIP
  sessionAffinityConfig: {clientIP: {timeoutSeconds: 30}}
  ports:
  - {name: http, port: 80, targetPort: 8080}
  - {name: dns, port: 53, protocol: UDP}
";

    fn slice(label: &str, more: &str, rest: &str) -> String {
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: web-1\n  namespace: blue\n  \
             labels: {{{label}: web}}\n{more}addressType: IPv4\nports: [{{name: http, port: 8080}}, {{name: dns, \
             protocol: UDP, port: 5353}}]\n{rest}"
        )
    }

    fn plain(rest: &str) -> String {
        slice("kubernetes.io/service-name", "", rest)
    }

    fn parse(text: &str) -> Result<Vec<ServicePort>, String> {
        let file = SourceFile {
            name: "services.yaml".into(),
            text: text.into(),
        };
        super::parse(file, Some("blue_net"))
    }

    fn endpoints(text: &str) -> Vec<Vec<String>> {
        let of = |port: &ServicePort| port.endpoints.iter().map(ToString::to_string).collect();
        parse(text).unwrap().iter().map(of).collect()
    }

    #[test]
    fn a_service_has_its_addresses_affinity_and_the_endpoints_of_its_ports() {
        let text = SERVICE.to_owned() + &plain("endpoints: [{addresses: [10.100.0.12]}, {addresses: [10.100.0.11]}]\n");
        let ports = parse(&text).unwrap();
        assert_eq!(ports.len(), 2);
        assert_eq!(
            ports[0],
            ServicePort {
                addresses: vec!["10.96.0.10".parse().unwrap(), "fd00:96::a".parse().unwrap()],
                transport: Transport::Tcp,
                port: 80,
                endpoints: vec!["10.100.0.11:8080".parse().unwrap(), "10.100.0.12:8080".parse().unwrap()],
                affinity_secs: std::num::NonZeroU32::new(30),
            }
        );
        assert_eq!((ports[1].transport, ports[1].port), (Transport::Udp, 53));
        assert_eq!(ports[1].endpoints.len(), 2);
        // This is a list as kubectl prints it.
        let json = r#"{"apiVersion": "v1", "kind": "List", "items": []}"#;
        assert_eq!(parse(json).unwrap(), []);
    }

    #[test]
    fn slices_of_the_network_replace_those_of_the_cluster() {
        let cluster = plain("endpoints: [{addresses: [10.244.0.5]}]\n");
        let own = |network: &str, address: &str| {
            slice(
                "k8s.ovn.org/service-name",
                &format!("  annotations: {{k8s.ovn.org/endpointslice-network: {network}}}\n"),
                &format!("endpoints: [{{addresses: [{address}]}}]\n"),
            )
        };
        let text = SERVICE.to_owned() + &cluster + &own("blue_net", "10.100.0.7") + &own("other", "10.100.0.8");
        assert_eq!(endpoints(&text)[0], ["10.100.0.7:8080"]);
        assert_eq!(endpoints(&(SERVICE.to_owned() + &cluster))[0], ["10.244.0.5:8080"]);
        // A slice of another namespace belongs to another Service.
        let elsewhere = cluster.replace("namespace: blue", "namespace: red");
        assert_eq!(parse(&(SERVICE.to_owned() + &elsewhere)).unwrap(), []);
    }

    #[test]
    fn endpoints_take_connections_as_their_conditions_say() {
        let with = |conditions: &[&str]| {
            let endpoints = conditions
                .iter()
                .enumerate()
                .map(|(n, conditions)| format!("- {{addresses: [10.100.0.{n}], conditions: {{{conditions}}}}}\n"));
            let text = SERVICE.to_owned() + &plain(&format!("endpoints:\n{}", endpoints.collect::<String>()));
            self::endpoints(&text).swap_remove(0)
        };
        let dying = "ready: false, serving: true, terminating: true";
        assert_eq!(with(&["ready: true", "ready: false", dying]), ["10.100.0.0:8080"]);
        assert_eq!(with(&["ready: false", dying]), ["10.100.0.1:8080"]);
        assert_eq!(with(&["ready: false"]).len(), 0);
        assert_eq!(with(&["serving: true"]), ["10.100.0.0:8080"]);
    }

    #[test]
    fn what_the_api_would_refuse_is_refused_with_its_place() {
        for (rest, expected) in [
            (
                "endpoints: [{addresses: [127.0.0.1]}]\n",
                "services.yaml:23: endpoints[0].addresses[0]: \"127.0.0.1\": an endpoint cannot be at a loopback",
            ),
            (
                "endpoints: [{addresses: ['fd00::1']}]\n",
                "it is not of the family of addressType",
            ),
            (
                "endpoints: [{addresses: [web]}]\n",
                "give an address such as 10.100.0.11",
            ),
        ] {
            let error = parse(&(SERVICE.to_owned() + &plain(rest))).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        let service = SERVICE.replace("timeoutSeconds: 30", "timeoutSeconds: 86401");
        let error = parse(&(service + &plain("endpoints: []\n"))).unwrap_err();
        assert!(
            error.contains("sessionAffinityConfig.clientIP.timeoutSeconds"),
            "{error}"
        );
        let headless = SERVICE.replace("10.96.0.10", "None").replace(", 'fd00:96::a'", "");
        assert_eq!(parse(&(headless + &plain("endpoints: []\n"))).unwrap(), []);
    }
}
