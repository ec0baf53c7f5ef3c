//! `/v1/plug`, `/v1/unplug`, `/v1/link`: plugs and unplugs NICs, and sets their links up or down.

use super::http::{Answer, Document, Method, Request};
use super::openapi::Operation;
use super::router::Route;
use super::status::LinkState;
use super::{Context, Refusal};
use crate::hotplug::{Changes, Coming, Hotplug, HotplugError, Outcome, Plug};
use crate::vmm::running::RunningError;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Path for plugging NICs by manifests.
pub(crate) const PLUG: &str = "/v1/plug";
/// Path for unplugging a NIC.
pub(crate) const UNPLUG: &str = "/v1/unplug";
/// Path for setting a link up or down.
pub(crate) const LINK: &str = "/v1/link";

/// The routes of this group.
pub(crate) const ROUTES: &[Route] = &[
    Route {
        method: Method::Post,
        path: PLUG,
        handler: |context, request| Ok(later(hotplug(context)?.plug(body(request)?))),
        describe: |generator| {
            Operation::new("Changes the VM's NICs to match its manifests")
                .takes::<Plug>(generator)
                .answers::<Changes>(generator)
        },
    },
    Route {
        method: Method::Post,
        path: UNPLUG,
        handler: |context, request| {
            let Unplug { interface } = body(request)?;
            Ok(later(hotplug(context)?.unplug(interface)))
        },
        describe: |generator| {
            Operation::new("Unplugs a NIC from the VM when the guest releases it")
                .takes::<Unplug>(generator)
                .answers::<Changes>(generator)
        },
    },
    Route {
        method: Method::Post,
        path: LINK,
        handler: |context, request| Ok(link(context, body(request)?)),
        describe: |generator| {
            Operation::new("Sets the link that the guest sees on a NIC up or down")
                .takes::<Link>(generator)
                .answers::<Changes>(generator)
        },
    },
];

/// The NIC to unplug.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Unplug {
    /// Name of the interface.
    pub interface: String,
}

/// The desired state of a link.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Link {
    /// Name of the interface.
    pub interface: String,
    /// Desired state, up or down.
    pub state: LinkState,
}

fn link(context: &Context, wanted: Link) -> Answer {
    let Link { interface, state } = wanted;
    let up = state == LinkState::Up;
    if let Some(hotplug) = &context.hotplug {
        return later(hotplug.set_link(interface, up));
    }
    let Some(nic) = context.machine.nic(&interface) else {
        return Answer::Whole(answer(Err(HotplugError::Unknown(interface))));
    };
    let mut changes = Changes::default();
    if nic.is_link_wanted() != up {
        nic.set_link(up);
        let list = if up { &mut changes.up } else { &mut changes.down };
        list.push(interface);
    }
    Answer::Whole(answer(Ok(changes)))
}

fn body<T: DeserializeOwned>(request: &Request) -> Result<T, Refusal> {
    serde_json::from_slice(&request.body).map_err(|error| {
        Refusal::bad_request(
            format!("the body does not match the description: {error}"),
            "see \
            /v1/openapi.json",
        )
    })
}

fn hotplug(context: &Context) -> Result<&Hotplug, Refusal> {
    let remedy = "serve the VM's manifests with hawser run";
    let refusal = || Refusal::conflict("this process serves one NIC of its command line", remedy);
    context.hotplug.as_ref().ok_or_else(refusal)
}

/// The answer to a change that is in progress.
fn later(coming: Coming) -> Answer {
    Answer::Later(Box::pin(async { answer(coming.await) }))
}

/// The answer to a change that was made, or the reason why it was not.
fn answer(outcome: Outcome) -> Document {
    match outcome {
        Ok(changes) => super::document(200, &changes),
        Err(error) => refusal(&error).into(),
    }
}

fn refusal(error: &HotplugError) -> Refusal {
    let remedy = "nothing was changed";
    match error {
        HotplugError::Manifests(_) | HotplugError::OtherVm { .. } => {
            Refusal::bad_request(error, "correct the manifests")
        }
        HotplugError::Unknown(_) => Refusal::not_found(error, "hawser status lists the existing ones"),
        HotplugError::Changed(_) => Refusal::conflict(error, "unplug it first"),
        HotplugError::NoVmm => Refusal::conflict(error, "hawser unplug and hawser link need none"),
        HotplugError::Port(_) => Refusal::conflict(error, remedy),
        HotplugError::Vmm(vmm) => match vmm {
            vmm if vmm.is_unreachable() => Refusal::internal(
                error,
                "check that the VMM is running and accepts \
                commands there",
            ),
            RunningError::Qemu(_) | RunningError::Answer { .. } => Refusal::internal(error, remedy),
            _ => Refusal::conflict(error, remedy),
        },
        HotplugError::Ending => Refusal::internal(error, "start it again"),
    }
}
