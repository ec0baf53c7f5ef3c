//! A simulated VM, and the agent that works for it.

use hawser_packet::{MacAddr, MacRange};
use hawser_store::bindings::{Binding, Change, Changes, Epoch, Epochs as _, PortId, Watch as _};
use hawser_store::claim::{AddressClaim, Choice, Claim, ClaimError, MacClaim, claim};
use hawser_store::etcd::{Etcd, EtcdOptions};
use hawser_store::liveness::ProcessId;
use hawser_store::range::{AddressRange, address, number};
use hawser_store::records::{Batch, RecordKey, Records as _};
use hawser_store::{Holder, Lease, Segment, Store as _, VmName};
use hawser_testkit::{Result, failure};
use ipnet::IpNet;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::mpsc::{Receiver, Sender, TryRecvError};
use std::time::Instant;

/// Name of the interface of each VM.
const INTERFACE: &str = "net";
/// Bytes of the state that an agent writes for a VM.
const STATE: usize = 400;
/// Longest wait of a follower before it looks whether it is to end, in nanoseconds.
const TURN: i64 = 100_000_000;

/// A VM that exists in the store only.
#[derive(Clone, Debug)]
pub(super) struct Simulated {
    pub number: usize,
    pub network: usize,
    pub node: usize,
    port: PortId,
}

impl Simulated {
    pub(super) fn new(number: usize, network: usize, node: usize) -> Self {
        Self {
            number,
            network,
            node,
            port: PortId {
                network: format!("tenant{network}/lan"),
                holder: Holder {
                    vm: VmName {
                        namespace: format!("tenant{network}"),
                        name: format!("vm{number}"),
                    },
                    interface: INTERFACE.into(),
                },
            },
        }
    }

    fn claim(&self) -> Result<Claim> {
        let subnet: IpNet = "192.168.0.0/16".parse()?;
        let range = AddressRange {
            subnet,
            first: address(number(subnet.network()) + 2),
            last: address(number(subnet.broadcast()) - 1),
            gateway: Some(address(number(subnet.network()) + 1)),
        };
        Ok(Claim {
            interface: INTERFACE.into(),
            network: self.port.network.clone(),
            segment: Segment::Network(self.port.network.clone()),
            mac: MacClaim::OfAddress,
            addresses: vec![AddressClaim::OneOf(vec![range], Choice::Next)],
        })
    }

    fn binding(&self, lease: &Lease) -> Result<Binding> {
        let node = u32::try_from(self.node)?;
        let mac: MacAddr = lease.mac.ok_or_else(|| failure("the lease has no MAC"))?;
        Ok(Binding {
            process: ProcessId {
                node: format!("n{node}"),
                process: self.port.holder.vm.to_string(),
            },
            mac,
            addresses: lease.addresses.iter().map(IpNet::addr).collect(),
            vtep: SocketAddr::new(IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + node)), 6081),
        })
    }
}

/// A change that a follower has seen, and the time. The first one says that it has listed the network.
pub(super) type Seen = Result<(Epoch, Instant)>;

/// An agent, by its connection.
pub(super) struct Agent(Etcd);

impl Agent {
    pub(super) fn join(options: &EtcdOptions) -> Result<Self> {
        Ok(Self(Etcd::connect(options.clone())?))
    }

    /// Another handle to the same connection.
    pub(super) fn share(&self) -> Self {
        Self(self.0.clone())
    }

    /// Does what an agent does in the store when a VM starts.
    pub(super) fn start(&mut self, machine: &Simulated) -> Result<()> {
        let claims = [machine.claim()?];
        let leases = self
            .0
            .step::<_, ClaimError>(|ledger| claim(ledger, &machine.port.holder.vm, &claims, &[], &MacRange::DEFAULT))?;
        let lease = leases.first().ok_or_else(|| failure("there is no lease"))?;
        let seen = self.0.bound(&machine.port)?.map(|bound| bound.epoch);
        self.0.bind(&machine.port, seen, &machine.binding(lease)?)?;
        let VmName { namespace, name } = &machine.port.holder.vm;
        let key = RecordKey::new(["status", namespace, name]);
        self.0.change(&Batch::default().put(&key, "x".repeat(STATE)))?;
        Ok(())
    }

    /// Binds the port of a VM at the VM's node.
    pub(super) fn rebind(&mut self, machine: &Simulated) -> Result<Epoch> {
        let known = self.0.bound(&machine.port)?;
        let known = known.ok_or_else(|| failure("the port is not bound"))?;
        let lease = self.0.leases(Some(&machine.port.holder.vm))?.pop();
        let lease = lease.ok_or_else(|| failure("there is no lease"))?;
        Ok(self
            .0
            .bind(&machine.port, Some(known.epoch), &machine.binding(&lease)?)?)
    }

    /// Follows the network of a VM and reports changes of the VM's port, until the sender of `end` is dropped.
    pub(super) fn follow(&self, machine: &Simulated, seen: &Sender<Seen>, end: &Receiver<()>) {
        if let Err(error) = self.try_follow(machine, seen, end) {
            // The receiver is gone if another follower has failed.
            let _ = seen.send(Err(error));
        }
    }

    fn try_follow(&self, machine: &Simulated, seen: &Sender<Seen>, end: &Receiver<()>) -> Result<()> {
        let network = &machine.port.network;
        let (_, mut revision) = self.0.bindings(network)?;
        // The first call begins the watch.
        self.0.changes(network, revision)?;
        seen.send(Ok((Epoch(0), Instant::now())))?;
        let wakes = self.0.wakes().ok_or_else(|| failure("the store cannot push"))?;
        while end.try_recv() != Err(TryRecvError::Disconnected) {
            let turn = Timespec {
                tv_sec: 0,
                tv_nsec: TURN,
            };
            poll(&mut [PollFd::from_borrowed_fd(wakes, PollFlags::IN)], Some(&turn))?;
            let mut count = [0; 8];
            // The counter has no value if the time is up.
            let _ = rustix::io::read(wakes, &mut count);
            let Changes::Complete {
                changes,
                revision: next,
            } = self.0.changes(network, revision)?
            else {
                return Err(failure("the watch has a gap"));
            };
            revision = next;
            for change in changes.iter().filter(|change| *change.port() == machine.port) {
                if let Change::Bound(bound) = change {
                    seen.send(Ok((bound.epoch, Instant::now())))?;
                }
            }
        }
        Ok(())
    }
}
