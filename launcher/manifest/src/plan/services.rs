//! Finds the Services that select the VM, and the guest's port for each.

use super::Planner;
use crate::objects::interface::{Binding, Interface};
use crate::objects::service::{Service, ServicePort, TargetPort};
use crate::objects::vm::Vm;
use hawser_config::{Forward, Transport};
use std::num::NonZeroU16;

impl Planner<'_> {
    /// The Services that select the VM.
    pub(super) fn services(&self) -> impl Iterator<Item = &Service> {
        self.manifests
            .services
            .iter()
            .filter(|service| leads_to(service, self.vm))
    }

    /// Reports the problems of Services that select the VM, and Services of its namespace that select
    /// no VM.
    pub(super) fn check_services(&self) {
        for service in self.services() {
            self.report.adopt(&service.problems);
        }
        let leads_nowhere = |service: &&Service| {
            let machines = &self.manifests.machines;
            service.namespace == self.vm.namespace
                && !service.selector.is_empty()
                && !self.has_slices(service)
                && !machines.iter().any(|vm| leads_to(service, vm))
        };
        for service in self.manifests.services.iter().filter(leads_nowhere) {
            let labels = service.selector.iter().map(|(key, value)| format!("{key}={value}"));
            let message = format!(
                "Service {}/{} leads nowhere: no VM of the files has the labels {}",
                service.namespace,
                service.name,
                labels.collect::<Vec<_>>().join(", ")
            );
            self.report.warn(&service.spot, message);
        }
    }

    /// True if an EndpointSlice of the files names the Service.
    fn has_slices(&self, service: &Service) -> bool {
        let mut slices = self.manifests.endpoint_slices.iter();
        slices.any(|slice| slice.namespace == service.namespace && slice.service == service.name)
    }

    pub(super) fn service_forward(
        &self,
        interface: &Interface,
        service: &Service,
        port: &ServicePort,
    ) -> Option<Forward> {
        let Some(host_port) = port.node_port else {
            let message = "not served: the cluster would choose a nodePort; give one";
            self.report.warn(&port.spot, message);
            return None;
        };
        let guest_port = self.target(interface, port)?;
        Some(Forward {
            transport: port.transport,
            bind: service.bind,
            host_port,
            guest_port,
            count: NonZeroU16::MIN,
        })
    }

    /// The guest's port for a port of a Service.
    fn target(&self, interface: &Interface, port: &ServicePort) -> Option<u16> {
        let ports = interface.ports.as_deref();
        // With other bindings the list only gives ports their names.
        let has_every_port = !matches!(interface.binding, Some(Binding::Masquerade | Binding::Passt));
        let open = |transport: Transport, port: u16| {
            has_every_port || ports.is_none_or(|ports| ports.iter().any(|range| range.contains(transport, port)))
        };
        match &port.target {
            TargetPort::Number(number) if open(port.transport, *number) => Some(*number),
            TargetPort::Number(number) => {
                let message = format!(
                    "targetPort {number} is not among the ports of interface {:?}: add it there, or give another port",
                    interface.name
                );
                self.report.error(&port.spot, message);
                None
            }
            TargetPort::Name(name) => {
                let named = |range: &&crate::objects::ports::PortRange| {
                    range.name.as_ref() == Some(name) && range.transport == port.transport
                };
                let found = ports.unwrap_or_default().iter().find(named);
                if found.is_none() {
                    let message = format!(
                        "targetPort {name:?} is not the name of a {} port of interface {:?}: name one there, or \
                            give its number",
                        port.transport, interface.name
                    );
                    self.report.error(&port.spot, message);
                }
                found.map(|range| range.first)
            }
        }
    }
}

fn leads_to(service: &Service, vm: &Vm) -> bool {
    let mut selector = service.selector.iter();
    service.namespace == vm.namespace
        && !service.selector.is_empty()
        && selector.all(|(key, value)| vm.labels.get(key) == Some(value))
}
