//! Tests that docs/manifests.md agrees with the tables, and the tables with the code.

use super::examples::sources;
use super::problems;
use crate::objects::fields::ALL;
use crate::objects::reader::{Field, ObjectType, Treatment, Unknown, trace};
use std::fmt::Write as _;
use std::path::Path;

const BEGIN: &str = "<!-- fields: made by a test, see below -->\n";
const END: &str = "<!-- end of fields -->\n";

fn tables() -> String {
    let mut text = String::new();
    for object in ALL {
        table(&mut text, object);
    }
    text
}

fn table(text: &mut String, object: &ObjectType) {
    let _ = write!(text, "\n### {}\n\n| field | | |\n|---|---|---|\n", object.name);
    for field in object.fields {
        let treatment = match field.treatment {
            Treatment::Honoured => "honoured",
            Treatment::Later => "**refused** for now",
            Treatment::Refused => "**refused**",
            Treatment::Ignored => "ignored, with a warning",
            Treatment::PassedOver => "passed over",
        };
        let _ = writeln!(
            text,
            "| `{}` | {treatment} | {} |",
            field.name,
            field.note.replace('|', "\\|")
        );
    }
    let others = match object.unknown {
        Unknown::Refused => "**refused**",
        Unknown::Ignored => "ignored, with a warning",
        Unknown::PassedOver => "passed over",
    };
    let _ = writeln!(text, "| others | {others} | |");
}

#[test]
fn the_tables_of_the_documentation_are_those_of_the_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/manifests.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (head, rest) = page.split_once(BEGIN).unwrap();
    let (written, tail) = rest.split_once(END).unwrap();
    let made = tables() + "\n";
    if written != made && std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, format!("{head}{BEGIN}{made}{END}{tail}")).unwrap();
    } else {
        assert!(
            written == made,
            "{} is not up to date: run this test with UPDATE_DOCS=1",
            path.display()
        );
    }
}

#[test]
fn every_field_called_honoured_is_read() {
    for source in sources() {
        problems(&source.text);
    }
    problems(EVERYTHING);
    let asked = trace::all();
    for object in ALL {
        // These two fields are read earlier, because they select the table.
        let chooses = |f: &&Field| matches!(f.name, "kind" | "type");
        let is_read = |f: &&Field| matches!(f.treatment, Treatment::Honoured | Treatment::Later);
        for field in object.fields.iter().filter(is_read).filter(|f| !chooses(f)) {
            let row = (object.name, field.name.to_owned());
            assert!(
                asked.contains(&row),
                "{} {} is called honoured, and nothing reads it",
                object.name,
                field.name
            );
        }
    }
}

/// Objects that do not occur in the examples.
const EVERYTHING: &str = r#"
apiVersion: kubevirt.io/v1
kind: VirtualMachineInstance
metadata: {name: w}
spec:
  domain: {devices: {interfaces: [{name: default, masquerade: {}}]}}
  networks: [{name: default, pod: {}}]
  volumes:
  - name: v1
    cloudInitConfigDrive:
      networkData: |
        network:
          version: 1
          config:
          - type: physical
            subnets:
            - {type: static, address: 10.0.2.2, routes: [{destination: 0.0.0.0/0, gateway: 10.0.2.1}]}
            - {type: dhcp, routes: [{network: 0.0.0.0, netmask: 0.0.0.0, gateway: 10.0.2.1}]}
  - name: v2
    cloudInitNoCloud:
      networkData: |
        version: 2
        ethernets: {a: {match: {name: "e*"}, dhcp4: true, routes: [{to: default, via: 10.0.2.1}]}}
        bridges: {br0: {interfaces: [b]}}
---
apiVersion: v1
kind: Namespace
metadata: {name: default}
---
apiVersion: v1
kind: Service
metadata: {name: s}
spec: {type: LoadBalancer, loadBalancerSourceRanges: [10.0.0.0/8], ipFamilies: [IPv4], ipFamilyPolicy: SingleStack,
  sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 10}}, clusterIP: 10.96.0.1,
  selector: {a: b}, ports: [{port: 1, name: a, nodePort: 2}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: s-1, labels: {kubernetes.io/service-name: s}}
addressType: IPv4
endpoints: [{addresses: [10.0.0.1], conditions: {ready: true, serving: true, terminating: false}}]
ports: [{name: a, port: 1, protocol: TCP}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p}
spec: {podSelector: {matchLabels: {a: b}, matchExpressions: [{key: a, operator: In, values: [b]}]}}
---
apiVersion: k8s.cni.cncf.io/v1beta2
kind: MultiNetworkPolicy
metadata: {name: p}
spec: {podSelector: {}}
---
apiVersion: policy.networking.k8s.io/v1alpha1
kind: AdminNetworkPolicy
metadata: {name: p}
spec: {subject: {namespaces: {}}}
---
apiVersion: policy.networking.k8s.io/v1alpha1
kind: BaselineAdminNetworkPolicy
metadata: {name: default}
spec: {subject: {pods: {namespaceSelector: {}, podSelector: {}}}}
---
apiVersion: k8s.ovn.org/v1
kind: EgressFirewall
metadata: {name: default}
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: p}
---
apiVersion: k8s.ovn.org/v1
kind: UserDefinedNetwork
metadata: {name: u}
spec: {topology: Layer2, layer2: {role: Secondary, ipam: {mode: Enabled, lifecycle: Persistent}}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: kubemacpool-mac-range-config}
data: {RANGE_START: "02:00:00:00:00:00", RANGE_END: 02:ff:ff:ff:ff:ff}
---
apiVersion: k8s.ovn.org/v1
kind: UserDefinedNetwork
metadata: {name: v}
spec: {topology: Layer3, layer3: {role: Secondary, subnets: [{cidr: 10.0.0.0/16}]}}
---
apiVersion: k8s.ovn.org/v1
kind: ClusterUserDefinedNetwork
metadata: {name: c}
spec: {network: {topology: Localnet, localnet: {role: Secondary, subnets: [10.0.0.0/24], physicalNetworkName: p,
  vlan: {mode: Access, access: {id: 7}}}}}
---
apiVersion: k8s.ovn.org/v1
kind: ClusterUserDefinedNetwork
metadata: {name: c2}
spec: {network: {topology: Layer2, layer2: {role: Secondary}}}
---
apiVersion: k8s.ovn.org/v1
kind: ClusterUserDefinedNetwork
metadata: {name: c3}
spec: {network: {topology: Layer3, layer3: {role: Secondary}}}
---
apiVersion: sriovnetwork.openshift.io/v1
kind: SriovNetwork
metadata: {name: s}
spec:
  resourceName: r
  ipam: '{"type": "static", "addresses": [{"address": "10.0.0.2/24"}], "routes": [{"dst": "10.0.0.0/8"}]}'
---
apiVersion: nmstate.io/v1
kind: NodeNetworkConfigurationPolicy
metadata: {name: br1}
spec:
  desiredState:
    interfaces:
    - name: br1
      type: linux-bridge
      state: up
      mtu: 1500
      mac-address: "52:54:00:00:00:01"
      bridge: {options: {stp: {enabled: false}}, port: [{name: eth1}]}
      ipv4: {enabled: true, dhcp: false, address: [{ip: 192.0.2.1, prefix-length: 24}]}
      ipv6: {enabled: false, autoconf: false}
    - name: eth1.5
      type: vlan
      vlan: {base-iface: eth1, id: 5}
---
apiVersion: sriovnetwork.openshift.io/v1
kind: SriovNetworkNodePolicy
metadata: {name: p}
spec: {resourceName: r, numVfs: 4, nicSelector: {pfNames: [eth0#0-1]}}
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: a}
spec: {config: '{"type": "tap", "bridge": "br0", "ipam": {},
  "dns": {"nameservers": ["192.0.2.53"], "domain": "example.com", "search": ["example.com"]}}'}
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: f}
spec: {config: '{"type": "macvlan", "master": "e", "dns": {}}'}
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: g}
spec:
  config: |
    {"type": "ipvlan", "master": "e", "dns": {}, "args": {"cni": {"mac": "02:00:00:00:00:01", "ips": ["10.0.0.2/24"]}},
     "runtimeConfig": {"mac": "02:00:00:00:00:01", "ips": ["10.0.0.2/24"], "ipRanges": [[{"subnet": "10.0.0.0/24"}]]},
     "ipam": {"type": "whereabouts", "range": "10.0.0.0/24", "dns": {},
      "ipRanges": [{"range": "10.1.0.0/24", "range_start": "10.1.0.1", "range_end": "10.1.0.2", "exclude": []}]}}
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: i}
spec: {config: '{"type": "macvlan", "master": "e", "runtimeConfig": {}}'}
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: j}
spec: {config: '{"type": "tap", "bridge": "e", "args": {}, "runtimeConfig": {}}'}
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: h}
spec: {config: '{"type": "bridge", "dns": {}}'}
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: b, annotations: {k8s.v1.cni.cncf.io/resourceName: macvtap.network.kubevirt.io/eth0}}
spec: {config: '{"type": "macvtap"}'}
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: d}
spec: {config: '{"type": "sriov", "ipam": {"type": "host-local", "subnet": "10.0.0.0/24"}}'}
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: e}
spec: {config: '{"type": "ovn-k8s-cni-overlay", "name": "e", "topology": "localnet", "ipam": {}}'}
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: l}
spec: {config: '{"name": "l", "plugins": [{"type": "ovn-k8s-cni-overlay", "topology": "layer2"}]}'}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: macvtap-deviceplugin-config}
data: {DP_MACVTAP_CONF: '[{"name": "eth0", "lowerDevice": "eth0", "mode": "bridge"}]'}
---
apiVersion: k8s.cni.cncf.io/v1alpha1
kind: IPAMClaim
metadata: {name: vm.x}
spec: {network: net, interface: i}
status: {ips: [10.0.0.2/24]}
---
apiVersion: kubevirt.io/v1
kind: VirtualMachineInstance
metadata: {name: vm}
spec:
  domain:
    resources: {limits: {memory: 1Gi}, requests: {cpu: 1500m}}
    devices:
      networkInterfaceMultiqueue: true
      interfaces:
      - {name: x, binding: {name: l2bridge}, teaming: {type: transient, persistent: y}}
  networks:
  - {name: x, multus: {networkName: a}}
"#;
