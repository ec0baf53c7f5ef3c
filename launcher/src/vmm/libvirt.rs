//! Elements of libvirt's domain XML that connect a VM's NICs to this back end.

use super::{Card, Vm, VmmError, push, utf8};

/// Seconds after which libvirt's QEMU connects again, the least that the attribute can say.
const RECONNECT_S: u16 = 1;

/// The elements for the VM, with a comment on the place of each.
///
/// # Errors
/// A socket's path cannot be expressed.
pub(crate) fn xml(vm: &Vm<'_>) -> Result<String, VmmError> {
    let mut text = String::from(
        "<!-- in <domain>: hawser shares the memory of the VM -->
<memoryBacking>
  <source type='memfd'/>
  <access mode='shared'/>
</memoryBacking>
<!-- in <devices> -->
",
    );
    for card in vm.cards {
        text.push_str(&interface(card)?);
    }
    Ok(text)
}

fn interface(card: &Card<'_>) -> Result<String, VmmError> {
    let path = escape(utf8(card.socket)?);
    let mut text = String::from("<interface type='vhostuser'>\n");
    if let Some(mac) = card.port.mac {
        push(&mut text, format_args!("  <mac address='{mac}'/>\n"));
    }
    // The mode is that of the VMM.
    if card.vmm_listens {
        push(
            &mut text,
            format_args!("  <source type='unix' path='{path}' mode='server'/>\n"),
        );
    } else {
        push(
            &mut text,
            format_args!(
                "  <source type='unix' path='{path}' mode='client'>
    <reconnect enabled='yes' timeout='{RECONNECT_S}'/>
  </source>\n"
            ),
        );
    }
    text.push_str("  <model type='virtio'/>\n");
    let pairs = card.port.queue_pairs.get();
    if pairs > 1 {
        push(&mut text, format_args!("  <driver queues='{pairs}'/>\n"));
    }
    push(&mut text, format_args!("  <mtu size='{}'/>\n", card.port.mtu));
    if let Some(order) = card.device.boot_order {
        push(&mut text, format_args!("  <boot order='{order}'/>\n"));
    }
    if let Some(index) = card.device.acpi_index {
        push(&mut text, format_args!("  <acpi index='{index}'/>\n"));
    }
    text.push_str("</interface>\n");
    Ok(text)
}

/// Text of an attribute in single quotes.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '\'' => escaped.push_str("&apos;"),
            c => escaped.push(c),
        }
    }
    escaped
}
