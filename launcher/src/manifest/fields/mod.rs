//! The tables: every field hawser knows of, and what becomes of it. The documentation
//! (docs/manifests.md) is made from them; the readers may read only what they call
//! honoured, and a test sees to it that they read all of that.

pub mod cni;
pub mod kubevirt;
pub mod network;

/// Every table, in the order of the documentation.
#[cfg(test)]
pub const ALL: &[&super::reader::ObjectType] = &[
    &kubevirt::VIRTUAL_MACHINE,
    &kubevirt::METADATA,
    &kubevirt::VM_SPEC,
    &kubevirt::TEMPLATE,
    &kubevirt::VMI_SPEC,
    &kubevirt::DOMAIN,
    &kubevirt::CPU,
    &kubevirt::RESOURCES,
    &kubevirt::DEVICES,
    &kubevirt::INTERFACE,
    &kubevirt::BINDING,
    &kubevirt::PORT,
    &kubevirt::PORT_RANGE,
    &kubevirt::DHCP_OPTIONS,
    &kubevirt::PRIVATE_OPTION,
    &kubevirt::NETWORK,
    &kubevirt::POD_NETWORK,
    &kubevirt::MULTUS_NETWORK,
    &network::SERVICE,
    &network::SERVICE_SPEC,
    &network::SERVICE_PORT,
    &network::MAC_POOL,
    &network::MAC_POOL_DATA,
    &network::ATTACHMENT,
    &network::ATTACHMENT_SPEC,
    &cni::CONF_LIST,
    &cni::BRIDGE,
    &cni::VLAN_TRUNK,
    &cni::MACVLAN,
    &cni::IPVLAN,
    &cni::TAP,
    &cni::MACVTAP,
    &cni::SRIOV,
    &cni::OVN,
    &cni::NAMES,
    &cni::NO_IPAM,
    &cni::HOST_LOCAL,
    &cni::HOST_LOCAL_RANGE,
    &cni::STATIC,
    &cni::STATIC_ADDRESS,
    &cni::ROUTE,
    &cni::DHCP,
    &network::USER_DEFINED,
    &network::USER_DEFINED_SPEC,
    &network::CLUSTER_USER_DEFINED,
    &network::CLUSTER_USER_DEFINED_SPEC,
    &network::CLUSTER_NETWORK,
    &network::LAYER2,
    &network::LAYER3,
    &network::LOCALNET,
    &network::SRIOV_NETWORK,
    &network::SRIOV_NETWORK_SPEC,
];
