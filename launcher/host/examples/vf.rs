//! Passes a VF as hawser does, for the tests of the SR-IOV lab, without a VM and without manifests.
//!
//! ```text
//! vf pass FOLDER VF [ATTRIBUTE…]       passes the VF until standard input ends; the journal is in FOLDER
//! vf recover FOLDER                    undoes what a killed process left
//! vf set LINK NUMBER ATTRIBUTE…        sets attributes and reads them back
//! vf metrics SOCKET                    prints the metrics of the hawser whose API listens there
//! ```
//!
//! An attribute is written as in the journal: `{"vlan":{"id":7,"qos":3,"protocol":"customer"}}`, `{"trust":true}`.

use hawser_host::journal::{self, Journal};
use hawser_host::netlink::Netlink;
use hawser_host::passthrough;
use hawser_host::pci::Pci;
use hawser_host::virtual_function::Attribute;
use std::error::Error;
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() {
    if let Err(error) = run() {
        eprintln!("{error}");
        std::process::exit(1);
    }
}

fn run() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut netlink = Netlink::open()?;
    match &words[..] {
        ["pass", folder, vf, attributes @ ..] => {
            journal::recover(Path::new(folder));
            let (pci, asked) = (Pci::default(), parse(attributes)?);
            passthrough::check_segment(&pci, &mut netlink, vf.parse()?, &asked)?;
            let survey = passthrough::survey(&pci, &mut netlink, vf.parse()?, &asked)?;
            let mut journal = Journal::begin(Path::new(folder))?;
            let passed = survey.pass(&pci, &mut netlink, &mut journal)?;
            println!("passed: {}", passed.times);
            io::stdin().read_to_end(&mut Vec::new())?;
        }
        ["recover", folder] => journal::recover(Path::new(folder)),
        ["set", link, number, attributes @ ..] => {
            let link = netlink.link_named(link)?.ok_or("no such link")?;
            for attribute in parse(attributes)? {
                netlink.set_attribute(link.index, number.parse()?, attribute)?;
            }
            println!("{:?}", netlink.virtual_function(link.index, number.parse()?)?);
        }
        ["metrics", socket] => {
            let mut api = UnixStream::connect(socket)?;
            api.write_all(b"GET /v1/metrics HTTP/1.1\r\nHost: hawser\r\nConnection: close\r\n\r\n")?;
            io::copy(&mut api, &mut io::stdout())?;
        }
        _ => return Err("see the comment at the top of this program".into()),
    }
    Ok(())
}

fn parse(attributes: &[&str]) -> Result<Vec<Attribute>> {
    attributes.iter().map(|text| Ok(serde_json::from_str(text)?)).collect()
}
