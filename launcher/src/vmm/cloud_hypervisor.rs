//! Changes the NICs of a running cloud-hypervisor over its HTTP API (`--api-socket`).
//!
//! Removing a device is a request to the guest. The device tree shows when the removal is complete, so it is polled.

use super::running::{Patience, RunningError};
use super::{Card, Passed, cloud_hypervisor_card, cloud_hypervisor_name};
use crate::http_client::{self, Request};
use hyper::Method;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// Interval at which the device tree is polled.
const LOOK: Duration = Duration::from_millis(100);
/// Longest wait for the head of a response, and for its body.
const PATIENCE: Duration = Duration::from_secs(10);
/// Maximum length of a response body in bytes.
const ANSWER_MAX: usize = 4 << 20;

/// Client of cloud-hypervisor's API.
#[derive(Debug)]
pub(crate) struct CloudHypervisor(PathBuf);

impl CloudHypervisor {
    /// A client of the API socket at `path`.
    pub(crate) fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Adds a NIC.
    ///
    /// # Errors
    /// Errors of the socket or the API.
    pub(crate) fn plug(&mut self, card: &Card<'_>) -> Result<(), RunningError> {
        // The API does not accept anything that the command line cannot express.
        cloud_hypervisor_card(card).map_err(RunningError::Card)?;
        let mut net = json!({
            "id": cloud_hypervisor_name(card.port.name),
            "vhost_user": true,
            "vhost_socket": card.socket,
            "vhost_mode": if card.vmm_listens { "Server" } else { "Client" },
            "num_queues": 2 * card.port.queue_pairs.get(),
            "mtu": card.port.mtu,
        });
        if let Some(mac) = card.port.mac {
            net["mac"] = mac.to_string().into();
        }
        self.ask(Method::PUT, "vm.add-net", &net).map(drop)
    }

    /// Adds a virtual function.
    ///
    /// # Errors
    /// Errors of the socket or the API.
    pub(crate) fn plug_passed(&mut self, passed: &Passed<'_>) -> Result<(), RunningError> {
        let device = json!({"id": cloud_hypervisor_name(passed.name), "path": super::sysfs_path(passed)});
        self.ask(Method::PUT, "vm.add-device", &device).map(drop)
    }

    /// Removes a NIC and waits until the guest has released it. A missing NIC is not an error.
    ///
    /// # Errors
    /// Errors of the socket or the API, and [`RunningError::Kept`].
    pub(crate) fn unplug(&mut self, port: &str, patience: &Patience) -> Result<(), RunningError> {
        let id = cloud_hypervisor_name(port);
        let deadline = Instant::now() + patience.whole;
        if !self.has_device(&id)? {
            return Ok(());
        }
        self.ask(Method::PUT, "vm.remove-device", &json!({"id": id}))?;
        while self.has_device(&id)? {
            if Instant::now() >= deadline {
                return Err(RunningError::Kept(port.to_owned(), patience.whole));
            }
            thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Presses the VM's power button.
    ///
    /// # Errors
    /// Errors of the socket or the API.
    pub(crate) fn power_down(&mut self) -> Result<(), RunningError> {
        self.ask(Method::PUT, "vm.power-button", &Value::Null).map(drop)
    }

    fn has_device(&mut self, id: &str) -> Result<bool, RunningError> {
        let info = self.ask(Method::GET, "vm.info", &Value::Null)?;
        Ok(info["device_tree"].get(id).is_some())
    }

    fn ask(&mut self, method: Method, what: &str, body: &Value) -> Result<Value, RunningError> {
        let target = format!("/api/v1/{what}");
        let request = Request {
            method,
            target: &target,
            body: if body.is_null() {
                Vec::new()
            } else {
                body.to_string().into_bytes()
            },
            timeout: Some(PATIENCE),
        };
        let response = http_client::send(&self.0, request).map_err(RunningError::CloudHypervisor)?;
        let status = response.status;
        let body = response
            .into_body(ANSWER_MAX, PATIENCE)
            .map_err(RunningError::CloudHypervisor)?;
        if !(200..300).contains(&status) {
            let why = String::from_utf8_lossy(&body).trim().to_owned();
            return Err(RunningError::Answer {
                what: what.to_owned(),
                status,
                why,
            });
        }
        Ok(serde_json::from_slice(&body).unwrap_or_default())
    }
}
