//! A whole front end: negotiation, memory and rings, in the order of real front ends.

use super::wire::code;
use super::{Nic, NicConfig, Ram, Region, Ring, RingHandle, RingLayout, TransmitLayout, Wire, feature};
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use vhost::vhost_user::message::{VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserProtocolFeatures as Protocol};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};

/// Number of bytes of the configuration space to read. It is more than any device has.
const CONFIG_LEN: u32 = 24;

/// The front end to imitate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// QEMU 10: enables rings before SET_FEATURES, and sends memory region by region.
    Qemu,
    /// cloud-hypervisor, with the `vhost` crate's own `Frontend`.
    CloudHypervisor,
    /// User-Mode Linux 7: requests an acknowledgement of every request, and has no MQ.
    Uml,
    /// A front end without protocol features: only a kick starts a ring.
    Plain,
}

impl Order {
    /// All front ends.
    pub const ALL: [Self; 4] = [Self::Qemu, Self::CloudHypervisor, Self::Uml, Self::Plain];

    /// The protocol features that the front end supports.
    fn protocol_features(self) -> u64 {
        let known = match self {
            Self::Qemu => {
                Protocol::MQ
                    | Protocol::LOG_SHMFD
                    | Protocol::RARP
                    | Protocol::REPLY_ACK
                    | Protocol::MTU
                    | Protocol::RESET_DEVICE
                    | Protocol::CONFIGURE_MEM_SLOTS
            }
            Self::CloudHypervisor => {
                Protocol::MQ
                    | Protocol::CONFIGURE_MEM_SLOTS
                    | Protocol::REPLY_ACK
                    | Protocol::LOG_SHMFD
                    | Protocol::DEVICE_STATE
                    | Protocol::CONFIG
            }
            Self::Uml => {
                Protocol::REPLY_ACK | Protocol::BACKEND_REQ | Protocol::CONFIG | Protocol::INBAND_NOTIFICATIONS
            }
            Self::Plain => Protocol::empty(),
        };
        known.bits()
    }
}

/// Properties of the VM and its driver.
#[derive(Clone, Debug)]
pub struct VmmConfig {
    /// The front end to imitate.
    pub order: Order,
    /// Offered features that the guest's driver accepts.
    pub features: u64,
    /// Number of ring pairs to use.
    pub queue_pairs: u16,
    /// Number of descriptors of each ring.
    pub ring_size: u16,
    /// Guest memory: address and length of each region.
    pub memory: Vec<(u64, u64)>,
    /// MTU given by QEMU's `host_mtu=`.
    pub mtu: Option<u16>,
    /// Length of each receive buffer in bytes.
    pub receive_buffer: u32,
    /// Length of each transmit buffer in bytes.
    pub transmit_buffer: u32,
    /// Layout of frames in transmit chains.
    pub layout: TransmitLayout,
}

impl Default for VmmConfig {
    /// A Linux guest of 32 MiB in two regions behind QEMU.
    fn default() -> Self {
        Self {
            order: Order::Qemu,
            features: feature::LINUX,
            queue_pairs: 1,
            ring_size: 256,
            memory: vec![(0, 24 << 20), (4 << 30, 8 << 20)],
            mtu: None,
            receive_buffer: 4096,
            transmit_buffer: 2048,
            layout: TransmitLayout::Together,
        }
    }
}

/// A connected front end with its guest.
pub struct Vmm {
    /// Connection to the back end.
    pub wire: Wire,
    /// Memory of the guest.
    pub ram: Arc<Ram>,
    /// The driver of each pair of rings. Receive rings are not filled yet.
    pub nics: Vec<Nic>,
    /// Virtio features that were negotiated.
    pub features: u64,
    /// Protocol features that were negotiated.
    pub protocol: u64,
    /// Configuration space of the device, if the front end has read it.
    pub config_space: Vec<u8>,
    config: VmmConfig,
}

impl std::fmt::Debug for Vmm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vmm").field("nics", &self.nics).finish_non_exhaustive()
    }
}

impl Vmm {
    /// Connects a new VM.
    ///
    /// # Errors
    /// The refusal of the back end, or `UnexpectedEof` if it disconnects.
    pub fn connect(stream: UnixStream, config: VmmConfig) -> io::Result<Self> {
        let ram = Arc::new(Ram::new(&config.memory)?);
        let mut vmm = Self {
            wire: Wire::new(stream)?,
            ram,
            nics: Vec::new(),
            features: 0,
            protocol: 0,
            config_space: Vec::new(),
            config,
        };
        vmm.negotiate()?;
        Ok(vmm)
    }

    /// Connects the same VM with its rings unchanged, as a front end does when its back end has restarted. The guest
    /// notices nothing.
    ///
    /// # Errors
    /// As for [`connect`](Self::connect).
    pub fn reconnect(&mut self, stream: UnixStream) -> io::Result<()> {
        self.wire = Wire::new(stream)?;
        self.negotiate()?;
        for nic in &mut self.nics {
            for ring in [&mut nic.receive, &mut nic.transmit] {
                ring.reconnected();
                ring.kick.write(1)?;
            }
        }
        Ok(())
    }

    fn negotiate(&mut self) -> io::Result<()> {
        match self.config.order {
            Order::Qemu => self.negotiate_as_qemu(),
            Order::CloudHypervisor => self.negotiate_as_cloud_hypervisor(),
            Order::Uml => self.negotiate_as_uml(),
            Order::Plain => self.negotiate_plainly(),
        }
    }

    fn negotiate_as_qemu(&mut self) -> io::Result<()> {
        let offered = self.ask_features()?;
        if self.protocol & Protocol::MQ.bits() != 0 {
            let pairs = self.wire.ask(code::GET_QUEUE_NUM, &[])?.value()?;
            if pairs < self.config.queue_pairs.into() {
                return Err(io::Error::other(format!("only {pairs} queue pairs are supported")));
            }
        }
        if self.protocol & Protocol::CONFIGURE_MEM_SLOTS.bits() != 0 {
            self.wire.ask(code::GET_MAX_MEM_SLOTS, &[])?;
        }
        self.wire.tell(code::SET_OWNER, &[], &[])?;
        self.make_driver(offered)?;
        for (index, ring) in self.rings() {
            self.wire.tell_event(code::SET_VRING_CALL, index, Some(&ring.call))?;
            self.wire.tell_event(code::SET_VRING_ERR, index, Some(&ring.error))?;
        }
        for (index, _) in self.rings() {
            self.wire.tell_ring(code::SET_VRING_ENABLE, index, 1)?;
        }
        if let Some(mtu) = self.config.mtu {
            self.wire.tell_u64(code::NET_SET_MTU, mtu.into())?;
        }
        self.wire.tell_u64(code::SET_FEATURES, self.features)?;
        for region in self.ram.regions() {
            self.wire.add_mem_region(region, self.ram.fd())?;
        }
        self.start_all()
    }

    /// Follows `virtio-devices/src/vhost_user` of cloud-hypervisor.
    fn negotiate_as_cloud_hypervisor(&mut self) -> io::Result<()> {
        let vrings = u64::from(self.config.queue_pairs) * 2;
        let mut vu = Frontend::from_stream(self.wire.try_clone_stream()?, vrings);
        let err = io::Error::other::<vhost::Error>;
        vu.set_owner().map_err(err)?;
        let offered = vu.get_features().map_err(err)?;
        let known = Protocol::from_bits_truncate(self.config.order.protocol_features());
        let protocol = vu.get_protocol_features().map_err(err)? & known;
        vu.set_protocol_features(protocol).map_err(err)?;
        self.protocol = protocol.bits();
        if protocol.contains(Protocol::REPLY_ACK) {
            vu.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
            self.wire.acknowledged = true;
        }
        if protocol.contains(Protocol::MQ) && vu.get_queue_num().map_err(err)? < vrings {
            return Err(io::Error::other("requested too many queues"));
        }
        if protocol.contains(Protocol::CONFIG) {
            let (flags, room) = (VhostUserConfigFlags::WRITABLE, [0; CONFIG_LEN as usize]);
            let (_, config) = vu.get_config(0, CONFIG_LEN, flags, &room).map_err(err)?;
            self.config_space = config;
        }
        self.make_driver(offered)?;
        vu.set_features(self.features).map_err(err)?;
        let regions: Vec<_> = self
            .ram
            .regions()
            .iter()
            .map(|r| region_info(r, self.ram.fd()))
            .collect();
        vu.set_mem_table(&regions).map_err(err)?;
        for (index, ring) in self.rings() {
            vu.set_vring_num(usize_of(index), ring.layout().size).map_err(err)?;
        }
        for (index, ring) in self.rings() {
            let (i, layout) = (usize_of(index), ring.layout());
            let config = VringConfigData {
                queue_max_size: layout.size,
                queue_size: layout.size,
                flags: 0,
                desc_table_addr: self.ram.user_address(layout.descriptors),
                used_ring_addr: self.ram.user_address(layout.used),
                avail_ring_addr: self.ram.user_address(layout.available),
                log_addr: None,
            };
            vu.set_vring_addr(i, &config).map_err(err)?;
            // This uses the available index, however much the device has used by then, as cloud-hypervisor does.
            vu.set_vring_base(i, ring.avail_idx()).map_err(err)?;
            vu.set_vring_call(i, &ring.call).map_err(err)?;
            vu.set_vring_kick(i, &ring.kick).map_err(err)?;
        }
        for (index, _) in self.rings() {
            vu.set_vring_enable(usize_of(index), true).map_err(err)?;
        }
        Ok(())
    }

    fn negotiate_as_uml(&mut self) -> io::Result<()> {
        self.wire.tell(code::SET_OWNER, &[], &[])?;
        let offered = self.ask_features()?;
        self.config_space = self.wire.get_config(CONFIG_LEN)?;
        self.make_driver(offered)?;
        self.wire.tell_u64(code::SET_FEATURES, self.features)?;
        self.wire.set_mem_table(self.ram.regions(), self.ram.fd())?;
        for (index, ring) in self.rings() {
            self.wire.tell_event(code::SET_VRING_CALL, index, Some(&ring.call))?;
            self.set_up_addresses(index, ring.layout(), 0)?;
        }
        for (index, ring) in self.rings() {
            self.wire.tell_event(code::SET_VRING_KICK, index, Some(&ring.kick))?;
            self.wire.tell_ring(code::SET_VRING_ENABLE, index, 1)?;
        }
        Ok(())
    }

    fn negotiate_plainly(&mut self) -> io::Result<()> {
        let offered = self.wire.ask(code::GET_FEATURES, &[])?.value()?;
        self.wire.tell(code::SET_OWNER, &[], &[])?;
        self.make_driver(offered & !feature::PROTOCOL_FEATURES)?;
        self.wire.tell_u64(code::SET_FEATURES, self.features)?;
        self.wire.set_mem_table(self.ram.regions(), self.ram.fd())?;
        self.start_all()
    }

    /// Negotiates virtio features, then protocol features. Returns the offered virtio features.
    fn ask_features(&mut self) -> io::Result<u64> {
        let offered = self.wire.ask(code::GET_FEATURES, &[])?.value()?;
        let protocol = self.wire.ask(code::GET_PROTOCOL_FEATURES, &[])?.value()?;
        self.protocol = protocol & self.config.order.protocol_features();
        self.wire.tell_u64(code::SET_PROTOCOL_FEATURES, self.protocol)?;
        self.wire.acknowledged = self.protocol & Protocol::REPLY_ACK.bits() != 0;
        Ok(offered)
    }

    /// Takes the guest's steps between feature negotiation and DRIVER_OK, once.
    fn make_driver(&mut self, offered: u64) -> io::Result<()> {
        self.features = offered & (self.config.features | feature::PROTOCOL_FEATURES);
        if self.nics.is_empty() {
            self.reload_driver(self.config.ring_size)?;
        }
        Ok(())
    }

    /// Creates new rings and buffers, like a driver that is loaded again. The device does not know them yet.
    ///
    /// # Errors
    /// No event descriptor is left.
    pub fn reload_driver(&mut self, ring_size: u16) -> io::Result<()> {
        let nic = NicConfig {
            ring_size,
            receive_buffer: self.config.receive_buffer,
            transmit_buffer: self.config.transmit_buffer,
            layout: self.config.layout,
            mergeable: self.features & feature::MRG_RXBUF != 0,
            event_idx: self.features & feature::EVENT_IDX != 0,
        };
        let pairs = 0..self.config.queue_pairs;
        self.nics = pairs.map(|_| Nic::new(&self.ram, nic)).collect::<io::Result<_>>()?;
        Ok(())
    }

    /// All rings with their vhost-user index.
    pub fn rings(&self) -> impl Iterator<Item = (u32, &Ring)> {
        let rings = self.nics.iter().flat_map(|nic| [&nic.receive, &nic.transmit]);
        (0..).zip(rings)
    }

    /// Starts a ring at the device's current index, with NUM, BASE, ADDR, KICK and CALL.
    ///
    /// # Errors
    /// As for [`connect`](Self::connect).
    pub fn set_up_ring(&self, index: u32, ring: &Ring) -> io::Result<()> {
        self.start_ring(index, &ring.handle()?, ring.device_idx())
    }

    /// Starts all rings at the device's current index.
    ///
    /// # Errors
    /// As for [`connect`](Self::connect).
    pub fn start_all(&self) -> io::Result<()> {
        self.rings().try_for_each(|(index, ring)| self.set_up_ring(index, ring))
    }

    /// Stops all rings, and returns the index of each.
    ///
    /// # Errors
    /// As for [`connect`](Self::connect).
    pub fn stop_all(&self) -> io::Result<Vec<u16>> {
        self.rings().map(|(index, _)| self.wire.get_vring_base(index)).collect()
    }

    /// Starts a ring at `base` without its driver, with NUM, BASE, ADDR, KICK and CALL.
    ///
    /// # Errors
    /// As for [`connect`](Self::connect).
    pub fn start_ring(&self, index: u32, ring: &RingHandle, base: u16) -> io::Result<()> {
        self.set_up_addresses(index, ring.layout, base)?;
        self.wire.tell_event(code::SET_VRING_KICK, index, Some(&ring.kick))?;
        self.wire.tell_event(code::SET_VRING_CALL, index, Some(&ring.call))
    }

    fn set_up_addresses(&self, index: u32, layout: RingLayout, base: u16) -> io::Result<()> {
        self.wire.tell_ring(code::SET_VRING_NUM, index, layout.size.into())?;
        self.wire.tell_ring(code::SET_VRING_BASE, index, base.into())?;
        self.set_addresses(index, layout)
    }

    /// SET_VRING_ADDR
    ///
    /// # Errors
    /// See [`connect`](Self::connect).
    pub fn set_addresses(&self, index: u32, layout: RingLayout) -> io::Result<()> {
        let mut body = [index, 0].map(u32::to_ne_bytes).concat();
        for at in [layout.descriptors, layout.used, layout.available] {
            body.extend_from_slice(&self.ram.user_address(at).to_ne_bytes());
        }
        body.extend_from_slice(&[0; 8]);
        self.wire.tell(code::SET_VRING_ADDR, &body, &[])
    }

    /// Fills all receive rings.
    ///
    /// # Errors
    /// A kick fails.
    pub fn post_all(&mut self) -> io::Result<()> {
        self.nics.iter_mut().try_for_each(|nic| nic.post(usize::MAX).map(drop))
    }
}

fn usize_of(index: u32) -> usize {
    usize::try_from(index).expect("a ring index")
}

fn region_info(region: &Region, file: i32) -> VhostUserMemoryRegionInfo {
    VhostUserMemoryRegionInfo {
        guest_phys_addr: region.guest,
        memory_size: region.len,
        userspace_addr: region.host,
        mmap_offset: region.offset,
        mmap_handle: file,
    }
}
