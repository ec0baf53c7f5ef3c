//! User, groups and capabilities of a thread.
//!
//! In Linux each thread has its own credentials. The C library's setuid(2) hides that by interrupting every thread,
//! which a filtered thread would not survive. So each thread drops its own privileges, by direct system calls.

use rustix::io::Errno;
use rustix::process::{Gid, Uid, geteuid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_keep_capabilities, set_no_new_privs, set_thread_groups,
    set_thread_res_gid, set_thread_res_uid,
};
use std::fs;
use std::io;

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";

/// The user to switch to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct User {
    /// User ID.
    pub uid: u32,
    /// Group ID of the only group.
    pub gid: u32,
}

/// Parses `NAME|UID[:GROUP|GID]`.
///
/// # Errors
/// The user or group does not exist.
pub(crate) fn parse_user(text: &str) -> Result<User, String> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    resolve(text, &read(PASSWD), &read(GROUP))
}

fn resolve(text: &str, passwd: &str, groups: &str) -> Result<User, String> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let entry = entry(passwd, user);
    let uid = number(user).or_else(|| number(entry.as_ref()?.get(2)?));
    let uid = uid.ok_or_else(|| format!("there is no user {user:?} in {PASSWD}: name one, or give a number"))?;
    let gid = match group {
        Some(group) => group_id(group, groups)?,
        // A number without a group implies the group with the same number, as on most systems.
        None => entry.and_then(|entry| number(entry.get(3)?)).unwrap_or(uid),
    };
    Ok(User { uid, gid })
}

/// Parses `NAME|GID`.
///
/// # Errors
/// The group does not exist.
pub(crate) fn parse_group(text: &str) -> Result<u32, String> {
    group_id(text, &fs::read_to_string(GROUP).unwrap_or_default())
}

fn group_id(text: &str, groups: &str) -> Result<u32, String> {
    number(text)
        .or_else(|| number(entry(groups, text)?.get(2)?))
        .ok_or_else(|| format!("there is no group {text:?} in {GROUP}: name one, or give a number"))
}

/// An ID. The largest number means none in system calls.
fn number(text: &str) -> Option<u32> {
    text.parse::<u32>().ok().filter(|&id| id != u32::MAX)
}

/// The fields of the line for `name`.
fn entry<'a>(table: &'a str, name: &str) -> Option<Vec<&'a str>> {
    let mut lines = table.lines().map(|line| line.split(':').collect::<Vec<_>>());
    lines.find(|fields| fields[0] == name)
}

/// Switches the calling thread to `user`, and drops all capabilities except those in `keep` that it has. No later call
/// can regain them.
///
/// A thread that already runs as `user` and cannot switch keeps its identity. It inherited that from a thread that has
/// dropped its privileges, even if it is root.
///
/// The thread becomes a member of `groups`, and of no others, if it may choose them.
///
/// # Errors
/// The error of the kernel. EPERM: only root can switch users.
pub(super) fn give_up(user: Option<User>, groups: &[Gid], keep: CapabilitySet) -> io::Result<()> {
    let had = capabilities(None)?;
    let kept = had.permitted & keep;
    forget_bounds(kept);
    if let Some(user) = user {
        let may_change = had.permitted.contains(CapabilitySet::SETUID | CapabilitySet::SETGID);
        if may_change || geteuid().as_raw() != user.uid {
            become_user(user, groups)?;
        }
    } else if !groups.is_empty() && had.permitted.contains(CapabilitySet::SETGID) {
        set_thread_groups(groups)?;
    }
    let sets = CapabilitySets {
        effective: kept,
        permitted: kept,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, sets)?;
    // The set is already empty, unless a service manager filled it.
    match clear_ambient_capability_set() {
        Ok(()) | Err(Errno::INVAL) => {}
        Err(error) => return Err(error.into()),
    }
    set_no_new_privs(true)?;
    Ok(())
}

/// Empties the bounding set, which limits the capabilities of an executed program. This process executes no programs,
/// so nothing depends on the set. Without CAP_SETPCAP, the set stays as it is.
fn forget_bounds(kept: CapabilitySet) {
    /// Number of possible capabilities, which is the number of bits in a set.
    const NUMBERS: u32 = u64::BITS;
    for bit in 0..NUMBERS {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        if kept.contains(capability) {
            continue;
        }
        match capability_is_in_bounding_set(capability) {
            Ok(true) => {}
            Ok(false) => continue,
            // This capability does not exist, nor does any above it.
            Err(_) => return,
        }
        if remove_capability_from_bounding_set(capability).is_err() {
            return;
        }
    }
}

fn become_user(user: User, groups: &[Gid]) -> io::Result<()> {
    // Otherwise the switch of users would drop the capabilities that should be kept.
    set_keep_capabilities(true)?;
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    set_thread_groups(groups)?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const USERS: &str = "root:x:0:0:root:/root:/bin/bash\nvm:x:1001:1002::/:/usr/sbin/nologin\n";
    const GROUPS: &str = "root:x:0:\nkvm:x:105:\n";

    #[test]
    fn users_have_names_or_numbers_and_a_group_of_their_own_or_another() {
        let user = |text: &str| resolve(text, USERS, GROUPS).map(|user| (user.uid, user.gid));
        assert_eq!(user("vm"), Ok((1001, 1002)));
        assert_eq!(user("vm:kvm"), Ok((1001, 105)));
        assert_eq!(user("77"), Ok((77, 77)));
        assert_eq!(user("77:105"), Ok((77, 105)));
        for (wrong, word) in [
            ("nobody-here", "user"),
            ("vm:none", "group"),
            ("4294967295", "user"),
            ("", "user"),
        ] {
            assert!(user(wrong).is_err_and(|e| e.contains(word)), "{wrong}");
        }
    }
}
